"""Every origin of a model × everything that kd does with one: it works, or it is refused with the reason."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from conftest import bar_reader, blobs
from origins import classifier, save_as, taught

import kdcli
from kdcli.errors import KdError

EXTRAS = {"tflite": "ai_edge_litert", "onnx": "tf2onnx"}
EXTRAS |= dict.fromkeys(("keras-2-saved-model", "keras-2-h5"), "tf_keras")
WITH_LAYERS = ("keras", "h5", "keras-3-saved-model", "keras-2-saved-model", "module", "keras-2-h5")
WITHOUT_LAYERS = ("tflite", "onnx")
ORIGINS = (*WITH_LAYERS, *WITHOUT_LAYERS)
SOFT = {"losses": [{"kind": "soft_targets", "temperature": 2.0}], "train": {"epochs": 1, "batch_size": 32}}
HINT = {**SOFT, "losses": [{"kind": "hint"}, {"kind": "soft_targets"}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Blobs of which every ninth test label is wrong, so that no accuracy is 1."""
    x, y = blobs(96)
    x_test, y_test = blobs(45, seed=1)
    y_test = np.where(np.arange(45) % 9 == 0, (y_test + 1) % 3, y_test)
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path, (x, y, x_test, y_test)


@pytest.fixture(scope="module")
def model(data):
    x, y, _, _ = data[1]
    return taught(x, y)


@pytest.fixture(scope="module")
def saved(data, model, tmp_path_factory):
    """Origin → path and the probabilities of its own framework on the test images, created on first use."""
    images = (data[1][2] / 255.0).astype(np.float32)
    made = {}

    def get(origin):
        if origin in EXTRAS and find_spec(EXTRAS[origin]) is None:
            pytest.skip(f"{EXTRAS[origin]} is not installed")
        if origin not in made:
            made[origin] = save_as(origin, model, tmp_path_factory.mktemp(origin), images)
        return made[origin]

    return get


@pytest.mark.parametrize("origin", ORIGINS)
def test_inspect(saved, origin):
    path, _ = saved(origin)
    inspection = kdcli.inspect(path)
    assert inspection.refused is None and inspection.safe, inspection.findings
    assert [(one.shape, one.dtype) for one in inspection.inputs] == [((None, 8, 8, 1), "float32")]
    assert [one.shape for one in inspection.outputs] == [(None, 3)]
    if origin in WITHOUT_LAYERS:
        assert inspection.taps is None
        return
    assert inspection.output_kind == "probabilities"
    assert inspection.parameters == classifier().count_params()
    taps = {tap.name: tap.shape for tap in inspection.taps}
    if origin != "module":
        expected = {"edges": (None, 8, 8, 4), "shapes": (None, 8, 8, 4), "pool": (None, 4, 4, 4)}
        assert expected.items() <= taps.items()
    assert (None, 8, 8, 4) in taps.values() and (None, 4, 4, 4) in taps.values()


@pytest.mark.parametrize("origin", ORIGINS)
def test_evaluate_gives_the_metrics_of_its_own_framework(saved, data, origin, tmp_path):
    path, own = saved(origin)
    y_test = data[1][3]
    evaluated = kdcli.evaluate(path, data=data[0]).models[0]
    assert evaluated.quality.accuracy == pytest.approx(np.mean(own.argmax(1) == y_test), abs=1e-6)
    assert 0.5 < evaluated.quality.accuracy < 1
    loss = -np.log(own[np.arange(len(own)), y_test].astype(np.float64)).mean()
    assert evaluated.quality.loss == pytest.approx(loss, rel=1e-4)
    kdcli.predict(path, data=data[0], out=tmp_path / "answers.npz")
    with np.load(tmp_path / "answers.npz") as answers:
        np.testing.assert_allclose(answers["probabilities"], own, atol=1e-6)


@pytest.mark.parametrize("origin", ORIGINS)
def test_it_teaches_by_its_outputs(saved, data, origin, tmp_path):
    path, own = saved(origin)
    student = classifier(seed=1, width=2)
    run = kdcli.distill(teacher=path, student=student, recipe=SOFT, data=data[0], out=tmp_path / "run")
    assert run.teacher["accuracy"] == pytest.approx(np.mean(own.argmax(1) == data[1][3]), abs=1e-6)
    assert run.targets["mode"] == "disk"


@pytest.mark.parametrize("origin", ORIGINS)
def test_it_teaches_by_its_features(saved, data, origin, tmp_path):
    path, _ = saved(origin)
    student = classifier(seed=1, width=2)
    given = {"teacher": path, "student": student, "recipe": HINT, "data": data[0], "out": tmp_path / "run"}
    if origin in WITHOUT_LAYERS:
        with pytest.raises(KdError, match="compares inner layers, and those of the teacher") as failure:
            kdcli.distill(**given)
        assert failure.value.hint and not (tmp_path / "run").exists()
        return
    plan = kdcli.distill(**given, dry_run=True)
    # The last feature map before pooling, on both sides.
    assert [pair["student"] for pair in plan.pairs] == ["shapes"]
    assert plan.pairs[0]["teacher"] == ("shapes" if origin != "module" else plan.pairs[0]["teacher"])
    assert kdcli.distill(**given).epochs == 1


@pytest.fixture
def recorded(saved, data, tmp_path):
    """Recorded outputs of the `.keras` file for all training examples."""
    path, _ = saved("keras")
    kdcli.predict(path, data=data[0], split="train", out=tmp_path / "answers.npz")
    return tmp_path / "answers.npz"


def test_recorded_outputs_replace_the_teacher(saved, recorded, data, tmp_path):
    students = []
    for number, teacher in enumerate((recorded, saved("keras")[0])):
        student = classifier(seed=1, width=2)
        out = tmp_path / f"run-{number}"
        kdcli.distill(teacher=teacher, student=student, recipe=SOFT, data=data[0], out=out)
        students.append(student.get_weights())
    for ours, theirs in zip(*students, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_recorded_outputs_are_refused_elsewhere(saved, recorded, data, tmp_path):
    given = {"recipe": HINT, "data": data[0], "out": tmp_path / "run"}
    refusals = [
        (lambda: kdcli.inspect(recorded), "data or recorded outputs, not a model"),
        (lambda: kdcli.evaluate(recorded, data=data[0]), "data or recorded outputs, not a model"),
        (lambda: kdcli.distill(teacher=recorded, student=classifier(), **given), "compares inner layers"),
        (
            lambda: kdcli.distill(teacher=saved("keras")[0], student=recorded, **given),
            "recorded outputs, not a model",
        ),
    ]
    for refused, reason in refusals:
        with pytest.raises(KdError, match=reason) as failure:
            refused()
        assert failure.value.hint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("origin", ORIGINS)
def test_it_learns(saved, data, origin, tmp_path):
    path, own = saved(origin)
    given = {"teacher": bar_reader(), "student": path, "recipe": SOFT, "data": data[0], "out": tmp_path / "run"}
    given["settings"] = ["student.start=file", "train.epochs=4"]
    if origin in WITHOUT_LAYERS:
        with pytest.raises(KdError, match="can be run, but not trained") as failure:
            kdcli.distill(**given)
        assert failure.value.hint and not (tmp_path / "run").exists()
        return
    run = kdcli.distill(**given)
    before = -np.log(own[np.arange(len(own)), data[1][3]]).mean()
    assert abs(run.test.loss - before) > 1e-3
    model_path = (
        tmp_path / "run" / ("student.keras" if origin in ("keras", "h5", "keras-2-h5") else "student_saved_model")
    )
    assert run.model_path == model_path and model_path.exists()
    again = kdcli.evaluate(run.run, data=data[0]).models[0]
    assert again.quality.accuracy == pytest.approx(run.test.accuracy, abs=1e-6)
    assert again.quality.loss == pytest.approx(run.test.loss, rel=1e-4)
