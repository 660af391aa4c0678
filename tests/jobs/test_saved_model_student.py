"""A SavedModel as the trained model: a resumed run ends like an uninterrupted one."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import bar_reader, save_npz
from origins import classifier

import kdcli
from kdcli.errors import Interrupted

RECIPE = {
    "losses": [{"kind": "labels"}, {"kind": "soft_targets"}, {"kind": "hint", "weight": 0.1}],
    "train": {"epochs": 6, "batch_size": 16},
}


class StopLater:
    """Stops at a given call."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        return 143 if self.left < 0 else None


def outputs_of(run):
    with np.load(run.run / "predictions.npz") as predictions:
        return predictions["logits"]


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(tmp_path):
    data = save_npz(tmp_path / "blobs.npz")
    classifier(width=2, softmax=False).export(tmp_path / "student", verbose=False)
    given = {"teacher": classifier(seed=3), "student": tmp_path / "student", "recipe": RECIPE, "data": data}
    given["preflight"] = False
    whole = kdcli.distill(**given, out=tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        kdcli.distill(**given, out=tmp_path / "parts", stop=StopLater(5))
    assert stopped.value.exit_code == 143
    assert (tmp_path / "parts" / "checkpoint").exists()
    assert not (tmp_path / "parts" / "student_saved_model").exists()
    parts = kdcli.distill(**given, out=tmp_path / "parts", resume=True)
    assert parts.steps == whole.steps and parts.test == whole.test
    np.testing.assert_array_equal(outputs_of(parts), outputs_of(whole))
    shown = kdcli.distill(**given, out=tmp_path / "parts", resume=True)
    assert shown.model_path == parts.model_path


def test_a_teacher_saved_model_is_trained_further(tmp_path):
    data = save_npz(tmp_path / "blobs.npz")
    bar_reader().export(tmp_path / "teacher", verbose=False)
    settings = ["teacher.start=file", "train.epochs=1", "train.optimizer.learning_rate=1e-4"]
    run = kdcli.train_teacher(teacher=tmp_path / "teacher", data=data, settings=settings, out=tmp_path / "run")
    assert run.model_path.name == "teacher_saved_model"
    assert run.test.accuracy == 1.0
    with pytest.raises(kdcli.KdError, match="cannot be reinitialized: it is not a Keras model") as failure:
        kdcli.train_teacher(teacher=tmp_path / "teacher", data=data, out=tmp_path / "fresh")
    assert "teacher.start=file" in failure.value.hint
