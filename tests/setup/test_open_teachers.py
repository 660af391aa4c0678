"""Recorded teacher outputs: they train the same student as the model itself; unsupported settings are refused."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import bar_reader, save_npz

import kdcli
from kdcli.errors import KdError

OPTIONS = {"epochs": 2, "seed": 3, "settings": ["train.batch_size=16"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    save_npz(folder / "data.npz")
    bar_reader().save(folder / "teacher.keras")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    keras.Sequential(layers).save(folder / "student.keras")
    kdcli.predict(folder / "teacher.keras", data=folder / "data.npz", split="train", out=folder / "answers.npz")
    return folder


def distilled(folder, tmp_path, teacher="answers.npz", **options):
    given = {"student": folder / "student.keras", "data": folder / "data.npz", **OPTIONS, **options}
    return kdcli.distill(teacher=folder / teacher, out=tmp_path / f"from-{Path(teacher).stem}", **given)


def test_recorded_outputs_train_the_same_student_as_the_model(folder, tmp_path):
    recorded, live = (distilled(folder, tmp_path, name) for name in ("answers.npz", "teacher.keras"))
    ours, theirs = (keras.saving.load_model(run.model_path).get_weights() for run in (recorded, live))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    document = recorded.to_json()
    assert document["teacher"]["accuracy"] is None and document["teacher"]["agreement"] is None
    assert document["test"]["accuracy"] == live.to_json()["test"]["accuracy"]
    assert document["targets"]["mode"] == "memory"
    assert document["teacher"]["path"].endswith("answers.npz")


def edited(folder, tmp_path, **arrays):
    with np.load(folder / "answers.npz") as file:
        content = {**file, **arrays}
    path = tmp_path / "edited.npz"
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


REFUSED = {
    "data": ({"fingerprint": np.array("f" * 64)}, {}, 4, "recorded for other data .fingerprint ffffffffffff"),
    "missing": (
        {"index": np.arange(96) + 1},
        {},
        4,
        r"no outputs for 1 of \d+ examples of the training split .index 0",
    ),
    "classes": ({"logits": np.zeros((96, 5))}, {}, 4, "has 5 outputs, the data has 3 classes"),
    "augment": (
        {},
        {"settings": ["data.augment=[{kind: shift, pixels: 1}]"]},
        2,
        "without augmentation",
    ),
    "live": ({}, {"settings": ["teacher.targets=live"]}, 2, "recorded outputs cannot be computed again"),
    "output": ({}, {"settings": ["teacher.output=label"]}, 2, "teacher.output applies to a model file"),
    "kind": ({}, {"settings": ["teacher.output_kind=sigmoid"]}, 2, "but .* holds logits"),
    "features": ({}, {"recipe": {"losses": [{"kind": "hint"}]}}, 4, "losses.hint compares inner layers"),
    "student": ({}, {"student": "edited.npz"}, 4, "data or recorded outputs, not a model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_recorded_outputs_cannot_satisfy_are_refused_before_training(folder, tmp_path, name):
    arrays, options, code, message = REFUSED[name]
    path = edited(folder, tmp_path, **arrays)
    if "student" in options:
        options = {"student": path}
    with pytest.raises(KdError, match=message) as caught:
        distilled(folder, tmp_path, path, **options)
    assert caught.value.exit_code == code
    assert sorted(one.name for one in tmp_path.iterdir()) == ["edited.npz"]


def test_columns_are_mapped_and_outputs_may_have_any_order(folder, tmp_path):
    with np.load(folder / "answers.npz") as file:
        logits, index = file["logits"], file["index"]
    turned = np.concatenate([logits[::-1], np.zeros((96, 1))], 1)[:, [3, 2, 1, 0]]
    path = edited(
        folder, tmp_path, logits=turned, index=index[::-1], probabilities=None, fingerprint=None, predicted=None
    )
    one = distilled(folder, tmp_path / "a", path, settings=["train.batch_size=16", "teacher.classes=[3, 2, 1]"])
    other = distilled(folder, tmp_path / "b")
    assert one.to_json()["validation"] == other.to_json()["validation"]


def test_a_comparison_accepts_recorded_outputs(folder, tmp_path):
    compared = kdcli.compare(
        teacher=folder / "answers.npz",
        students=[folder / "student.keras"],
        data=folder / "data.npz",
        repeats=1,
        epochs=1,
        latency=False,
        out=tmp_path / "compared",
    )
    document = compared.to_json()
    assert document["teacher"]["score"] is None and document["teacher"]["path"].endswith("answers.npz")
    assert [student["status"] for student in document["students"]] == ["finished", "finished"]
    assert document["students"][1]["gap_recovered"] is None
