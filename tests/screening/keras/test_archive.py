"""Keras files: hostile ones are refused for the right reason without running, benign ones never."""

from __future__ import annotations

import json
import os
import warnings
import zipfile

import benign_keras
import hostile_keras
import keras
import pytest

from kdcli.errors import ModelError
from kdcli.screening.keras.archive import screen_keras
from kdcli.screening.keras.hdf5 import screen_hdf5

SCREENS = {".keras": screen_keras, ".h5": screen_hdf5}


@keras.saving.register_keras_serializable("screened")
class Twice(keras.layers.Layer):
    """A layer that Keras does not bring."""

    def call(self, inputs):
        return 2 * inputs


@keras.saving.register_keras_serializable("screened")
class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, **more):
        super().__init__(**more)
        self.inside = keras.layers.Dense(2)

    def call(self, inputs):
        return self.inside(inputs)


def saved(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


@pytest.mark.parametrize("name", hostile_keras.HOSTILE)
def test_a_hostile_file_is_refused_by_its_rule_and_nothing_runs(name, tmp_path):
    suffix, rule, make = hostile_keras.HOSTILE[name]
    path = tmp_path / f"model{suffix}"
    make(path)
    before = sorted(tmp_path.iterdir())
    verdict = SCREENS[suffix](path, code=())
    assert not verdict.safe
    assert verdict.refused[0].rule == rule, [str(finding) for finding in verdict.findings]
    assert not hostile_keras.marker(path).exists()
    assert sorted(tmp_path.iterdir()) == before
    assert all(len(str(finding)) < 500 and "\n" not in str(finding) for finding in verdict.findings)


def test_the_hostile_files_hold_nothing_else_that_is_refused(tmp_path):
    new, old = tmp_path / "model.keras", tmp_path / "model.h5"
    hostile_keras.write_keras(new, hostile_keras.sequential(hostile_keras.dense()))
    hostile_keras.write_h5(old, hostile_keras.old(hostile_keras.old_dense()))
    assert screen_keras(new, custom_names=()).findings == ()
    assert screen_hdf5(old, custom_names=()).findings == ()
    assert keras.saving.load_model(new, compile=False).count_params() == 15
    assert len(hostile_keras.HOSTILE) >= 100


def test_a_lambda_of_the_hostile_files_would_run_when_keras_is_told_to(tmp_path):
    path = tmp_path / "model.keras"
    hostile_keras.HOSTILE["lambda"][2](path)
    with pytest.raises(Exception, match="Python lambda"):
        keras.saving.load_model(path, compile=False, safe_mode=True)
    assert not hostile_keras.marker(path).exists()
    keras.saving.load_model(path, compile=False, safe_mode=False)
    assert hostile_keras.marker(path).exists()


@pytest.mark.parametrize("make", benign_keras.MODELS, ids=lambda make: make.__name__)
def test_a_benign_model_is_safe(make, tmp_path):
    verdict = screen_keras(saved(make(), tmp_path / "model.keras"), custom_names=())
    assert [str(finding) for finding in verdict.findings] == []


@pytest.mark.parametrize("make", benign_keras.OLD, ids=lambda make: make.__name__)
def test_a_benign_old_file_is_safe(make, tmp_path):
    model = make()
    verdict = screen_hdf5(saved(model, tmp_path / "model.h5"), custom_names=())
    assert [str(finding) for finding in verdict.findings] == []
    assert verdict.values >= model.count_params()


@pytest.mark.slow
@pytest.mark.parametrize("family", benign_keras.FAMILIES)
def test_an_application_is_safe(family, tmp_path):
    size = benign_keras.FAMILIES[family]
    make = getattr(keras.applications, family)
    model = make(weights=None, input_shape=(size, size, 3), include_top=False)
    for suffix, screen in SCREENS.items():
        verdict = screen(saved(model, tmp_path / f"model{suffix}"), code=())
        assert [str(finding) for finding in verdict.findings] == []
        assert verdict.values == model.count_params()


def test_an_application_and_its_largest_numbers(tmp_path):
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=7)
    assert screen_keras(saved(model, tmp_path / "model.keras"), custom_names=()).findings == ()


def test_an_own_layer_wants_its_code(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Twice(name="double")(keras.layers.Dense(2)(inputs)))
    path = saved(model, tmp_path / "model.keras")
    (finding,) = screen_keras(path, custom_names=()).findings
    assert finding.rule == "class"
    assert "'double'" in finding.message and "'Twice'" in finding.message
    assert finding.hint.startswith("--code FILE.py")
    assert screen_keras(path, custom_names={"screened>Twice"}).findings == ()


def test_a_subclassed_model_wants_its_code(tmp_path):
    model = Subclassed()
    model(keras.ops.ones((1, 3)))
    path = saved(model, tmp_path / "model.keras")
    assert [finding.rule for finding in screen_keras(path, custom_names=()).refused] == ["class"]
    assert screen_keras(path, custom_names={"screened>Subclassed"}).findings == ()


def test_the_name_of_own_code_does_not_let_others_in(tmp_path):
    path = tmp_path / "model.keras"
    hostile_keras.HOSTILE["own-layer"][2](path)
    assert not screen_keras(path, custom_names={"my_package>Other"}).safe
    hostile_keras.HOSTILE["lambda"][2](path)
    assert not screen_keras(path, custom_names={"my_package>Mine"}).safe
    old = {"class_name": "Lambda", "registered_name": "my_package>Mine", "config": {"name": "run"}}
    hostile_keras.write_keras(path, hostile_keras.sequential(old))
    assert [finding.rule for finding in screen_keras(path, custom_names={"my_package>Mine"}).refused] == ["lambda"]


def test_how_the_model_was_compiled_is_left_out(tmp_path):
    path = tmp_path / "model.keras"
    config = hostile_keras.sequential(
        hostile_keras.dense(), compile_config={"loss": hostile_keras.marshalled(path), "optimizer": "sgd"}
    )
    hostile_keras.write_keras(path, config)
    assert screen_keras(path, custom_names=()).findings == ()
    assert not keras.saving.load_model(path, compile=False).compiled
    assert not hostile_keras.marker(path).exists()


def test_the_training_of_an_old_file_is_left_out(tmp_path):
    path = tmp_path / "model.h5"

    def fill(file):
        loss = {"class_name": "Lambda", "config": {"function": hostile_keras.marshalled(path)}}
        file.attrs["training_config"] = json.dumps({"loss": loss, "optimizer_config": loss})
        file.create_group("optimizer_weights")

    hostile_keras.write_h5(path, hostile_keras.old(hostile_keras.old_dense()), fill)
    assert screen_hdf5(path, custom_names=()).findings == ()
    assert not keras.saving.load_model(path, compile=False).compiled
    assert not hostile_keras.marker(path).exists()


def test_a_member_that_keras_does_not_write_is_told(tmp_path):
    path = tmp_path / "model.keras"
    hostile_keras.write_keras(path, hostile_keras.sequential(hostile_keras.dense()), README__md=b"hello")
    verdict = screen_keras(path, custom_names=())
    assert verdict.safe
    assert [str(finding) for finding in verdict.findings] == [
        "member: Keras writes no member 'README.md'; it is not used"
    ]


def test_an_archive_that_was_packed_again_is_safe(tmp_path):
    plain, packed = saved(benign_keras.text(), tmp_path / "plain.keras"), tmp_path / "packed.keras"
    with zipfile.ZipFile(plain) as before, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    verdict = screen_keras(packed, custom_names=())
    assert verdict.findings == ()
    assert verdict.values == screen_keras(plain, custom_names=()).values > 0


@pytest.mark.parametrize("screen", SCREENS.values())
def test_a_file_that_cannot_be_opened_is_one_line(screen, tmp_path):
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        screen(tmp_path / "none", code=())
    if os.geteuid():
        path = tmp_path / "closed"
        path.touch(mode=0)
        with pytest.raises(ModelError, match="Permission denied"):
            screen(path, code=())
