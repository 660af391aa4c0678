"""Screening of `.keras` and `.h5` files: hostile files are refused by the right rule, benign files are safe."""

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
class Double(keras.layers.Layer):
    """A layer that is not part of Keras."""

    def call(self, inputs):
        return 2 * inputs


@keras.saving.register_keras_serializable("screened")
class Subclassed(keras.Model):
    """A model that is not a graph of layers."""

    def __init__(self, **more):
        super().__init__(**more)
        self.inside = keras.layers.Dense(2)

    def call(self, inputs):
        return self.inside(inputs)


def save(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


@pytest.mark.parametrize("name", hostile_keras.HOSTILE)
def test_hostile_files_are_refused_by_their_rule_and_nothing_runs(name, tmp_path):
    suffix, rule, make = hostile_keras.HOSTILE[name]
    path = tmp_path / f"model{suffix}"
    make(path)
    before = sorted(tmp_path.iterdir())
    verdict = SCREENS[suffix](path, custom_names=())
    assert not verdict.safe
    assert verdict.refused[0].rule == rule, [str(finding) for finding in verdict.findings]
    assert not hostile_keras.marker(path).exists()
    assert sorted(tmp_path.iterdir()) == before
    assert all(len(str(finding)) < 500 and "\n" not in str(finding) for finding in verdict.findings)


def test_the_files_that_hostile_files_are_made_from_are_safe(tmp_path):
    new, old = tmp_path / "model.keras", tmp_path / "model.h5"
    hostile_keras.write_keras(new, hostile_keras.sequential(hostile_keras.dense()))
    hostile_keras.write_h5(old, hostile_keras.old(hostile_keras.old_dense()))
    assert screen_keras(new, custom_names=()).findings == ()
    assert screen_hdf5(old, custom_names=()).findings == ()
    assert keras.saving.load_model(new, compile=False).count_params() == 15
    assert len(hostile_keras.HOSTILE) >= 100


def test_the_code_in_a_hostile_file_runs_in_keras_without_safe_mode(tmp_path):
    path = tmp_path / "model.keras"
    hostile_keras.HOSTILE["lambda"][2](path)
    with pytest.raises(Exception, match="Python lambda"):
        keras.saving.load_model(path, compile=False, safe_mode=True)
    assert not hostile_keras.marker(path).exists()
    keras.saving.load_model(path, compile=False, safe_mode=False)
    assert hostile_keras.marker(path).exists()


@pytest.mark.parametrize("make", benign_keras.MODELS, ids=lambda make: make.__name__)
def test_benign_models_are_safe(make, tmp_path):
    verdict = screen_keras(save(make(), tmp_path / "model.keras"), custom_names=())
    assert [str(finding) for finding in verdict.findings] == []


@pytest.mark.parametrize("make", benign_keras.H5_MODELS, ids=lambda make: make.__name__)
def test_benign_h5_files_are_safe(make, tmp_path):
    model = make()
    verdict = screen_hdf5(save(model, tmp_path / "model.h5"), custom_names=())
    assert [str(finding) for finding in verdict.findings] == []
    assert verdict.values >= model.count_params()


@pytest.mark.slow
@pytest.mark.parametrize("family", benign_keras.FAMILIES)
def test_applications_are_safe(family, tmp_path):
    size = benign_keras.FAMILIES[family]
    make = getattr(keras.applications, family)
    model = make(weights=None, input_shape=(size, size, 3), include_top=False)
    for suffix, screen in SCREENS.items():
        verdict = screen(save(model, tmp_path / f"model{suffix}"), custom_names=())
        assert [str(finding) for finding in verdict.findings] == []
        assert verdict.values == model.count_params()


def test_the_largest_numbers_of_an_application_are_safe(tmp_path):
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=7)
    assert screen_keras(save(model, tmp_path / "model.keras"), custom_names=()).findings == ()


def test_a_custom_layer_needs_its_code(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Double(name="double")(keras.layers.Dense(2)(inputs)))
    path = save(model, tmp_path / "model.keras")
    (finding,) = screen_keras(path, custom_names=()).findings
    assert finding.rule == "class"
    assert "'double'" in finding.message and "'Double'" in finding.message
    assert finding.hint.startswith("--code FILE.py")
    assert screen_keras(path, custom_names={"screened>Double"}).findings == ()


def test_a_subclassed_model_needs_its_code(tmp_path):
    model = Subclassed()
    model(keras.ops.ones((1, 3)))
    path = save(model, tmp_path / "model.keras")
    assert [finding.rule for finding in screen_keras(path, custom_names=()).refused] == ["class"]
    assert screen_keras(path, custom_names={"screened>Subclassed"}).findings == ()


def test_a_registered_name_allows_no_other_class(tmp_path):
    path = tmp_path / "model.keras"
    hostile_keras.HOSTILE["custom-layer"][2](path)
    assert not screen_keras(path, custom_names={"my_package>Other"}).safe
    hostile_keras.HOSTILE["lambda"][2](path)
    assert not screen_keras(path, custom_names={"my_package>Mine"}).safe
    old = {"class_name": "Lambda", "registered_name": "my_package>Mine", "config": {"name": "run"}}
    hostile_keras.write_keras(path, hostile_keras.sequential(old))
    assert [finding.rule for finding in screen_keras(path, custom_names={"my_package>Mine"}).refused] == ["lambda"]


def test_compile_settings_are_ignored(tmp_path):
    path = tmp_path / "model.keras"
    config = hostile_keras.sequential(
        hostile_keras.dense(), compile_config={"loss": hostile_keras.marshal_lambda(path), "optimizer": "sgd"}
    )
    hostile_keras.write_keras(path, config)
    assert screen_keras(path, custom_names=()).findings == ()
    assert not keras.saving.load_model(path, compile=False).compiled
    assert not hostile_keras.marker(path).exists()


def test_the_training_settings_of_an_h5_file_are_ignored(tmp_path):
    path = tmp_path / "model.h5"

    def fill(file):
        loss = {"class_name": "Lambda", "config": {"function": hostile_keras.marshal_lambda(path)}}
        file.attrs["training_config"] = json.dumps({"loss": loss, "optimizer_config": loss})
        file.create_group("optimizer_weights")

    hostile_keras.write_h5(path, hostile_keras.old(hostile_keras.old_dense()), fill)
    assert screen_hdf5(path, custom_names=()).findings == ()
    assert not keras.saving.load_model(path, compile=False).compiled
    assert not hostile_keras.marker(path).exists()


def test_an_unknown_member_is_reported_but_not_refused(tmp_path):
    path = tmp_path / "model.keras"
    hostile_keras.write_keras(path, hostile_keras.sequential(hostile_keras.dense()), README__md=b"hello")
    verdict = screen_keras(path, custom_names=())
    assert verdict.safe
    assert [str(finding) for finding in verdict.findings] == [
        "member: the member 'README.md' is not part of a Keras file and is ignored"
    ]


def test_a_recompressed_archive_is_safe(tmp_path):
    plain, packed = save(benign_keras.text(), tmp_path / "plain.keras"), tmp_path / "packed.keras"
    with zipfile.ZipFile(plain) as before, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    verdict = screen_keras(packed, custom_names=())
    assert verdict.findings == ()
    assert verdict.values == screen_keras(plain, custom_names=()).values > 0


@pytest.mark.parametrize("screen", SCREENS.values())
def test_a_file_that_cannot_be_opened_is_an_error(screen, tmp_path):
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        screen(tmp_path / "none", custom_names=())
    if os.geteuid():
        path = tmp_path / "closed"
        path.touch(mode=0)
        with pytest.raises(ModelError, match="Permission denied"):
            screen(path, custom_names=())
