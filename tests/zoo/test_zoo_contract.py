"""The contract of zoo models: shape and classes of the data, taps, plain Keras files, weights from the seed."""

from __future__ import annotations

from typing import get_args

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from kdcli.errors import UsageError
from kdcli.models.keras.network import KerasNetwork
from kdcli.recipe.sections import Recipe
from kdcli.zoo import Application, Clone, Cnn, Mlp, Mobile, Resnet, ZooModel

RESNET, MOBILE = Resnet(depth=14, width=4), Mobile(width=4, blocks=3)
SMALL = [Cnn(width=4, blocks=2), Mlp(width=8), RESNET, MOBILE, Application(architecture="MobileNet")]
TAPS = {
    "cnn": ["block1", "block2"],
    "mlp": ["hidden1", "hidden2"],
    "resnet": ["stem", "stage1_block1", "stage1", "stage2_block1", "stage2", "stage3_block1", "stage3"],
    "mobile": ["stem", "block1", "block2", "block3"],
    "application": ["conv1_relu", "conv_pw_13_relu"],
}
MODEL = pytest.mark.parametrize("source", SMALL, ids=lambda source: source.name)


def built(source, shape=(32, 32, 3), classes=10, seed=0):
    keras.utils.set_random_seed(seed)
    return source.build(shape, classes)


@pytest.fixture(scope="module")
def models():
    """Each small model for (32, 32, 3), built once with seed 0."""
    return {source.name: built(source) for source in SMALL}


def test_every_zoo_model_except_the_clone_is_tested():
    members = get_args(get_args(ZooModel)[0])
    assert {member for member in members if member is not Clone} == {type(source) for source in SMALL}


@MODEL
def test_it_computes_logits_for_all_classes(models, source):
    model = models[source.name]
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    outputs = model(images).numpy()
    assert np.isfinite(outputs).all()
    # No softmax: logits are not between 0 and 1 with the sum 1.
    assert not np.allclose(outputs.sum(-1), 1)
    assert KerasNetwork(model, name="x").saved_kind == "logits"


@MODEL
def test_it_accepts_small_grey_images(source):
    if source.name == "application":
        with pytest.raises(UsageError, match="MobileNet takes images of at least 32×32, got 28×28"):
            built(source, (28, 28, 1))
        assert built(source, (32, 32, 1)).output_shape == (None, 10)
        return
    model = built(source, (28, 28, 1))
    assert (model.input_shape, model.output_shape) == ((None, 28, 28, 1), (None, 10))


@MODEL
def test_its_taps_are_those_of_its_docstring(models, source):
    taps = KerasNetwork(models[source.name], name="x").taps
    assert [name for name in taps if name in TAPS[source.name]] == TAPS[source.name]


@MODEL
def test_its_file_opens_in_plain_keras_with_equal_outputs(models, source, tmp_path):
    model = models[source.name]
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(again(images).numpy(), model(images).numpy())


@MODEL
def test_one_step_of_training_changes_every_trainable_weight(source):
    import tensorflow as tf

    model = built(source, classes=3)
    before = [weight.numpy() for weight in model.trainable_weights]
    images = tf.random.stateless_uniform((8, 32, 32, 3), seed=(0, 0))
    with tf.GradientTape() as tape:
        losses = keras.ops.sparse_categorical_crossentropy(
            np.arange(8) % 3, model(images, training=True), from_logits=True
        )
        loss = keras.ops.mean(losses)
    variables = [variable.value for variable in model.trainable_variables]
    slopes = tape.gradient(loss, variables)
    keras.optimizers.Adam(1e-2).apply(slopes, model.trainable_variables)
    after = [weight.numpy() for weight in model.trainable_weights]
    assert all(np.isfinite(weight).all() for weight in after)
    changed = [not np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert all(changed)


@MODEL
def test_weights_depend_on_the_seed(models, source):
    same, other = built(source), built(source, seed=1)
    for ours, theirs in zip(same.get_weights(), models[source.name].get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    pairs = zip(other.get_weights(), models[source.name].get_weights(), strict=True)
    assert any(not np.array_equal(ours, theirs) for ours, theirs in pairs)


@MODEL
def test_batch_normalization_has_a_low_momentum(models, source):
    layers = [layer for layer in models[source.name].layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(layer.momentum <= 0.9 for layer in layers)
    assert bool(layers) == (source.name != "mlp")


@MODEL
def test_a_recipe_can_select_it_and_unknown_options_are_refused(source):
    entry = source.model_dump()
    assert Recipe.model_validate({"student": {"model": entry}}).student.model == source
    with pytest.raises(ValidationError, match="Extra inputs"):
        Recipe.model_validate({"student": {"model": {**entry, "colour": 1}}})


@pytest.mark.parametrize("source", [RESNET, MOBILE, *SMALL[-1:]], ids=lambda source: source.name)
def test_inputs_other_than_images_are_refused_with_a_hint_to_the_mlp(source):
    with pytest.raises(UsageError, match=r"needs images \(h, w, channels\), the data has shape \(7,\)") as caught:
        source.build((7,), 2)
    assert "name: mlp" in caught.value.hint


@pytest.mark.parametrize("source", [RESNET, MOBILE], ids=lambda source: source.name)
def test_tiny_images_are_not_halved_to_nothing(source):
    assert built(source, (3, 3, 1), 2)(np.zeros((1, 3, 3, 1), np.float32)).shape == (1, 2)
