"""A run that is killed, interrupted or terminated resumes to the same result, through the real command."""

from __future__ import annotations

import json
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import save_npz

STEPS = 300
RECIPE = """\
data: {source: data.npz, augment: [{kind: shift, pixels: 1}]}
teacher: {model: {kind: file, path: teacher.keras}, views: 2}
student: {model: {kind: file, path: student.keras}}
losses:
  - {kind: labels, weight: 0.1}
  - {kind: soft_targets, weight: 0.9}
  - {kind: hint, weight: 1.0, teacher_layer: features, student_layer: features}
train:
  steps: 300
  batch_size: 8
  optimizer: {kind: adam, learning_rate: 3e-3}
  schedule: {kind: cosine, warmup: 0.1}
  checkpoint: {every: 3 steps}
"""


def network(width: int, seed: int) -> keras.Model:
    """With BatchNorm and dropout, so that statistics and random states matter."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(width, 3, strides=2)(inputs)
    x = keras.layers.ReLU(name="features")(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dropout(0.2)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def command(*more: str, out: str) -> list[str]:
    words = ["distill", "--recipe", "./recipe.yaml", "--out", out, "--no-preflight"]
    return [sys.executable, "-m", "kdcli", *words, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The inputs, and an undisturbed run."""
    folder = tmp_path_factory.mktemp("killing")
    network(6, 1).save(folder / "teacher.keras")
    network(2, 2).save(folder / "student.keras")
    save_npz(folder / "data.npz")
    (folder / "recipe.yaml").write_text(RECIPE)
    finish(folder, "whole")
    return folder


def finish(folder: Path, out: str, *more: str) -> str:
    """Run the command to its end, and return its messages."""
    ran = subprocess.run(
        command(*more, out=out), cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


def newest_step(run: Path) -> int:
    names = [path.name for path in (run / "checkpoint").glob("step-*.checkpoint")]
    return max((int(re.sub(r"\D", "", name)) for name in names), default=0)


def disturb(folder: Path, out: str, number: signal.Signals, *, after: int, delay: float = 0.0):
    """Start or resume, wait for some more steps, send a signal; return the exit code and the messages."""
    target = newest_step(folder / out) + after
    process = subprocess.Popen(
        command("--resume", out=out), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 120
        while newest_step(folder / out) < target:
            assert process.poll() is None, f"ended before step {target}: {process.communicate()[1]}"
            assert time.monotonic() < until, f"step {target} was never reached"
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        out_text, err_text = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert out_text == ""
    return process.returncode, err_text


def outcome(run: Path) -> dict:
    """Weights, outputs, losses and metrics, which must be identical."""
    weights = [weight.tobytes() for weight in keras.saving.load_model(run / "student.keras").get_weights()]
    with np.load(run / "predictions.npz") as file:
        logits = file["logits"].tobytes()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["examples_per_second"]
    summary = json.loads((run / "summary.json").read_text())
    metrics = {key: summary[key] for key in ("test", "validation", "teacher", "steps", "epochs", "best_epoch")}
    return {"lines": lines, "summary": metrics, "logits": logits, "weights": weights}


def assert_same(folder: Path, out: str) -> None:
    ours, theirs = outcome(folder / out), outcome(folder / "whole")
    assert theirs["summary"]["steps"] == STEPS
    for key, value in theirs.items():
        assert ours[key] == value, key
    assert not (folder / out / "checkpoint").exists()


@pytest.mark.slow
def test_run_killed_twice_at_random_steps_ends_bit_identical(folder):
    chance = random.Random()
    steps = [chance.randrange(1, 100) for _ in range(2)]
    for after in steps:
        code, words = disturb(folder, "killed", signal.SIGKILL, after=after, delay=chance.random() / 50)
        assert code == -signal.SIGKILL
        assert "Traceback" not in words
        assert not (folder / "killed" / "summary.json").exists()
    words = finish(folder, "killed", "--resume")
    assert f"of {STEPS}" in words, steps
    assert re.search(r"^continuing at step [1-9]\d* of 300$", words, re.MULTILINE), steps
    # Nobody has changed anything meanwhile, and the run says that its last process just vanished.
    assert "ended without an error" in words
    assert_same(folder, "killed")


def test_interrupted_and_terminated_run_names_the_command_that_resumes(folder):
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        code, words = disturb(folder, "stopped", number, after=20)
        assert code == expected, words
        assert "Traceback" not in words
        saved = f"stopped/checkpoint/step-{newest_step(folder / 'stopped'):09d}.checkpoint"
        error, hint = words.rstrip().splitlines()[-2:]
        assert re.fullmatch(rf"error: stopped at step \d+ of {STEPS}; saved: {saved}", error)
        assert not (folder / "stopped" / "summary.json").exists()
    assert hint.startswith("hint: kd distill --recipe ./recipe.yaml --out stopped")
    named = shlex.split(hint.removeprefix("hint: kd "))
    assert "--resume" in named
    words = [sys.executable, "-m", "kdcli", *named]
    ran = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "ended without an error" not in ran.stderr
    assert_same(folder, "stopped")


@pytest.mark.nightly
@pytest.mark.parametrize("kill", range(20))
def test_run_killed_at_a_random_moment_ends_bit_identical(folder, kill):
    chance = random.Random()
    after, delay = chance.randrange(1, 270), chance.random() / 20
    code, _ = disturb(folder, f"killed-{kill}", signal.SIGKILL, after=after, delay=delay)
    assert code == -signal.SIGKILL
    finish(folder, f"killed-{kill}", "--resume")
    assert_same(folder, f"killed-{kill}")
