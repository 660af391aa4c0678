"""Prepare a typical photo task: JPEG files in class folders, and a teacher of keras.applications.

python benchmarks/compress_photos.py CIFAR10 OUT [--images 5000] [--side 96] [--model MobileNetV2] [--epochs 5]

CIFAR10 is a folder of TFRecord files. Writes `OUT/photos/CLASS/*.jpg` and `OUT/mobilenetv2.keras` (trained from
random weights, images in [-1, 1]). Then:

kd compress OUT/mobilenetv2.keras --data OUT/photos --max-latency-ratio 0.5 --out OUT/small
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import tensorflow as tf

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}


def write_photos(source: Path, folder: Path, *, count: int, side: int) -> None:
    """Write images as JPEG files in one folder for each class."""
    files = sorted(map(str, source.glob("train*")))
    records = tf.data.TFRecordDataset(files).map(lambda record: tf.io.parse_single_example(record, FEATURES))
    for number, example in enumerate(records.take(count)):
        image = tf.io.decode_image(example["image/encoded"], channels=3)
        large = tf.cast(tf.clip_by_value(tf.image.resize(image, (side, side), "bicubic"), 0, 255), tf.uint8)
        target = folder / NAMES[int(example["image/class/label"])] / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tf.io.encode_jpeg(large, quality=92).numpy())


def train_teacher(folder: Path, path: Path, *, name: str, side: int, epochs: int) -> None:
    """Train the teacher in plain Keras on 90% of the images."""
    keras.utils.set_random_seed(0)
    train, held = keras.utils.image_dataset_from_directory(
        folder, image_size=(side, side), batch_size=64, validation_split=0.1, subset="both", seed=0
    )
    body = getattr(keras.applications, name)(
        input_shape=(side, side, 3), weights=None, include_top=False, pooling="avg"
    )
    inputs = keras.Input((side, side, 3))
    x = body(keras.layers.Rescaling(1 / 127.5, offset=-1)(keras.layers.RandomFlip("horizontal")(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(len(NAMES), activation="softmax")(x), name=name.lower())
    steps = epochs * len(train)
    rate = keras.optimizers.schedules.CosineDecay(1e-6, steps, warmup_target=2e-3, warmup_steps=steps // 10)
    for layer in body.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Keras' own momentum of 0.99 needs more steps than these epochs have.
            layer.momentum = 0.9
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    began = time.perf_counter()
    model.fit(train, validation_data=held, epochs=epochs, verbose=2)
    print(f"{model.count_params():,} parameters, {time.perf_counter() - began:.0f} s")
    model.save(path)


def main() -> None:
    """Write the photos and train the teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--model", default="MobileNetV2")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    photos = options.out / "photos"
    if not photos.exists():
        write_photos(options.source, photos, count=options.images, side=options.side)
    path = options.out / f"{options.model.lower()}.keras"
    train_teacher(photos, path, name=options.model, side=options.side, epochs=options.epochs)


if __name__ == "__main__":
    main()
