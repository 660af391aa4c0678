"""Does it matter that answers are kept, or given in half precision? Accuracy against a live float32 teacher.

Run: python benchmarks/kept_accuracy.py --teacher TEACHER --student STUDENT --data D [--limit 10000] [--repeats 3]

Without augmentation. The same student (drawn anew for each seed), seeds and batches for all ways; the gain is the
test accuracy minus that of the live float32 teacher, paired by seed, with the 95 % t interval. Predicted: nothing
that can be told from zero; kept float32 answers differ from live ones by rounding alone.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
from kept_views import gain

import kdcli

WAYS = {
    "live, float32": {"targets": "live", "precision": "float32"},
    "kept, float32": {"targets": "disk", "precision": "float32"},
    "kept, mixed_bfloat16": {"targets": "disk", "precision": "mixed_bfloat16"},
}
LOSSES = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": 4.0}]


def decided(arguments, way, seed, folder):
    """Which test examples the student of one distillation gets right."""
    recipe = {
        "data": {"limit": arguments.limit, "seed": 0},
        "teacher": WAYS[way],
        "student": {"start": "fresh"},
        "losses": LOSSES,
        "train": {"epochs": arguments.epochs, "seed": seed},
    }
    files = {"teacher": arguments.teacher, "student": arguments.student, "data": arguments.data}
    run = kdcli.distill(**files, recipe=recipe, out=folder / f"{way}-{seed}")
    with np.load(run.run / "predictions.npz") as file:
        return file["logits"].argmax(-1) == file["labels"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("teacher", "student", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    right = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        os.environ["KD_CACHE_DIR"] = str(Path(name) / "cache")
        for seed in range(arguments.repeats):
            for way, found in right.items():
                found.append(decided(arguments, way, seed, Path(name)))
    document = {}
    for way, found in right.items():
        scores = [float(np.mean(one)) for one in found]
        document[way] = {"accuracies": scores}
        text = f"{way:22} accuracy {statistics.fmean(scores):.4f}"
        if way != "live, float32":
            measured = gain(found, right["live, float32"])
            document[way]["gain"] = [measured.mean, measured.low, measured.high]
            text += "   gain {:+.2f} [{:+.2f}, {:+.2f}] points".format(*(100 * v for v in document[way]["gain"]))
        print(text)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
