"""Check that a search killed repeatedly ends with the same file, bit for bit.

python benchmarks/compress_kills.py OUT [--kills 10] [--seed 0]

Runs `kd compress` on digits once without interruption, then again in a directory where SIGKILL ends it at random
moments, each time followed by `--resume`.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import kdcli

OPTIONS = "--data digits --max-size-mb 0.02 --max-accuracy-drop 0.05 --epochs 20 --budget 1h --quiet".split()


def start(teacher: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start or continue the search."""
    command = [sys.executable, "-m", "kdcli", "compress", str(teacher), *OPTIONS, "--out", str(out), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Compare the files of both searches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    teacher = options.out / "teacher"
    kdcli.train_teacher(recipe="digits", out=teacher)
    began = time.perf_counter()
    code = start(teacher, options.out / "whole").wait()
    whole = time.perf_counter() - began
    print(f"uninterrupted: exit {code}, {whole:.0f} s")
    draw, kills = random.Random(options.seed), 0
    while True:
        process = start(teacher, options.out / "killed")
        try:
            # After the start of Python, and before the end.
            code = process.wait(draw.uniform(0.2, 0.4) * whole if kills < options.kills else None)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    files = [(options.out / name / "model.tflite").read_bytes() for name in ("whole", "killed")]
    print(f"killed {kills} times: exit {code}; the same file: {files[0] == files[1]} ({len(files[0]):,} bytes)")


if __name__ == "__main__":
    main()
