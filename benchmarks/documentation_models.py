"""The teacher and the student of the Keras documentation's distillation example, untrained, as files.

Run: python benchmarks/documentation_models.py FOLDER
     kd train-teacher --teacher FOLDER/teacher.keras --data mnist --epochs 2 --out runs/documentation-teacher
     kd compare --teacher runs/documentation-teacher --student FOLDER/student.keras --data mnist --epochs 3 \\
        --set losses.soft_targets.temperature=10
"""

import sys
from pathlib import Path

from kdcli.lazy import keras


def build(first, second):
    """Two strided convolutions of `first` and `second` channels on 28×28 pictures: 256, 512 or 16, 32 there."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(first, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.MaxPooling2D(2, strides=1, padding="same"),
            layers.Conv2D(second, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def build_teacher():
    return build(256, 512)


def build_student():
    return build(16, 32)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    build_teacher().save(folder / "teacher.keras")
    build_student().save(folder / "student.keras")
    print(folder)
