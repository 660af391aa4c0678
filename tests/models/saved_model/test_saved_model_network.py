"""SavedModels of every origin as networks: their outputs equal those of the framework that made them."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from graph_models import (
    IMAGES,
    KERAS,
    cnn,
    export,
    freeze_here,
    open_frozen,
    save_decoding,
    save_lookup,
    save_plain,
    save_tf1_network,
    with_identity,
)

from kdcli.errors import ModelError, UsageError
from kdcli.models.files.load import load_saved_model
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.saved_model.network import FrozenNetwork, SignatureNetwork
from kdcli.models.saved_model.open import open_legacy

WIDE = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)
ALONE = np.random.default_rng(4).standard_normal((7, 5)).astype(np.float32)


@pytest.fixture(scope="module", params=list(KERAS))
def pair(request, tmp_path_factory):
    """A Keras model, its SavedModel as a network, and an input."""
    build, array = KERAS[request.param]
    model = build()
    network, raw = open_frozen(export(model, tmp_path_factory.mktemp("keras") / request.param), array)
    return model, network, raw


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return save_plain(tmp_path_factory.mktemp("plain") / "module")


def test_outputs_equal_those_of_the_keras_model(pair):
    model, network, raw = pair
    (array,) = raw.values()
    np.testing.assert_allclose(network.compute_saved_output(raw), model(array), atol=1e-6)
    keras_network = KerasNetwork(model, name="keras")
    name = keras_network.inputs[0].name
    keras_network = with_identity(keras_network, **{name: array})
    expected = keras_network.compute({name: array}).logits
    exact = 1e-6 if "bfloat16" not in str({layer.compute_dtype for layer in model.layers}) else 2e-2
    np.testing.assert_allclose(network.compute(raw).logits, expected, atol=exact, rtol=1e-5)
    assert (network.saved_kind, network.output_kind, network.outputs) == (
        keras_network.saved_kind,
        keras_network.output_kind,
        keras_network.outputs,
    )
    assert network.output_shape == keras_network.output_shape
    assert network.parameters == sum(int(np.prod(w.shape)) for w in model.weights if "float" in w.dtype)
    assert network.variables == [] and not network.has_regularization


def test_outputs_and_features_compile(pair):
    _, network, raw = pair
    names = list(network.taps)
    eager = network.compute(raw, taps=names)
    traced = tf.function(lambda given: dict(network.compute(given, taps=names).features), autograph=False)(raw)
    assert len(names) > 1
    for name in names:
        assert traced[name].shape[1:] == network.taps[name], name
        np.testing.assert_allclose(
            tf.cast(traced[name], tf.float32), tf.cast(eager.features[name], tf.float32), atol=1e-2
        )
        assert np.isfinite(tf.cast(traced[name], tf.float32)).all()


def test_logits_are_read_before_the_softmax(tmp_path):
    model = cnn()
    model.layers[-1].set_weights([2000.0 * weight for weight in model.layers[-1].get_weights()])
    network, raw = open_frozen(export(model, tmp_path / "sharp"), IMAGES)
    assert network.logits_from == "before the Softmax"
    logits = network.compute(raw).logits.numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits), model(IMAGES), atol=1e-6)
    # The logarithm of the probabilities would clip these differences.
    assert logits.max() - logits.min() > 30
    values = network.with_output_kinds("values", output_kind="values")
    np.testing.assert_allclose(values.compute(raw).logits, model(IMAGES), atol=1e-6)
    assert values.logits_from == "output" and network.logits_from == "before the Softmax"


def test_a_module_names_its_signatures_and_outputs(module):
    with pytest.raises(
        UsageError, match=r"several signatures and no serving_default \(got embed, four, infer"
    ) as c:
        freeze_here(module)
    assert c.value.hint == "--signature embed"
    with pytest.raises(UsageError, match="no signature 'train'"):
        freeze_here(module, signature="train")
    frozen = freeze_here(module, signature="infer")
    with pytest.raises(UsageError, match="has 3 outputs: best, chosen, logits") as c:
        FrozenNetwork(frozen, name="module")
    assert c.value.hint == "--output best chooses one"
    with pytest.raises(UsageError, match="no output 'logit'; did you mean 'logits'"):
        FrozenNetwork(frozen, name="module", output="logit")
    with pytest.raises(ModelError, match="the output best holds int64"):
        FrozenNetwork(frozen, name="module", output="best")


def test_several_inputs_go_in_by_name(module):
    raw = {"alone": ALONE, "wide": WIDE}
    signature = load_saved_model(module).signatures["infer"]
    expected = signature(alone=tf.constant(ALONE), wide=tf.constant(WIDE))
    frozen = freeze_here(module, signature="infer")
    for output, kind in (("logits", "logits"), ("chosen", "probabilities")):
        network = with_identity(FrozenNetwork(frozen, name="module", output=output), **raw)
        np.testing.assert_allclose(network.compute_saved_output(raw), expected[output], atol=1e-6)
        np.testing.assert_allclose(network.compute(raw).logits, expected["logits"], atol=1e-6)
        assert network.saved_kind == kind
        assert [one.name for one in network.all_outputs] == ["best", "chosen", "logits"]
        assert (network.signature, network.signatures) == ("infer", ("embed", "four", "infer", "scalar"))


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_a_fixed_batch_is_padded(module, count):
    network, raw = open_frozen(module, WIDE, signature="four")
    assert "batches of 4" in network.notes[0]
    raw = {"wide": np.concatenate([WIDE, WIDE])[:count]}
    signature = load_saved_model(module).signatures["four"]
    expected = [signature(wide=tf.constant(np.repeat(one[None], 4, 0)))["scores"][0] for one in raw["wide"]]
    np.testing.assert_allclose(network.compute_saved_output(raw), expected, atol=1e-6)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 3))])
    def compute(wide):
        outputs = network.compute({"wide": wide}, taps=["hidden"])
        return outputs.logits, outputs.features["hidden"]

    logits, hidden = compute(raw["wide"])
    np.testing.assert_allclose(tf.nn.softmax(logits), expected, atol=1e-6)
    assert hidden.shape == (count, 4) and network.taps["hidden"] == (4,)


def test_an_input_without_a_batch_axis_is_refused(module):
    with pytest.raises(ModelError, match=r"module: the input number has no batch axis \(its shape is \(\)\)"):
        FrozenNetwork(freeze_here(module, signature="scalar"), name="module")


def test_savedmodels_of_tensorflow_1_open(tmp_path):
    folder, expected = save_tf1_network(tmp_path / "first")
    network, raw = open_frozen(folder, IMAGES)
    assert (network.signature, network.saved_kind, network.parameters) == ("predict", "probabilities", 128)
    assert list(raw) == ["images"]
    np.testing.assert_allclose(network.compute_saved_output(raw), expected, atol=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(network.compute(raw).logits), expected, atol=1e-6)
    assert network.taps == {"conv": (12, 12, 4), "pool": (4,), "logits": (5,), "scores": (5,)}


def test_a_graph_that_decodes_files_can_start_after_decoding(tmp_path):
    folder = save_decoding(tmp_path / "decoding")
    frozen = freeze_here(folder)
    network = FrozenNetwork(frozen, name="decoding")
    inner = network.decoded_images
    assert inner.endswith("TensorListStack:0") and network.inputs[0].dtype == "string"
    with pytest.raises(ModelError, match="decoding takes the bytes of image files") as caught:
        with_identity(network, files=IMAGES)
    assert caught.value.hint == f"--set student.input.tensor={inner} starts after decoding"
    raw = {inner: 255 * IMAGES}
    started = with_identity(FrozenNetwork(frozen, name="decoding", start_at=inner), **raw)
    assert started.inputs[0].shape == (12, 12, 3)
    np.testing.assert_allclose(started.compute_saved_output(raw), cnn()(IMAGES), atol=1e-6)
    assert {"stem", "block", "out"} <= {name.replace("_1", "") for name in started.taps}


def test_a_network_starts_at_a_layer(tmp_path):
    network, raw = open_frozen(export(cnn(), tmp_path / "cnn"), IMAGES)
    feature = network.compute(raw, taps=["act"]).features["act"].numpy()
    started, given = open_frozen(tmp_path / "cnn", feature, start_at="act")
    np.testing.assert_allclose(started.compute_saved_output(given), network.compute_saved_output(raw), atol=1e-6)
    assert "norm" not in started.taps and "block" in started.taps
    assert "starts at its tensor act" in started.notes[0]
    with pytest.raises(UsageError, match="there is no tensor 'atc'; did you mean 'act'"):
        open_frozen(tmp_path / "cnn", feature, start_at="atc")


def test_models_that_cannot_be_frozen_teach_by_their_outputs(tmp_path, module):
    keys = np.array([[1], [3], [9]], np.int64)
    folder = save_lookup(tmp_path / "looking")
    frozen = freeze_here(folder)
    assert frozen.graph is None
    network = with_identity(SignatureNetwork(frozen, load_saved_model(folder), name="looking"), key=keys)
    assert network.compute_saved_output({"key": keys}).numpy().tolist() == [[10, 20], [30, 60], [-1, -2]]
    assert network.taps == {} and "tables" in network.notes[0]
    large = freeze_here(module, signature="embed", limit=10)
    assert "more than can be made constants" in large.unfrozen_reason
    whole = SignatureNetwork(large, load_saved_model(module), name="large")
    small, raw = open_frozen(module, WIDE, signature="embed")
    np.testing.assert_allclose(
        with_identity(whole, **raw).compute_saved_output(raw), small.compute_saved_output(raw), atol=1e-6
    )
    for options in ({"trainable": True}, {"start_at": "hidden"}):
        with pytest.raises(ModelError, match=r"large cannot .*more than can be made constants"):
            FrozenNetwork(large, name="large", **options)


def test_large_weights_are_not_folded_and_give_the_same_outputs(tmp_path, monkeypatch):
    model = cnn()
    folded, raw = open_frozen(export(model, tmp_path / "cnn"), IMAGES)
    monkeypatch.setattr("kdcli.models.saved_model.function.MAX_CONSTANT_BYTES", 0)
    fed, _ = open_frozen(tmp_path / "cnn", IMAGES)
    assert fed._function._large and not folded._function._large
    assert fed.variables == [] and fed.taps == folded.taps
    np.testing.assert_allclose(fed.compute_saved_output(raw), model(IMAGES), atol=1e-6)
    compiled = tf.function(lambda given: fed.compute(given, taps=["block"]).features["block"], autograph=False)
    np.testing.assert_allclose(compiled(raw), folded.compute(raw, taps=["block"]).features["block"], atol=1e-5)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = cnn()
    kernel, bias = model.get_layer("stem").get_weights()
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("stem").set_weights([kernel, bias])
    with pytest.raises(ModelError, match="nan: the weight stem/kernel holds NaN or infinity"):
        freeze_here(export(model, tmp_path / "nan"))


KERAS_2 = """
import json, sys
import numpy as np
import tf_keras as keras
layers = keras.layers
keras.utils.set_random_seed(0)
inputs = keras.Input((12, 12, 3), name="picture")
x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="stem")(inputs))
x = layers.Dropout(0.5, name="drop")(layers.MaxPooling2D(name="shrink")(layers.ReLU(name="act")(x)))
x = layers.Dense(5, activation="softmax", name="out")(layers.Flatten(name="flat")(x))
model = keras.Model(inputs, x, name="net")
model.save("folder", save_format="tf")
model.save("file.h5")
model.save("file.keras")
np.save("outputs.npy", model(np.load("images.npy")).numpy())
"""


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras2")
    np.save(folder / "images.npy", IMAGES)
    ran = subprocess.run([sys.executable, "-c", KERAS_2], cwd=folder, capture_output=True, text=True, check=False)
    if "No module named 'tf_keras'" in ran.stderr:
        pytest.skip("tf_keras is not installed")
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder


TAPS_2 = {
    "stem": (10, 10, 4),
    "norm": (10, 10, 4),
    "act": (10, 10, 4),
    "shrink": (5, 5, 4),
    "flat": (100,),
    "out": (5,),
}


def test_a_keras_2_folder_opens(keras_2):
    network, raw = open_frozen(keras_2 / "folder", IMAGES)
    np.testing.assert_allclose(network.compute_saved_output(raw), np.load(keras_2 / "outputs.npy"), atol=1e-6)
    assert dict(network.taps) == TAPS_2
    assert (network.inputs[0].name, network.output_name) == ("picture", "out")


@pytest.mark.parametrize("suffix", ["h5", pytest.param("keras", marks=pytest.mark.slow)])
def test_a_keras_2_file_opens_through_a_process_with_keras_2(keras_2, suffix):
    # Other tests of this process may have it already.
    before = "tf_keras" in sys.modules
    network = open_legacy(keras_2 / f"file.{suffix}", name="old")
    raw = {"picture": IMAGES}
    network = with_identity(network, **raw)
    np.testing.assert_allclose(network.compute_saved_output(raw), np.load(keras_2 / "outputs.npy"), atol=1e-6)
    assert dict(network.taps) == TAPS_2
    assert network.parameters == 112 + 16 + 505
    assert ("tf_keras" in sys.modules) is before


def test_a_missing_tf_keras_is_reported_before_a_process_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcli.extras.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"old: a Keras 2 file, .* needs tf-keras") as caught:
        open_legacy(tmp_path / "old.h5", name="old")
    assert caught.value.hint == "pip install tf-keras"


def test_two_outputs_of_a_keras_model_keep_their_names(tmp_path):
    inputs = keras.Input((12, 12, 3))
    flat = keras.layers.Flatten()(inputs)
    heads = {name: keras.layers.Dense(n, name=name)(flat) for name, n in (("colour", 2), ("form", 3))}
    model = keras.Model(inputs, heads)
    network, raw = open_frozen(export(model, tmp_path / "heads"), IMAGES, output="form")
    np.testing.assert_allclose(network.compute_saved_output(raw), model(IMAGES)["form"], atol=1e-6)
    assert network.outputs == 3
