#!/usr/bin/env bash
# Students shrunk from the cifar10 recipe's teacher: inherited against fresh weights, one run for each criterion,
# and MNIST at a twentieth of the parameters. Some hours on two cores; interrupted runs are resumed.
#
# Run: bash benchmarks/shrink_students.sh CIFAR10 MNIST.npz OUT
set -euo pipefail
cifar=$(realpath "$1") mnist=$(realpath "$2")
mkdir -p "$3" && cd "$3"
shift='data.augment=[{kind: flip}, {kind: shift, pixels: 4}]'
cifar10=(--recipe cifar10 --data "$cifar")

kd train-teacher "${cifar10[@]}" --batch-size 128 --epochs 12 --set "$shift" --out teacher --resume
for keep in 0.3 0.5; do
    for start in inherited fresh; do
        kd recipes show cifar10 | sed "s/^  model: {kind: zoo, name: cnn, width: 32}$/  model: {kind: shrunk, keep: $keep}\n  start: $start/" > "$start-$keep.yaml"
    done
    pair=(--recipe "./inherited-$keep.yaml" --recipe "./fresh-$keep.yaml" --teacher teacher --data "$cifar")
    kd compare "${pair[@]}" --limit 0.1 --out "compared-$keep" --resume
done
kd compare "${pair[@]/0.5/0.3}" --set teacher.views=4 --out compared-0.3-all --resume
for importance in activation taylor bn_scale l1 l2 fpgm random; do
    kd distill "${cifar10[@]}" --teacher teacher --limit 0.1 --out "importance-$importance" --resume \
        --set "student.model={kind: shrunk, keep: 0.3, importance: $importance}" --set student.start=inherited
done

python - <<'P'
import keras
from keras import layers

keras.utils.set_random_seed(0)
keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(256, 3, strides=2, padding="same"),
        layers.LeakyReLU(negative_slope=0.2),
        layers.MaxPooling2D(2, strides=1, padding="same"),
        layers.Conv2D(512, 3, strides=2, padding="same"),
        layers.Flatten(),
        layers.Dense(10),
    ]
).save("documentation.keras")
P
kd train-teacher --recipe mnist --teacher documentation.keras --data "$mnist" --epochs 3 --batch-size 128 \
    --set 'data.augment=[]' --set teacher.views=1 --set train.optimizer.learning_rate=1e-3 --out mnist-teacher --resume
kd shrink mnist-teacher --data "$mnist" --max-params 71500 --out twentieth.keras --overwrite
for seed in 0 1 2; do
    kd distill --teacher mnist-teacher --student twentieth.keras --data "$mnist" --epochs 5 --seed "$seed" \
        --set 'train.schedule={kind: cosine, warmup: 0.05}' --out "twentieth-$seed" --resume
done
