"""A disk that fails at the n-th write of a run: exit code 5, no partial files, and a run that can be resumed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs

import kdcli
from kdcli.errors import StorageError
from kdcli.runs import writer

RECIPE = {
    "teacher": {"targets": "live"},
    "losses": [{"kind": "labels"}, {"kind": "soft_targets"}],
    "train": {"epochs": 2, "batch_size": 8, "checkpoint": {"every": "2 steps"}},
}


def linear(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))


def distill(out: Path, **given):
    data = (*blobs(32), *blobs(12, seed=1))
    models = {"teacher": linear(1), "student": linear(2)}
    return kdcli.distill(recipe=RECIPE, data=data, out=out, preflight=False, **models, **given)


def weights(run: Path) -> list[np.ndarray]:
    return keras.saving.load_model(run / "student.keras").get_weights()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return distill(tmp_path_factory.mktemp("whole") / "run").run


def check_failure_at(call: int, number: int, out: Path, whole: Path, monkeypatch, *, stays: bool) -> bool:
    """Fail at this step of a write (`stays`: and at all later ones), then resume; False when there is no such."""
    seen: list[str] = []

    def hook(step, path):
        seen.append(f"{step} {path.name}")
        if len(seen) == call or (stays and len(seen) > call):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writer, "hook", hook)
    try:
        distill(out)
        assert len(seen) < call, f"a failed write ({seen[call - 1]}) was not reported"
    except StorageError as error:
        assert error.exit_code == 5
        assert str(out) in error.message
    finally:
        monkeypatch.setattr(writer, "hook", writer._no_hook)
    if len(seen) < call:
        return False
    left = [path.name for path in out.rglob("*") if path.name.startswith(writer.TEMPORARY_PREFIX)]
    assert left == [], seen[call - 1]
    distill(out, resume=True)
    for ours, theirs in zip(weights(out), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return True


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("call", [1, 2, 8, 12, 24, 60])
def test_a_failed_write_stops_the_run_and_resume_completes_it(tmp_path, whole, monkeypatch, call, stays):
    assert check_failure_at(call, errno.ENOSPC, tmp_path / "run", whole, monkeypatch, stays=stays)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_any_failed_write_stops_the_run_and_resume_completes_it(tmp_path, whole, monkeypatch, number):
    call = 1
    while check_failure_at(call, number, tmp_path / str(call), whole, monkeypatch, stays=True):
        call += 1
    assert call > 60
