"""Compare successive halving with training every candidate to the end: how often the winner is the same, the time.

python benchmarks/compress_halving.py OUT [--seeds 5] [--epochs 20]

Digits, a teacher of 289,066 parameters, a file of at most 0.02 MB; both searches have the same candidates, steps
and seeds. Prints one line for each seed, then the totals.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import kdcli
from kdcli.compression import schedule


def search(teacher: Path, out: Path, *, seed: int, epochs: int) -> tuple[str, float, float]:
    """The picked candidate, its validation accuracy, and the seconds from the first rung to the end."""
    began = time.perf_counter()
    result: Any = kdcli.compress(
        teacher, data="digits", max_size_mb=0.02, seed=seed, epochs=epochs, budget=3600.0, out=out
    )
    record = json.loads((out / "search.json").read_text("utf-8"))
    seconds = time.perf_counter() - began - record["seconds"]["preparation"]
    picked = result.document["picked"]
    return picked["candidate"], picked["validation"], seconds


def main() -> None:
    """Run both searches for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    teacher = options.out / "teacher"
    kdcli.train_teacher(recipe="digits", out=teacher)
    rungs, same, totals = schedule.RUNGS, 0, [0.0, 0.0]
    for seed in range(options.seeds):
        found = []
        for name, fractions in (("halving", rungs), ("every", (1.0, 1.0, 1.0))):
            schedule.RUNGS = fractions
            found.append(search(teacher, options.out / f"{name}-{seed}", seed=seed, epochs=options.epochs))
        schedule.RUNGS = rungs
        (first, value, halved), (second, best, whole) = found
        same += first == second
        totals = [totals[0] + halved, totals[1] + whole]
        print(
            f"seed {seed}: halving {first} {value:.4f}, {halved:.1f} s; every {second} {best:.4f}, {whole:.1f} s"
        )
    print(f"the same winner: {same} of {options.seeds}; seconds {totals[0]:.1f} against {totals[1]:.1f}")


if __name__ == "__main__":
    main()
