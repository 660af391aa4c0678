"""Inner tensors of SavedModels: readable names, right values, and the same pairs as for the Keras model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from graph_models import IMAGES, KERAS, cnn, export, freeze_here, open_frozen, save_plain, with_identity

from kdcli.distillation.network_stages import find_last_features
from kdcli.distillation.pairing import pair_layers
from kdcli.losses.hint import Hint
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.saved_model.network import FrozenNetwork


def keras_network_of(model, array):
    """The Keras model as a network for the same array."""
    network = KerasNetwork(model, name="keras")
    return with_identity(network, **{network.inputs[0].name: array})


def features_of(network, array, names):
    raw = {network.inputs[0].name: array}
    return {name: value.numpy() for name, value in network.compute(raw, taps=names).features.items()}


CNN = {
    "scale": (12, 12, 3),
    "stem": (12, 12, 4),
    "norm": (12, 12, 4),
    "act": (12, 12, 4),
    "block/conv": (12, 12, 4),
    "block": (12, 12, 4),
    "shrink": (6, 6, 4),
    "pool": (4,),
    "out": (5,),
}


def test_taps_are_the_layers_in_their_order(tmp_path):
    network, _ = open_frozen(export(cnn(), tmp_path / "cnn"), IMAGES)
    # Keras numbers the scopes of an export; dropout disappears in inference.
    assert list(network.taps.items()) == list(CNN.items())
    assert network.secondary == {"shrink", "out"}


def test_a_tap_holds_what_its_layer_returns(tmp_path):
    model = cnn()
    network, _ = open_frozen(export(model, tmp_path / "cnn"), IMAGES)
    named = {name: "/".join(part.removesuffix("_1") for part in name.split("/")) for name in network.taps}
    keras_network = keras_network_of(model, IMAGES)
    expected = features_of(keras_network, IMAGES, [name for name in named.values() if name != "out"])
    expected["out"] = model(IMAGES).numpy()
    for name, value in features_of(network, IMAGES, list(named)).items():
        np.testing.assert_allclose(value, expected[named[name]], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", list(KERAS))
def test_automatic_pairing_picks_the_same_layers_as_for_the_keras_model(kind, tmp_path):
    build, array = KERAS[kind]
    model = build()
    network, _ = open_frozen(export(model, tmp_path / kind), array)
    keras_network = keras_network_of(model, array)
    ours, theirs = (
        {rank: stage.tap for rank, stage in find_last_features(side).items()} for side in (network, keras_network)
    )
    assert set(ours) == set(theirs)
    found = features_of(network, array, list(ours.values()))
    expected = features_of(keras_network, array, list(theirs.values()))
    for rank in ours:
        one, other = found[ours[rank]], expected[theirs[rank]]
        np.testing.assert_allclose(np.float32(one), np.float32(other), atol=1e-5, err_msg=ours[rank])


def test_a_savedmodel_teaches_its_last_map_before_pooling(tmp_path):
    model = cnn()
    network, _ = open_frozen(export(model, tmp_path / "cnn"), IMAGES)
    (pair,) = pair_layers(Hint(), student=keras_network_of(model, IMAGES), teacher=network)
    assert (pair.student, pair.teacher) == ("block", "block")


def test_names_are_the_same_each_time(tmp_path):
    folder = export(KERAS["attention"][0](), tmp_path / "attention")
    first, second = (FrozenNetwork(freeze_here(folder), name="same") for _ in range(2))
    assert list(first.taps.items()) == list(second.taps.items())
    assert first._tap_tensors == second._tap_tensors


def test_a_layer_called_twice_is_two_taps(tmp_path):
    model = KERAS["shared"][0]()
    network, _ = open_frozen(export(model, tmp_path / "shared"), IMAGES)
    twice = [name for name in network.taps if name.startswith("same")]
    found = features_of(network, IMAGES, twice)
    expected = features_of(keras_network_of(model, IMAGES), IMAGES, ["same:0", "same:1"])
    for one, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_results_of_loops_are_taps(tmp_path):
    build, tokens = KERAS["recurrent"]
    network, _ = open_frozen(export(build(), tmp_path / "recurrent"), tokens)
    assert network.taps["words"] == (6, 8)
    assert network.taps["both"] == (6, 8)
    assert network.taps["last"] == (5,)


def test_features_of_any_size_are_known_with_the_data(tmp_path):
    folder = export(KERAS["any_size"][0](), tmp_path / "any")
    network = FrozenNetwork(freeze_here(folder), name="any")
    assert network.taps["stem"] == (None, None, 4)
    ready = with_identity(network, **{network.inputs[0].name: IMAGES})
    assert ready.taps["stem"] == (10, 10, 4)
    assert network.taps["stem"] == (None, None, 4)


def test_a_module_without_scopes_names_its_operations(tmp_path):
    network = FrozenNetwork(
        freeze_here(save_plain(tmp_path / "plain"), signature="infer"), name="m", output="chosen"
    )
    assert network.taps["hidden"] == (4,)
    assert {"matmul", "matmul_1", "sub", "score"} <= set(network.taps)
    assert network.secondary == {"score", "Softmax"}


class Twice(tf.Module):
    """The same function called twice, and a tensor that mixes examples."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(tf.eye(4) * 2.0)
        self.part = tf.function(self._part)

    def _part(self, x):
        with tf.name_scope("part"):
            return tf.nn.relu(x @ self.weight)

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 4])])
    def serve(self, x):
        """Flattens batch and time together, as dense layers of sequences do."""
        with tf.name_scope("mixed"):
            flat = tf.reshape(x, [-1, 4])
        x = tf.reshape(self.part(self.part(flat)), tf.shape(x))
        with tf.name_scope("ends"):
            return {"scores": tf.reduce_sum(x, 1)}


def test_tensors_without_the_batch_axis_are_not_taps(tmp_path):
    module = Twice()
    tf.saved_model.save(module, tmp_path / "twice", signatures={"serving_default": module.serve})
    array = np.random.default_rng(0).random((7, 3, 4), np.float32)
    network, raw = open_frozen(tmp_path / "twice", array)
    assert not {"mixed", "part:0", "part"} & set(network.taps)
    assert all(shape in ((3, 4), (4,)) for shape in network.taps.values())
    np.testing.assert_allclose(network.compute_saved_output(raw), module.serve(array)["scores"], atol=1e-6)


def test_functions_called_twice_are_numbered(tmp_path):
    module = Twice()

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def serve(x):
        x = module.part(module.part(x))
        with tf.name_scope("ends"):
            return {"scores": x * 3.0}

    module.other = serve
    tf.saved_model.save(module, tmp_path / "twice", signatures={"serving_default": serve})
    array = np.random.default_rng(0).random((7, 4), np.float32)
    network, raw = open_frozen(tmp_path / "twice", array)
    assert list(network.taps) == ["part:0", "part:1", "ends"]
    features = network.compute(raw, taps=["part:0", "part:1"]).features
    np.testing.assert_allclose(features["part:0"], 2 * array, atol=1e-6)
    np.testing.assert_allclose(features["part:1"], 4 * array, atol=1e-6)


def test_tensors_inside_loops_are_not_taps(tmp_path):
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            given = v1.placeholder(tf.float32, (None, 4), name="given")
            with tf.name_scope("loop"):
                turns, x = tf.constant(0), given
                _, x = v1.while_loop(lambda n, _: n < 3, lambda n, x: (n + 1, tf.nn.relu(x) * 2.0), (turns, x))
            with tf.name_scope("ends"):
                scores = x + 1.0
            assert any(op.type == "Enter" for op in session.graph.get_operations())
            v1.saved_model.simple_save(session, str(tmp_path / "loop"), {"given": given}, {"scores": scores})
    finally:
        v1.enable_control_flow_v2()
    array = np.random.default_rng(0).random((7, 4), np.float32)
    network, raw = open_frozen(tmp_path / "loop", array)
    assert network.taps == {"loop": (4,), "ends": (4,)}
    outputs = network.compute(raw, taps=["loop"])
    np.testing.assert_allclose(outputs.features["loop"], 8 * array, rtol=1e-6)
    np.testing.assert_allclose(outputs.logits, 8 * array + 1, rtol=1e-6)
