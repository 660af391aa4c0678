"""A run that is interrupted and resumed gives what the uninterrupted one gives, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import save_npz

import kdcli
from kdcli.errors import Interrupted, StorageError
from kdcli.events import Note, Progress
from kdcli.runs import writer
from kdcli.runs.packed_file import unpack

LOSSES = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": 2.0}]
COSINE = {"kind": "cosine", "warmup": 0.1}
# What differs: where answers come from, what the optimizer keeps, whether a loss has weights of its own.
CASES = {
    "adam with a schedule, kept views": {
        "teacher": {"views": 2, "targets": "memory"},
        "train": {"optimizer": "adam", "schedule": COSINE},
    },
    "sgd with momentum, live teacher": {
        "teacher": {"targets": "live"},
        "train": {"optimizer": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9}},
    },
    "muon with hints": {
        "losses": [*LOSSES, {"kind": "hint", "teacher_layer": "features", "student_layer": "features"}],
        "train": {"optimizer": "muon", "gradient_clip": 1.0},
    },
    "a memory and opponents": {
        "losses": [
            *LOSSES,
            {"kind": "contrastive", "teacher_layer": "features", "student_layer": "features", "negatives": 20},
            {"kind": "adversarial", "teacher_layer": "features", "student_layer": "features"},
            {
                "kind": "adversarial",
                "name": "on logits",
                "on": "logits",
                "learning_rate": {"from": 0.01, "to": 0.001},
            },
        ],
        "train": {"optimizer": "adam"},
    },
    "adamw with a moving average and early stopping": {
        "teacher": {"views": 2},
        "train": {"optimizer": {"kind": "adamw", "use_ema": True}, "early_stopping": {"patience": 2}},
    },
}


def model(width: int, seed: int) -> keras.Model:
    """BatchNorm and dropout, so that statistics and random states matter."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(width, 3, strides=2)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(name="features")(x)
    x = keras.layers.Dropout(0.3)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    model(6, 1).save(folder / "teacher.keras")
    model(2, 2).save(folder / "student.keras")
    save_npz(folder / "data.npz", examples=64)
    return folder


@pytest.fixture(autouse=True)
def one_step_blocks(monkeypatch):
    """Stop after any step that the test wants."""
    monkeypatch.setattr("kdcli.training.loop.BLOCK_SECONDS", 0.0)


class After:
    """Stops after some steps of training; keeps what it was told."""

    def __init__(self, steps: int | None = None) -> None:
        self.left = steps
        self.notes: list[Note] = []

    def on_event(self, event) -> None:
        if isinstance(event, Note):
            self.notes.append(event)
        if self.left is not None and isinstance(event, Progress) and event.phase == "training":
            self.left -= 1

    def __call__(self) -> int | None:
        return 143 if self.left == 0 else None


def distill(folder: Path, out: Path, case: dict, *, stop: After | None = None, resume: bool = False):
    stop = stop or After()
    train = {"epochs": 3, "batch_size": 8, "seed": 4, "checkpoint": {"every": "2 steps"}, **case["train"]}
    shift = [{"kind": "shift", "pixels": 1}]
    recipe = {
        "data": {"source": str(folder / "data.npz"), "validation": 0.25, "augment": shift},
        "teacher": case.get("teacher", {}),
        "losses": case.get("losses", LOSSES),
        "train": train,
    }
    return kdcli.distill(
        recipe=recipe,
        teacher=folder / "teacher.keras",
        student=folder / "student.keras",
        out=out,
        resume=resume,
        preflight=False,
        stop=stop,
        on_event=stop.on_event,
    )


def interrupted(folder: Path, out: Path, case: dict, *steps: int) -> None:
    """Stop after each of these numbers of steps, resuming in between."""
    for count in steps:
        with pytest.raises(Interrupted) as caught:
            distill(folder, out, case, stop=After(count), resume=True)
        assert caught.value.exit_code == 143
        assert caught.value.run == out
        assert not (out / "summary.json").exists()


def outcome(run: Path) -> dict:
    """Everything that must be the same: weights, answers, the log and the summary without times and paths."""
    saved = keras.saving.load_model(run / "student.keras")
    with np.load(run / "predictions.npz") as file:
        predictions = {name: file[name].tobytes() for name in file.files}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for line in lines:
        del line["examples_per_second"]
    for key in ("run", "model", "seconds", "examples_per_second"):
        del summary[key]
    if "targets" in summary:
        # The tests share a cache: who comes later finds the answers there.
        del summary["targets"]["hit"]
    weights = [variable.value.numpy().tobytes() for variable in saved.weights]
    return {"weights": weights, "predictions": predictions, "lines": lines, "summary": summary}


def assert_same(found: Path, expected: Path) -> None:
    ours, theirs = outcome(found), outcome(expected)
    assert len(theirs["lines"]) == 3
    for key in ("lines", "summary", "predictions", "weights"):
        assert ours[key] == theirs[key], key


@pytest.mark.parametrize("name", CASES)
def test_interrupted_and_resumed_run_is_bit_identical(folder, tmp_path, name):
    # 6 steps an epoch: the stops are after steps 1, 6 (the end of an epoch) and 13.
    case = CASES[name]
    distill(folder, tmp_path / "whole", case)
    interrupted(folder, tmp_path / "parts", case, 1, 5, 7)
    last = After()
    distill(folder, tmp_path / "parts", case, stop=last, resume=True)
    assert "continuing at step 13 of 18" in [note.text for note in last.notes]
    assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_stop_after_any_step_gives_the_same_run(folder, tmp_path, name):
    distill(folder, tmp_path / "whole", CASES[name])
    for steps in range(1, 18):
        interrupted(folder, tmp_path / str(steps), CASES[name], steps)
        distill(folder, tmp_path / str(steps), CASES[name], resume=True)
        assert_same(tmp_path / str(steps), tmp_path / "whole")


def test_damaged_newest_checkpoint_is_reported_and_the_older_one_gives_the_same_run(folder, tmp_path):
    case = CASES["adam with a schedule, kept views"]
    distill(folder, tmp_path / "whole", case)
    interrupted(folder, tmp_path / "parts", case, 9)
    older, newest = sorted((tmp_path / "parts" / "checkpoint").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    step = unpack(older.read_bytes(), older).document["step"]
    last = After()
    distill(folder, tmp_path / "parts", case, stop=last, resume=True)
    # What is trained in so few steps is at chance, and that is a warning too.
    warnings = [note.text for note in last.notes if note.warning and "is at chance" not in note.text]
    assert warnings == [f"{newest}: the file is damaged; an older checkpoint is used"]
    assert f"continuing at step {step} of 18" in [note.text for note in last.notes]
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_run_without_a_valid_checkpoint_is_refused_and_unchanged(folder, tmp_path):
    case = CASES["sgd with momentum, live teacher"]
    interrupted(folder, tmp_path / "parts", case, 9)
    paths = sorted((tmp_path / "parts" / "checkpoint").iterdir())
    for path in paths:
        path.write_bytes(path.read_bytes()[:-10])
    before = sorted(os.listdir(tmp_path / "parts"))
    with pytest.raises(StorageError, match="no valid checkpoint") as caught:
        distill(folder, tmp_path / "parts", case, resume=True)
    assert all(str(path) in caught.value.message for path in paths)
    assert sorted(os.listdir(tmp_path / "parts")) == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the write is cleaned up."""


def killed_at(monkeypatch, call: int) -> list[str]:
    """The writing hook that dies at its call number `call`, and lets nothing happen afterwards."""
    seen: list[str] = []

    def hook(step, path):
        seen.append(f"{step} {path.name}")
        if len(seen) >= call:
            raise Killed

    monkeypatch.setattr(writer, "hook", hook)
    return seen


def check_death_at(folder, tmp_path, monkeypatch, case, call: int) -> bool:
    out = tmp_path / f"killed-{call}"
    seen = killed_at(monkeypatch, call)
    try:
        distill(folder, out, case)
    except Killed:
        assert len(seen) >= call
    finally:
        monkeypatch.setattr(writer, "hook", writer._no_hook)
    if len(seen) < call:
        return False
    distill(folder, out, case, resume=True)
    assert_same(out, tmp_path / "whole")
    assert not [path for path in out.rglob("*") if path.name.startswith(writer.TEMPORARY_PREFIX)]
    return True


@pytest.mark.parametrize("call", [3, 12, 18, 45])
def test_run_survives_a_crash_during_a_write(folder, tmp_path, monkeypatch, call):
    case = CASES["adam with a schedule, kept views"]
    distill(folder, tmp_path / "whole", case)
    assert check_death_at(folder, tmp_path, monkeypatch, case, call)


@pytest.mark.nightly
def test_run_survives_a_crash_at_any_step_of_any_write(folder, tmp_path, monkeypatch):
    case = CASES["sgd with momentum, live teacher"]
    distill(folder, tmp_path / "whole", case)
    call = 1
    while check_death_at(folder, tmp_path, monkeypatch, case, call):
        call += 1
    assert call > 80
