"""The shipped recipes on MNIST: the Keras documentation's student under one teacher, over several seeds.

Run: kd train-teacher --recipe mnist --out runs/mnist-teacher          (99.58 % here, 342 s on two cores)
     python benchmarks/mnist_recipes.py --teacher runs/mnist-teacher   (about 20 minutes on two cores)

Without a recipe the student learns from labels alone, with the same seeds, batches, steps and selection. The test
split is read once a run; best weights are chosen on validation.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import kdcli
from kdcli.lazy import keras

RECIPES = {
    "labels alone": {"losses": [{"kind": "labels"}]},
    "soft-targets": "soft-targets",
    "soft-labels": "soft-labels",
    "feature": "feature",
    "feature-kl": "feature-kl",
    "combined": "combined",
}


def save_student(path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.MaxPooling2D(2, strides=1, padding="same"),
            layers.Conv2D(32, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        student = Path(folder) / "student.keras"
        save_student(student)
        for name in arguments.recipes:
            results[name] = []
            for seed in range(arguments.seeds):
                run = kdcli.distill(
                    teacher=arguments.teacher,
                    student=student,
                    recipe=RECIPES[name],
                    data=arguments.data,
                    epochs=arguments.epochs,
                    seed=seed,
                    settings=["student.start=fresh"],
                    out=Path(folder) / f"{name}-{seed}",
                )
                results[name].append(run.test.accuracy)
            shown = "  ".join(f"{100 * value:.2f}" for value in results[name])
            print(f"{name:14} mean {100 * statistics.mean(results[name]):.2f} %   seeds {shown}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
