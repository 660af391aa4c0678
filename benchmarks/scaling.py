"""How the cost of a distillation grows: with examples, epochs, views and the size of the teacher.

Run: python benchmarks/scaling.py [--rounds 3] [--json F]

Made pictures of ten classes (28×28), the Keras documentation's student, batch 64; every point is a whole
`kdcli.distill` with an empty cache, all points in turn in each round, medians. Printed are the seconds of the
teacher and of the training, and the straight line through them with the share of the variance that it explains.
A last table runs with the answers already in the cache: there the teacher's size must not count. Predicted: lines
with a share above 0.99; training with a warm cache within noise, whatever the teacher.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
from documentation_models import build, build_student

import kdcli
from kdcli.lazy import keras, tf

EXAMPLES = (8_000, 16_000, 32_000, 64_000)
EPOCHS = (1, 2, 4, 8)
VIEWS = (1, 2, 4, 8)
# Channels of the first convolution of the teacher; the second has twice as many.
WIDTHS = (16, 32, 64, 128)
LOSSES = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": 3.0}]


def pictures(count):
    """A bright bar tells the class."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 10
    made = random.integers(0, 120, (count, 28, 28, 1), np.uint8)
    for label in range(10):
        made[labels == label, 2 + 2 * label : 4 + 2 * label] += 100
    return made, labels


class Bench:
    """Distillations of one student, each in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.data = pictures(max(EXAMPLES))
        self.teachers = {width: self._teacher(width) for width in WIDTHS}
        build_student().save(folder / "student.keras")
        self.count = 0

    def _teacher(self, width):
        keras.utils.set_random_seed(0)
        build(width, 2 * width).save(self.folder / f"fresh-{width}.keras")
        x, y = self.data
        train = {"train": {"epochs": 1}, "data": {"validation": 0.0}}
        given = {"recipe": train, "data": (x[:6400], y[:6400]), "out": self.folder / f"teacher-{width}"}
        return kdcli.train_teacher(teacher=self.folder / f"fresh-{width}.keras", **given).model_path

    def __call__(self, *, examples=16_000, epochs=2, views=1, width=64, cache=None):
        """Seconds of the teacher and of the training."""
        self.count += 1
        os.environ["KD_CACHE_DIR"] = str(cache or self.folder / f"cache-{self.count}")
        x, y = self.data
        recipe = {"losses": LOSSES, "train": {"epochs": epochs}, "data": {"validation": 0.0}}
        recipe["teacher"] = {"precision": "float32", "views": views}
        if views > 1:
            recipe["data"]["augment"] = [{"kind": "shift", "pixels": 2}]
        files = {"teacher": self.teachers[width], "student": self.folder / "student.keras"}
        given = {"data": (x[:examples], y[:examples]), "out": self.folder / f"run-{self.count}"}
        run = kdcli.distill(**files, recipe=recipe, preflight=False, **given)
        return run.seconds["teacher"], run.seconds["training"]


def line(sizes, values):
    """Slope, intercept, and the share of the variance that the straight line explains."""
    slope, intercept = np.polyfit(sizes, values, 1)
    residual = np.sum((np.asarray(values) - slope * np.asarray(sizes) - intercept) ** 2)
    total = np.sum((np.asarray(values) - np.mean(values)) ** 2)
    return slope, intercept, 1 - residual / total if total else 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    series = {"examples": EXAMPLES, "epochs": EPOCHS, "views": VIEWS, "width": WIDTHS, "width, warm": WIDTHS}
    found = {name: {size: [] for size in sizes} for name, sizes in series.items()}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        warm = {width: Path(name) / f"warm-{width}" for width in WIDTHS}
        for width, cache in warm.items():
            bench(width=width, cache=cache)
        for _ in range(arguments.rounds):
            for what, sizes in series.items():
                for size in sizes:
                    given = {"width": size, "cache": warm[size]} if what == "width, warm" else {what: size}
                    # No more views are answered than there are epochs.
                    given |= {"epochs": max(VIEWS)} if what == "views" else {}
                    found[what][size].append(bench(**given))
    threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count()
    print(f"TensorFlow {tf.__version__}, {platform.machine()}, {threads} threads, {arguments.rounds} rounds")
    document = {}
    for what, by_size in found.items():
        document[what] = {}
        for place, stage in enumerate(("teacher", "training")):
            medians = [statistics.median(pair[place] for pair in by_size[size]) for size in by_size]
            slope, start, share = line(list(by_size), medians)
            points = "  ".join(f"{size}: {value:.2f}" for size, value in zip(by_size, medians, strict=True))
            print(f"{what:12} {stage:9} {points}   {start:+.2f} + {slope:.2e} each, r² {share:.3f}")
            document[what][stage] = {"sizes": list(by_size), "seconds": medians, "slope": slope, "r2": share}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
