"""Time and accuracy of a student whose teacher answers only some augmented views, against a live teacher.

Run: python benchmarks/kept_views.py --teacher TEACHER --data D [--limit 10000] [--views 1 2 4 8] [--repeats 3]

Crop and flip, a small student drawn anew for each seed, the same seeds for every number of views; `live` asks the
teacher in every step about a new view every epoch. Every measurement starts with an empty cache, all numbers of
views in turn for each seed. The gain is the test accuracy minus that of `live`, paired by seed, with the 95 %
t interval. Predicted: at 24 epochs 8 views take a third of the teacher's time and lose nothing that 3 repeats
could show; 1 view loses points.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import kdcli
from kdcli.evaluation.statistics import estimate_gain
from kdcli.lazy import tf

AUGMENT = [{"kind": "flip"}, {"kind": "crop", "padding": 4}]
LOSSES = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": 4.0}]


def distilled(arguments, views, seed, folder):
    """Seconds and test accuracy of one distillation."""
    os.environ["KD_CACHE_DIR"] = str(folder / f"cache-{views}-{seed}")
    recipe = {
        "data": {"augment": AUGMENT, "limit": arguments.limit, "seed": 0},
        "teacher": {"views": "all" if views == "live" else views, "precision": "float32"},
        "student": {"model": {"kind": "zoo", "name": "cnn", "width": 16}, "start": "fresh"},
        "losses": LOSSES,
        "train": {"epochs": arguments.epochs, "seed": seed, "schedule": {"kind": "cosine"}},
    }
    since = time.perf_counter()
    run = kdcli.distill(
        teacher=arguments.teacher, data=arguments.data, recipe=recipe, out=folder / f"run-{views}-{seed}"
    )
    seconds = time.perf_counter() - since
    with np.load(run.run / "predictions.npz") as file:
        right = file["logits"].argmax(-1) == file["labels"]
    return {"seconds": seconds, "accuracy": run.test.accuracy, "stages": run.seconds}, right


def gain(ours, theirs):
    """The mean difference of the accuracy over seeds, with its interval."""
    by_seed = [np.mean(one) - np.mean(other) for one, other in zip(ours, theirs, strict=True)]
    by_example = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    return estimate_gain(by_seed, sampling=float(np.std(by_example) / np.sqrt(len(by_example))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {views: [] for views in [*arguments.views, "live"]}
    right = {views: [] for views in found}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.repeats):
            for views, runs in found.items():
                run, decisions = distilled(arguments, views, seed, Path(name))
                runs.append(run)
                right[views].append(decisions)
                print(f"seed {seed}  views {views}  {run}", flush=True)
    print(f"TensorFlow {tf.__version__}, {platform.machine()}, {os.cpu_count()} cores, {arguments.epochs} epochs")
    seconds = {views: statistics.median(run["seconds"] for run in runs) for views, runs in found.items()}
    document = {}
    for views, runs in found.items():
        scores = [run["accuracy"] for run in runs]
        text = f"views {views!s:5} {seconds[views]:7.1f} s   {seconds['live'] / seconds[views]:.2f}× as fast"
        text += f"   accuracy {statistics.fmean(scores):.4f}"
        document[str(views)] = {"seconds": seconds[views], "accuracies": scores}
        if views != "live":
            found_gain = gain(right[views], right["live"])
            interval = [found_gain.mean, found_gain.low, found_gain.high]
            text += "   gain {:+.2f} [{:+.2f}, {:+.2f}] points".format(*(100 * value for value in interval))
            document[str(views)]["gain"] = interval
        print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
