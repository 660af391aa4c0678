"""How long `kd --help` and a faulty recipe take, as whole processes after warm-up.

Run: python benchmarks/startup.py [--runs 15]

Predicted: an interpreter (20 ms), Typer and its help (150 ms), pydantic and PyYAML (120 ms); nothing of
TensorFlow. Bound: `kd --help` 0.3 s, a faulty recipe 0.4 s.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FAULTY = "losses:\n  - {kind: soft_targets, temprature: 4}\n"


def seconds(command):
    since = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - since, done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "faulty.yaml"
        recipe.write_text(FAULTY)
        kd = [sys.executable, "-m", "kdcli"]
        commands = {
            "python -c pass": ([sys.executable, "-c", "pass"], 0),
            "kd --help": ([*kd, "--help"], 0),
            "kd distill with a faulty recipe": ([*kd, "distill", "--recipe", str(recipe)], 2),
        }
        samples = {name: [] for name in commands}
        for number in range(arguments.runs + 2):
            for name, (command, expected) in commands.items():
                spent, code = seconds(command)
                assert code == expected, (name, code)
                if number >= 2:
                    samples[name].append(spent)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {arguments.runs} runs"
    )
    for name, values in samples.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:34} median {middle:.3f} s   min {low:.3f}   max {high:.3f}")
    print(json.dumps({name: statistics.median(values) for name, values in samples.items()}))


if __name__ == "__main__":
    main()
