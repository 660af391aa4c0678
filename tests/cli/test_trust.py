"""Trust on the command line: --trust-model, --code, --allow-remote, and what is refused without them."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import bar_reader, save_npz

pytestmark = pytest.mark.usefixtures("own_layers_forgotten")
LAYERS = '''
import keras

@keras.saving.register_keras_serializable(package="mine")
class Scaled(keras.layers.Layer):
    """Multiplies by two."""

    def call(self, inputs):
        return inputs * 2.0
'''


def bar_reader_behind(layer):
    """The bar reader behind a layer that does not change its predictions."""
    reader = bar_reader()
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, reader(layer(inputs)))


@pytest.fixture
def data(tmp_path):
    return save_npz(tmp_path / "blobs.npz")


@pytest.fixture
def sly(tmp_path):
    """A model with Python code in a Lambda layer."""
    model = bar_reader_behind(keras.layers.Lambda(lambda x: x * 1.0, output_shape=(8, 8, 1), name="sly"))
    model.save(tmp_path / "sly.keras")
    return tmp_path / "sly.keras"


@pytest.fixture
def custom(tmp_path):
    """A model with a custom layer, and the file that defines it, which has not been run in this process."""
    code = tmp_path / "layers.py"
    code.write_text(LAYERS)
    space = {}
    exec(LAYERS, space)
    bar_reader_behind(space["Scaled"](name="mine")).save(tmp_path / "custom.keras")
    keras.saving.get_custom_objects().pop("mine>Scaled")
    return tmp_path / "custom.keras", code


@pytest.mark.parametrize("command", ["evaluate", "predict", "export", "distill", "train-teacher", "inspect"])
def test_every_command_refuses_a_model_that_contains_code(kd, sly, data, command):
    words = {
        "evaluate": [sly],
        "predict": [sly, "--out", "a.npz"],
        "export": [sly, "--format", "keras"],
        "distill": ["--teacher", sly, "--student", sly],
        "train-teacher": ["--teacher", sly, "--set", "teacher.start=file"],
        "inspect": [sly],
    }[command]
    ran = kd(command, *words, "--data", data)
    assert ran.code == 4
    assert f"error: {sly}: refused, lambda: " in ran.err and "sly" in ran.err
    assert "hint: " in ran.err


def test_compare_refuses_a_student_that_contains_code(kd, sly, data, tmp_path):
    bar_reader().save(tmp_path / "t.keras")
    ran = kd("compare", "--teacher", tmp_path / "t.keras", "--student", sly, "--data", data, "--epochs", "1")
    assert (ran.code, ran.out) == (4, "")
    assert "refused, lambda" in ran.err


def test_inspect_prints_the_findings_and_exits_with_4(kd, sly):
    ran = kd("inspect", sly, "--json")
    assert ran.code == 4
    assert ran.document["schema"] == "kd.inspect/1"
    assert ran.document["safe"] is False and ran.document["format"] == "keras"
    assert any(finding.startswith("lambda: ") for finding in ran.document["findings"])
    assert len(ran.document["sha256"]) == 64


def test_trust_model_opens_the_file_with_a_warning(kd, sly, data):
    ran = kd("evaluate", sly, "--data", data, "--trust-model", "--json")
    assert ran.code == 0
    assert ran.document["models"][0]["accuracy"] == 1.0
    assert "warning: " in ran.err and "--trust-model; screening found lambda" in ran.err


def test_a_run_records_the_trust(kd, sly, data, tmp_path):
    bar_reader().save(tmp_path / "t.keras")
    words = ["--teacher", sly, "--student", tmp_path / "t.keras", "--data", data, "--epochs", "1"]
    ran = kd("distill", *words, "--no-preflight", "--trust-model", "--out", "run")
    assert ran.code == 0, ran.err
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["trust"] == {"model": True, "tables": False, "remote": False}
    assert environment["inputs"]["teacher"]["findings"][0].startswith("lambda: ")
    assert environment["inputs"]["teacher"]["format"] == "keras"


@pytest.mark.parametrize("setting", ["teacher.trust_model=true", "trust_model=true", "trust={model: true}"])
def test_a_recipe_cannot_set_trust(kd, sly, data, setting):
    ran = kd("evaluate", sly, "--data", data, "--set", setting)
    assert ran.code == 2 and "unknown key" in ran.err


def test_custom_layers_are_refused_with_a_hint(kd, custom, data):
    path, _ = custom
    ran = kd("evaluate", path, "--data", data)
    assert ran.code == 4
    assert "Scaled" in ran.err and "mine" in ran.err
    assert "--code FILE.py" in ran.err.splitlines()[-1]


def test_code_registers_custom_layers(kd, custom, data, tmp_path):
    path, code = custom
    ran = kd("evaluate", path, "--data", data, "--code", code, "--json")
    assert (ran.code, ran.document["models"][0]["accuracy"]) == (0, 1.0)
    bar_reader().save(tmp_path / "s.keras")
    words = ["--teacher", path, "--student", tmp_path / "s.keras", "--data", data, "--epochs", "1"]
    ran = kd("distill", *words, "--no-preflight", "--code", code, "--out", "run")
    assert ran.code == 0, ran.err
    inputs = json.loads((tmp_path / "run" / "environment.json").read_text())["inputs"]
    assert len(inputs["code layers.py"]["sha256"]) == 64


def test_missing_code_is_a_usage_error(kd, custom, data):
    ran = kd("evaluate", custom[0], "--data", data, "--code", "nowhere.py")
    assert ran.code == 2
    assert ran.err.startswith("error: --code nowhere.py: no such file")


@pytest.mark.parametrize(("option", "value"), [("--signature", "serve"), ("--output", "logits2")])
def test_an_unknown_signature_or_output_is_a_usage_error(kd, data, tmp_path, option, value):
    bar_reader().save(tmp_path / "m.keras")
    ran = kd("evaluate", tmp_path / "m.keras", "--data", data, option, value)
    assert ran.code == 2 and value in ran.err


def test_a_model_with_nan_weights_is_not_safe(kd, tmp_path):
    model = bar_reader()
    model.layers[-1].set_weights([np.full((64, 3), np.nan), np.zeros(3)])
    model.save(tmp_path / "nan.keras")
    ran = kd("inspect", tmp_path / "nan.keras", "--json")
    assert (ran.code, ran.document["safe"]) == (4, False)
    assert any("NaN" in finding for finding in ran.document["findings"])
    assert "contains NaN or infinity" in ran.err


def test_a_remote_model_is_refused(kd, data):
    ran = kd("evaluate", "http://127.0.0.1:1/m.keras", "--data", data)
    assert ran.code == 4
    assert ran.err.splitlines() == [
        "error: http://127.0.0.1:1/m.keras: is a remote path",
        "hint: --allow-remote downloads and screens it",
    ]
