"""Workers of one training, through the real command: one of them writes, none waits forever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import bar_reader, save_npz

import kdcli

GIVEN = ("distill", "--teacher", "teacher.keras", "--student", "student.keras", "--data", "digits")
TRAINING = (
    "--batch-size",
    "32",
    "--set",
    "train.optimizer.learning_rate=0.01",
    "--set",
    "teacher.precision=float32",
    "--set",
    "student.start=file",
)


def config(ports: list[int], index: int) -> str:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in taken]
    for server in taken:
        server.close()
    return ports


def start(
    folder: Path, out: str, *words: str, task: str | None = None, settings: tuple[str, ...] = (*GIVEN, *TRAINING)
) -> subprocess.Popen:
    """The real command in a process of its own, as a worker if `task` is set."""
    env = {**os.environ, "KD_CACHE_DIR": str(folder / "cache"), "KD_WORKERS_TIMEOUT": "120"}
    given = () if task is None else ("--devices", "workers")
    return subprocess.Popen(
        [sys.executable, "-m", "kdcli", *settings, "--out", out, "--json", *given, *words],
        cwd=folder,
        env=env if task is None else {**env, "TF_CONFIG": task},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(folder: Path, out: str, *words: str, **options) -> list[subprocess.Popen]:
    ports = free_ports(2)
    return [start(folder, out, *words, task=config(ports, index), **options) for index in range(2)]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_training(run: Path, other: Path) -> None:
    """The same losses and validation metrics to 1e-5, epoch by epoch."""
    ours, theirs = lines(run), lines(other)
    assert len(ours) == len(theirs) >= 2
    for own, expected in zip(ours, theirs, strict=True):
        names = [name for name in expected if "loss" in name]
        assert {"loss", "losses.labels", "losses.soft_targets", "validation.loss"} <= set(names)
        assert [own[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-5)
        assert own["validation.accuracy"] == expected["validation.accuracy"]
    assert theirs[-1]["loss"] < 0.9 * theirs[0]["loss"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A teacher that knows the digits, and a student without normalisation and dropout."""
    folder = tmp_path_factory.mktemp("workers")
    with np.load(Path(kdcli.__file__).parent / "sources" / "digits.npz") as digits:
        x, y = digits["x_train"], digits["y_train"]
    shape = (8, 8, 1)
    teacher = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(10)])
    # A linear teacher, solved and not trained: regularised least squares on centred one-hot labels.
    x = x.reshape(len(x), -1).astype(np.float32) / 255.0
    bias = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    wanted = 10 * np.eye(10, dtype=np.float32)[y] - 1
    solved = np.linalg.solve(bias.T @ bias + np.eye(bias.shape[1]), bias.T @ wanted).astype(np.float32)
    teacher.layers[-1].set_weights([solved[:-1], solved[-1]])
    teacher.save(folder / "teacher.keras")
    keras.utils.set_random_seed(2)
    hidden = keras.layers.Dense(16, activation="relu")
    student = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), hidden, keras.layers.Dense(10)])
    student.save(folder / "student.keras")
    return folder


@pytest.mark.serial
def test_two_workers_train_as_one_and_the_chief_writes(folder):
    two, one = start_two(folder, "two", "--epochs", "2"), start(folder, "one", "--epochs", "2")
    answers = [worker.communicate(timeout=200) for worker in two]
    assert [worker.returncode for worker in two] == [0, 0], answers
    alone, said = one.communicate(timeout=200)
    assert one.returncode == 0, said
    assert_same_training(folder / "two", folder / "one")
    ours, theirs = json.loads(answers[0][0]), json.loads(alone)
    assert ours["test"]["accuracy"] == theirs["test"]["accuracy"] > 0.5
    assert ours["steps"] == theirs["steps"] == lines(folder / "one")[-1]["step"]
    # The chief's document, from both; the other one says where it lies.
    assert json.loads(answers[1][0])["test"] == ours["test"]
    assert answers[1][1].splitlines()[-1] == "this worker has finished; the chief wrote two"
    assert sorted(path.name for path in (folder / "two").iterdir()) == sorted(
        path.name for path in (folder / "one").iterdir()
    )
    assert json.loads((folder / "two" / "environment.json").read_text())["replicas"] == 2


@pytest.mark.slow
@pytest.mark.serial
def test_two_workers_start_from_the_same_shrunk_student(folder):
    shrunk = ("distill", "--teacher", "student.keras", "--data", "digits", "--batch-size", "32", "--no-preflight")
    shrunk += ("--set", "student.model={kind: shrunk, keep: 0.5}", "--set", "teacher.precision=float32")
    two = start_two(folder, "shrunk-two", "--epochs", "2", settings=shrunk)
    one = start(folder, "shrunk-one", "--epochs", "2", settings=shrunk)
    answers = [worker.communicate(timeout=200) for worker in two]
    assert [worker.returncode for worker in two] == [0, 0], answers
    assert one.communicate(timeout=200) and one.returncode == 0
    ours, theirs = ([line["loss"] for line in lines(folder / name)] for name in ("shrunk-two", "shrunk-one"))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize(("victim", "name"), [(1, "worker 1"), (0, "the chief")])
def test_killed_worker_stops_the_other_and_one_alone_goes_on(folder, victim, name):
    words = ("--epochs", "40", "--set", "train.checkpoint.every=20 steps")
    out = f"killed-{victim}"
    two = start_two(folder, out, *words)
    until = time.monotonic() + 120
    while not list((folder / out).glob("checkpoint/step-*")) and time.monotonic() < until:
        time.sleep(0.05)
    two[victim].send_signal(signal.SIGKILL)
    since = time.monotonic()
    said = two[1 - victim].communicate(timeout=60)[1]
    assert time.monotonic() - since < 40
    two[victim].communicate(timeout=10)
    assert two[1 - victim].returncode == 6, said
    error, hint = said.splitlines()[-2:]
    assert error.startswith(f"error: {name} (127.0.0.1:")
    assert (
        f"is lost: it was killed, is unreachable, or ended with an error of its own; the last checkpoint is {out}/"
        in error
    )
    assert hint.startswith("hint: kd distill --teacher teacher.keras") and hint.endswith("--resume")
    alone = start(folder, out, *words, "--resume", "--devices", "one")
    said = alone.communicate(timeout=200)[1]
    assert alone.returncode == 0, said
    assert "continuing at step" in said
    reference = start(folder, f"reference-{victim}", *words)
    reference.communicate(timeout=200)
    assert_same_training(folder / out, folder / f"reference-{victim}")


@pytest.mark.slow
@pytest.mark.serial
def test_signal_to_one_worker_stops_both_and_two_go_on(folder):
    words = ("--epochs", "40", "--set", "train.checkpoint.every=20 steps")
    two = start_two(folder, "stopped", *words)
    until = time.monotonic() + 120
    while not list((folder / "stopped").glob("checkpoint/step-*")) and time.monotonic() < until:
        time.sleep(0.05)
    two[1].send_signal(signal.SIGTERM)
    answers = [worker.communicate(timeout=60) for worker in two]
    assert [worker.returncode for worker in two] == [143, 143], answers
    stopped = [next(line for line in said.splitlines() if line.startswith("error: ")) for _, said in answers]
    assert stopped[0] == stopped[1]
    again = start_two(folder, "stopped", *words, "--resume")
    answers = [worker.communicate(timeout=200) for worker in again]
    assert [worker.returncode for worker in again] == [0, 0], answers
    assert all("continuing at step" in said for _, said in answers)
    assert [line["epoch"] for line in lines(folder / "stopped")] == list(range(1, 41))


@pytest.fixture
def files(tmp_path):
    save_npz(tmp_path / "data.npz")
    bar_reader().save(tmp_path / "teacher.keras")
    return ("distill", "--teacher", "teacher.keras", "--student", "teacher.keras", "--data", "data.npz")


def test_worker_that_does_not_come_is_named_after_a_bounded_wait(kd, files, monkeypatch, tmp_path):
    ports = free_ports(2)
    monkeypatch.setenv("TF_CONFIG", config(ports, 0))
    monkeypatch.setenv("KD_WORKERS_TIMEOUT", "0.5")
    since = time.monotonic()
    ran = kd(*files, "--out", "run", "--devices", "workers")
    assert time.monotonic() - since < 30
    assert ran.code == 6
    missing = f"worker 1 (127.0.0.1:{ports[1]}): connection refused"
    assert f"error: the workers did not find each other within 0.5 s; missing: {missing}\n" in ran.err
    assert "KD_WORKERS_TIMEOUT=600 waits longer" in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (None, "error: train.devices is workers, but TF_CONFIG is not set"),
        ("{", "error: TF_CONFIG: not JSON"),
        (config([1, 1], 0), "error: TF_CONFIG: cluster: 127.0.0.1:1 is listed twice"),
    ],
)
def test_faulty_variable_is_one_line_and_nothing_is_written(kd, files, monkeypatch, tmp_path, variable, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if variable is not None:
        monkeypatch.setenv("TF_CONFIG", variable)
    ran = kd(*files, "--out", "run", "--devices", "workers")
    assert ran.code == 2
    assert ran.err.splitlines()[0].startswith(message)
    assert ran.err.splitlines()[1].startswith("hint: TF_CONFIG='{")
    assert not (tmp_path / "run").exists()


def test_workers_need_a_common_directory(kd, files, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config([1, 2], 0))
    ran = kd(*files, "--devices", "workers")
    assert (ran.code, ran.out) == (2, "")
    assert "error: workers need a run directory that all of them can access\n" in ran.err


def test_variable_without_the_setting_is_not_used_and_said(kd, files, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config([1, 2], 0))
    ran = kd(*files, "--out", "run", "--dry-run", "--no-preflight")
    assert ran.code == 0, ran.err
    assert "TF_CONFIG is set but not used: --devices workers uses it" in ran.err


def test_comparison_is_not_shared_by_workers(kd, files, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config([1, 2], 0))
    ran = kd("compare", *files[1:], "--out", "comparison", "--devices", "workers")
    assert ran.code == 2
    assert "error: train.devices: workers share one training; a comparison has many\n" in ran.err
