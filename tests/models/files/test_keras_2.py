"""Files of Keras 2 as Keras 3 graphs, which can be shrunk."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from conftest import save_npz

import kdcli
from kdcli.errors import ModelError
from kdcli.models.files.open import open_file
from kdcli.models.keras.network import KerasNetwork

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="tf_keras is not installed")

# Three models as Keras 2 saves them, with what they compute: a residual one, one like those of Teachable Machine
# (models in a model), and one with a layer that Keras 3 does not have.
SCRIPT = """
import sys, numpy as np, tf_keras as keras
from tf_keras import layers
folder = sys.argv[1]
keras.utils.set_random_seed(0)
inputs = keras.Input((8, 8, 1))
x = layers.Conv2D(16, 3, padding="same")(inputs)
y = layers.ReLU(6.0)(layers.BatchNormalization()(x))
x = layers.Conv2D(16, 1)(layers.DepthwiseConv2D(3, padding="same")(y))
x = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(layers.Add()([x, y])))
residual = keras.Model(inputs, x)
body = keras.Sequential([layers.InputLayer((8, 8, 1)), layers.Conv2D(16, 3), layers.DepthwiseConv2D(3),
                         layers.BatchNormalization(), layers.GlobalAveragePooling2D()])
nested = keras.Sequential([body, keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(3)])])
nested.build((None, 8, 8, 1))
own = keras.Sequential([layers.InputLayer((8, 8, 1)), layers.ThresholdedReLU(theta=0.5), layers.Flatten(),
                        layers.Dense(3)])
examples = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
for name, model in {"residual": residual, "nested": nested, "own": own}.items():
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).uniform(0.2, 1, weight.shape))
    model.save(f"{folder}/{name}.h5")
    model.save(f"{folder}/{name}")
    np.save(f"{folder}/{name}.npy", model.predict(examples, verbose=0))
np.save(f"{folder}/examples.npy", examples)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras_2")
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.parametrize("form", [".h5", ""])
@pytest.mark.parametrize("name", ["residual", "nested"])
def test_the_graph_of_keras_3_computes_what_keras_2_computed(folder, name, form):
    network = open_file(folder / f"{name}{form}", rebuild=True).network
    assert isinstance(network, KerasNetwork)
    found = network.model(np.load(folder / "examples.npy"), training=False)
    np.testing.assert_allclose(np.asarray(found), np.load(folder / f"{name}.npy"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [".h5", ""])
def test_a_layer_that_keras_3_does_not_have_is_named(folder, form):
    with pytest.raises(ModelError, match="ThresholdedReLU") as caught:
        open_file(folder / f"own{form}", rebuild=True)
    assert caught.value.exit_code == 4


def test_other_outputs_than_the_graph_are_refused(folder, monkeypatch):
    from kdcli.models.files import keras_2

    def load(model, path):
        del path
        for weight in model.weights:
            weight.assign(np.full(weight.shape, 0.1))

    monkeypatch.setattr(keras_2, "load_keras_2_weights", load)
    with pytest.raises(ModelError, match="its outputs differ from the file's by"):
        open_file(folder / "residual.h5", rebuild=True)


@pytest.mark.slow
def test_it_is_shrunk_by_the_command_and_in_a_run(folder, tmp_path):
    data = save_npz(tmp_path / "data.npz")
    result = kdcli.shrink(folder / "residual", data=data, keep=0.5, out=tmp_path / "student.keras", round_to=8)
    assert result.student.parameters < result.teacher.parameters
    run = kdcli.distill(
        teacher=folder / "nested.h5",
        data=data,
        settings=["student.model={kind: shrunk, keep: 0.5}"],
        epochs=1,
        preflight=False,
        out=tmp_path / "run",
    )
    assert run.parameters < 800


def test_a_saved_model_without_metadata_does_not_tell_its_layers(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.export(tmp_path / "exported", verbose=False)
    with pytest.raises(ModelError, match="without Keras metadata does not list its layers"):
        kdcli.shrink(tmp_path / "exported", keep=0.5, out=tmp_path / "student.keras")
