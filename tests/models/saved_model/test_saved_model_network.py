"""SavedModels of every origin as networks: their answers are those of the framework that made them."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from graph_models import (
    KERAS,
    PICTURES,
    cnn,
    decoding,
    exported,
    first_version,
    frozen_here,
    looking,
    opened,
    plain,
    prepared,
)

from kdcli.errors import ModelError, UsageError
from kdcli.models.files.load import load_saved_model
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.saved_model.network import GraphNetwork
from kdcli.models.saved_model.open import open_legacy

WIDE = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)
ALONE = np.random.default_rng(4).standard_normal((7, 5)).astype(np.float32)


@pytest.fixture(scope="module", params=list(KERAS))
def pair(request, tmp_path_factory):
    """A Keras model, its SavedModel as a network, and an input."""
    build, array = KERAS[request.param]
    model = build()
    network, raw = opened(exported(model, tmp_path_factory.mktemp("keras") / request.param), array)
    return model, network, raw


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return plain(tmp_path_factory.mktemp("plain") / "module")


def test_answers_are_those_of_the_keras_model(pair):
    model, network, raw = pair
    (array,) = raw.values()
    np.testing.assert_allclose(network.compute_saved_output(raw), model(array), atol=1e-6)
    own = prepared(KerasNetwork(model, name="own"), **{KerasNetwork(model, name="own").inputs[0].name: array})
    wanted = own.compute({own.inputs[0].name: array}).logits
    exact = 1e-6 if "bfloat16" not in str({layer.compute_dtype for layer in model.layers}) else 2e-2
    np.testing.assert_allclose(network.compute(raw).logits, wanted, atol=exact, rtol=1e-5)
    assert (network.saved_kind, network.output_kind, network.outputs) == (
        own.saved_kind,
        own.output_kind,
        own.outputs,
    )
    assert network.output_shape == own.output_shape
    assert network.parameters == sum(int(np.prod(w.shape)) for w in model.weights if "float" in w.dtype)
    assert network.variables == [] and not network.has_regularization


def test_answers_compile_and_inner_tensors_come_along(pair):
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


def test_a_softmax_or_sigmoid_is_left_out_exactly(tmp_path):
    model = cnn()
    model.layers[-1].set_weights([2000.0 * weight for weight in model.layers[-1].get_weights()])
    network, raw = opened(exported(model, tmp_path / "sharp"), PICTURES)
    assert network.logits_from == "before the Softmax"
    logits = network.compute(raw).logits.numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits), model(PICTURES), atol=1e-6)
    # Behind the softmax these differences would be gone.
    assert logits.max() - logits.min() > 30
    values = network.with_output_kinds("values", output_kind="values")
    np.testing.assert_allclose(values.compute(raw).logits, model(PICTURES), atol=1e-6)
    assert values.logits_from == "output" and network.logits_from == "before the Softmax"


def test_a_module_names_its_signatures_and_outputs(module):
    with pytest.raises(
        UsageError, match=r"several signatures and no serving_default \(got embed, four, infer"
    ) as c:
        frozen_here(module)
    assert c.value.hint == "--signature embed"
    with pytest.raises(UsageError, match="no signature 'train'"):
        frozen_here(module, signature="train")
    frozen = frozen_here(module, signature="infer")
    with pytest.raises(UsageError, match="has 3 outputs: best, chosen, logits") as c:
        GraphNetwork(frozen, name="module")
    assert c.value.hint == "--output best chooses one"
    with pytest.raises(UsageError, match="no output 'logit'; did you mean 'logits'"):
        GraphNetwork(frozen, name="module", output="logit")
    with pytest.raises(ModelError, match="the output best holds int64"):
        GraphNetwork(frozen, name="module", output="best")


def test_several_inputs_go_in_by_name(module):
    raw = {"alone": ALONE, "wide": WIDE}
    signature = load_saved_model(module).signatures["infer"]
    wanted = signature(alone=tf.constant(ALONE), wide=tf.constant(WIDE))
    frozen = frozen_here(module, signature="infer")
    for output, kind in (("logits", "logits"), ("chosen", "probabilities")):
        network = prepared(GraphNetwork(frozen, name="module", output=output), **raw)
        np.testing.assert_allclose(network.compute_saved_output(raw), wanted[output], atol=1e-6)
        np.testing.assert_allclose(network.compute(raw).logits, wanted["logits"], atol=1e-6)
        assert network.saved_kind == kind
        assert [one.name for one in network.all_outputs] == ["best", "chosen", "logits"]
        assert (network.signature, network.signatures) == ("infer", ("embed", "four", "infer", "scalar"))


@pytest.mark.parametrize("count", [1, 4, 7, 8])
def test_a_fixed_batch_is_filled_up(module, count):
    network, raw = opened(module, WIDE, signature="four")
    assert "batches of 4" in network.notes[0]
    raw = {"wide": np.concatenate([WIDE, WIDE])[:count]}
    signature = load_saved_model(module).signatures["four"]
    wanted = [signature(wide=tf.constant(np.repeat(one[None], 4, 0)))["scores"][0] for one in raw["wide"]]
    np.testing.assert_allclose(network.compute_saved_output(raw), wanted, atol=1e-6)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 3))])
    def ask(wide):
        answer = network.compute({"wide": wide}, taps=["hidden"])
        return answer.logits, answer.features["hidden"]

    logits, hidden = ask(raw["wide"])
    np.testing.assert_allclose(tf.nn.softmax(logits), wanted, atol=1e-6)
    assert hidden.shape == (count, 4) and network.taps["hidden"] == (4,)


def test_an_input_without_a_batch_axis_is_refused(module):
    with pytest.raises(ModelError, match=r"module: the input number has no batch axis \(its shape is \(\)\)"):
        GraphNetwork(frozen_here(module, signature="scalar"), name="module")


def test_savedmodels_of_tensorflow_1_answer(tmp_path):
    folder, wanted = first_version(tmp_path / "first")
    network, raw = opened(folder, PICTURES)
    assert (network.signature, network.saved_kind, network.parameters) == ("predict", "probabilities", 128)
    assert list(raw) == ["images"]
    np.testing.assert_allclose(network.compute_saved_output(raw), wanted, atol=1e-6)
    np.testing.assert_allclose(tf.nn.softmax(network.compute(raw).logits), wanted, atol=1e-6)
    assert network.taps == {"conv": (12, 12, 4), "pool": (4,), "logits": (5,), "scores": (5,)}


def test_a_graph_that_starts_from_files_starts_after_decoding(tmp_path):
    folder = decoding(tmp_path / "decoding")
    frozen = frozen_here(folder)
    network = GraphNetwork(frozen, name="decoding")
    inner = network.decoded_images
    assert inner.endswith("TensorListStack:0") and network.inputs[0].dtype == "string"
    with pytest.raises(ModelError, match="decoding starts from the bytes of picture files") as caught:
        prepared(network, files=PICTURES)
    assert caught.value.hint == f"--set student.input.tensor={inner} starts after decoding"
    raw = {inner: 255 * PICTURES}
    started = prepared(GraphNetwork(frozen, name="decoding", start_at=inner), **raw)
    assert started.inputs[0].shape == (12, 12, 3)
    np.testing.assert_allclose(started.compute_saved_output(raw), cnn()(PICTURES), atol=1e-6)
    assert {"stem", "block", "out"} <= {name.replace("_1", "") for name in started.taps}


def test_a_network_starts_at_a_layer(tmp_path):
    network, raw = opened(exported(cnn(), tmp_path / "cnn"), PICTURES)
    feature = network.compute(raw, taps=["act"]).features["act"].numpy()
    started, given = opened(tmp_path / "cnn", feature, start_at="act")
    np.testing.assert_allclose(started.compute_saved_output(given), network.compute_saved_output(raw), atol=1e-6)
    assert "norm" not in started.taps and "block" in started.taps
    assert "starts at its tensor act" in started.notes[0]
    with pytest.raises(UsageError, match="there is no tensor 'atc'; did you mean 'act'"):
        opened(tmp_path / "cnn", feature, start_at="atc")


def test_what_cannot_be_frozen_teaches_by_its_outputs(tmp_path, module):
    keys = np.array([[1], [3], [9]], np.int64)
    folder = looking(tmp_path / "looking")
    frozen = frozen_here(folder)
    assert frozen.graph is None
    network = prepared(GraphNetwork(frozen, name="looking", loaded=load_saved_model(folder)), key=keys)
    assert network.compute_saved_output({"key": keys}).numpy().tolist() == [[10, 20], [30, 60], [-1, -2]]
    assert network.taps == {} and "tables" in network.notes[0]
    large = frozen_here(module, signature="embed", limit=10)
    assert "more than can be made constants" in large.unfrozen
    whole = GraphNetwork(large, name="large", loaded=load_saved_model(module))
    small, raw = opened(module, WIDE, signature="embed")
    np.testing.assert_allclose(
        prepared(whole, **raw).compute_saved_output(raw), small.compute_saved_output(raw), atol=1e-6
    )
    for given in ({"trainable": True}, {"start_at": "hidden"}):
        with pytest.raises(ModelError, match=r"large cannot be .*more than can be made constants"):
            GraphNetwork(large, name="large", **given)


def test_many_weights_are_not_folded_and_answer_the_same(tmp_path, monkeypatch):
    model = cnn()
    folded, raw = opened(exported(model, tmp_path / "cnn"), PICTURES)
    monkeypatch.setattr("kdcli.models.saved_model.function.MAX_CONSTANT_BYTES", 0)
    fed, _ = opened(tmp_path / "cnn", PICTURES)
    assert fed._function._held and not folded._function._held
    assert fed.variables == [] and fed.taps == folded.taps
    np.testing.assert_allclose(fed.compute_saved_output(raw), model(PICTURES), atol=1e-6)
    compiled = tf.function(lambda given: fed.compute(given, taps=["block"]).features["block"], autograph=False)
    np.testing.assert_allclose(compiled(raw), folded.compute(raw, taps=["block"]).features["block"], atol=1e-5)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = cnn()
    kernel, bias = model.get_layer("stem").get_weights()
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("stem").set_weights([kernel, bias])
    with pytest.raises(ModelError, match="nan: the weight stem/kernel holds NaN or infinity"):
        frozen_here(exported(model, tmp_path / "nan"))


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
np.save("answers.npy", model(np.load("pictures.npy")).numpy())
"""


@pytest.fixture(scope="module")
def keras_2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras2")
    np.save(folder / "pictures.npy", PICTURES)
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


def test_a_folder_of_keras_2_answers(keras_2):
    network, raw = opened(keras_2 / "folder", PICTURES)
    np.testing.assert_allclose(network.compute_saved_output(raw), np.load(keras_2 / "answers.npy"), atol=1e-6)
    assert dict(network.taps) == TAPS_2
    assert (network.inputs[0].name, network.output_name) == ("picture", "out")


@pytest.mark.parametrize("suffix", ["h5", pytest.param("keras", marks=pytest.mark.slow)])
def test_a_file_of_keras_2_answers_from_a_process_with_keras_2(keras_2, suffix):
    # Other tests of this process may have it already.
    before = "tf_keras" in sys.modules
    network = open_legacy(keras_2 / f"file.{suffix}", name="old")
    raw = {"picture": PICTURES}
    network = prepared(network, **raw)
    np.testing.assert_allclose(network.compute_saved_output(raw), np.load(keras_2 / "answers.npy"), atol=1e-6)
    assert dict(network.taps) == TAPS_2
    assert network.parameters == 112 + 16 + 505
    assert ("tf_keras" in sys.modules) is before


def test_a_missing_tf_keras_is_said_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcli.extras.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"old: a file of Keras 2, .* needs tf-keras") as caught:
        open_legacy(tmp_path / "old.h5", name="old")
    assert caught.value.hint == "pip install tf-keras"


def test_two_outputs_of_a_keras_model_keep_their_names(tmp_path):
    inputs = keras.Input((12, 12, 3))
    flat = keras.layers.Flatten()(inputs)
    heads = {name: keras.layers.Dense(n, name=name)(flat) for name, n in (("colour", 2), ("form", 3))}
    model = keras.Model(inputs, heads)
    network, raw = opened(exported(model, tmp_path / "heads"), PICTURES, output="form")
    np.testing.assert_allclose(network.compute_saved_output(raw), model(PICTURES)["form"], atol=1e-6)
    assert network.outputs == 3
