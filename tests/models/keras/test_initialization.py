"""Fresh weights: every layer depends on the seed of the run, even if its initializer has its own."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

from kdcli.models.keras.initialization import find_unseeded_weights, seed_initializers
from kdcli.models.keras.model import make_fresh_copy

layers, initializers = keras.layers, keras.initializers
RANDOM = [
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "LecunNormal",
    "LecunUniform",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
]
# Created once, before any run: as a module of custom layers may do.
SHARED = initializers.GlorotUniform()


def test_every_random_initializer_of_keras_is_tested():
    made = {getattr(initializers, name) for name in dir(initializers) if name[0].isupper()}
    random = {kind for kind in made if "seed" in inspect.signature(kind).parameters}
    assert random == {getattr(initializers, name) for name in RANDOM}


@keras.saving.register_keras_serializable("test_initialization")
class Mixing(layers.Layer):
    """A custom layer whose initializers are not in its configuration."""

    def build(self, shape):
        size = (shape[-1], shape[-1])
        self.seeded = self.add_weight(shape=size, initializer=initializers.GlorotUniform(seed=1), name="seeded")
        self.shared = self.add_weight(shape=size, initializer=SHARED, name="shared")
        self.called = keras.Variable(initializers.Orthogonal(seed=2)(size), name="called")
        self.generator = keras.random.SeedGenerator(1337)
        self.drawn = keras.Variable(keras.random.normal(size, seed=self.generator), name="drawn")

    def call(self, x):
        return x @ (self.seeded + self.shared) @ (self.called + self.drawn)


@keras.saving.register_keras_serializable("test_initialization")
class Unseeded(initializers.Initializer):
    """A custom initializer that does not write its seed into its configuration."""

    seed = 3

    def __call__(self, shape, dtype=None):
        return keras.random.uniform(shape, seed=self.seed, dtype=dtype)


@keras.saving.register_keras_serializable("test_initialization")
class Fixed(layers.Layer):
    """A custom layer that draws its weights itself."""

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], 4), initializer=lambda s, dtype=None: keras.random.normal(s, seed=5), name="fixed"
        )

    def call(self, x):
        return x @ self.kernel


def nested():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, kernel_initializer=initializers.HeNormal(seed=1))]
    )
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(6, kernel_initializer=initializers.HeNormal(seed=1))(inner(x)))


def sharing():
    x = keras.Input((6,))
    one = layers.Dense(6, kernel_initializer=SHARED)
    return keras.Model(x, layers.Dense(6, kernel_initializer=SHARED)(one(one(x))))


def recurrent():
    cell = layers.LSTMCell(
        5,
        kernel_initializer=initializers.GlorotUniform(seed=1),
        recurrent_initializer=initializers.Orthogonal(seed=1),
    )
    return keras.Sequential([keras.Input((4, 3)), layers.RNN(cell), layers.Dense(2, kernel_initializer=SHARED)])


def custom():
    return keras.Sequential([keras.Input((6,)), Mixing(), layers.Dense(3, kernel_initializer=Unseeded())])


def convolutional():
    seeded = {"kernel_initializer": initializers.VarianceScaling(seed=7)}
    embedded = {"depthwise_initializer": initializers.HeUniform(seed=7)}
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, **seeded),
            layers.SeparableConv2D(4, 3, pointwise_initializer=initializers.HeUniform(seed=7), **embedded),
            layers.Flatten(),
            layers.Dense(2, **seeded),
        ]
    )


def kernels(model) -> dict[str, np.ndarray]:
    """Random weights: what is not constant, and no state of a random generator."""
    values = {weight.path: weight.numpy() for weight in model.weights}
    return {path: value for path, value in values.items() if value.ndim > 1}


@pytest.mark.parametrize("make", [nested, sharing, recurrent, custom, convolutional])
def test_every_kernel_follows_the_seed(make):
    model = make()
    first, again, other = (list(kernels(make_fresh_copy(model, seed=seed)).values()) for seed in (0, 0, 1))
    assert len(first) == len(kernels(model))
    for original, one, same, another in zip(kernels(model).values(), first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, another)
        assert not np.allclose(one, original)
    # Layers that shared an initializer have different weights.
    for number, one in enumerate(first):
        assert not any(one.shape == two.shape and np.allclose(one, two) for two in first[number + 1 :])


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("seed", [1, "generator"])
def test_a_seeded_initializer_keeps_its_distribution(name, seed):
    kind = getattr(initializers, name)
    seed = keras.random.SeedGenerator(3) if seed == "generator" else seed
    model = keras.Sequential([keras.Input((96,)), layers.Dense(96, kernel_initializer=kind(seed=seed))])
    drawn, other = (make_fresh_copy(model, seed=at).layers[0].kernel.numpy() for at in (0, 1))
    assert not np.allclose(drawn, other)
    # Compared with Keras, under another seed.
    plain = np.asarray(kind(seed=12345)((96, 96)))
    assert drawn.std() == pytest.approx(plain.std(), rel=0.05)
    assert np.abs(drawn).max() == pytest.approx(np.abs(plain).max(), rel=0.5)
    if name == "Orthogonal":
        np.testing.assert_allclose(drawn @ drawn.T, np.eye(96), atol=1e-4)


def test_a_model_without_seeds_gets_the_weights_of_plain_keras():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(4)])
    copy = make_fresh_copy(model, seed=7)
    keras.utils.set_random_seed(7)
    for ours, theirs in zip(copy.weights, keras.models.clone_model(model).weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_keras_is_restored_after_a_failure():
    before = [vars(initializers.GlorotUniform).get("__init__"), vars(initializers.VarianceScaling).get("__call__")]
    with pytest.raises(RuntimeError), seed_initializers(0):
        raise RuntimeError
    after = [vars(initializers.GlorotUniform).get("__init__"), vars(initializers.VarianceScaling).get("__call__")]
    assert before == after
    np.testing.assert_array_equal(initializers.HeNormal(seed=1)((3, 3)), initializers.HeNormal(seed=1)((3, 3)))


def test_constants_and_the_configuration_are_preserved():
    dense = layers.Dense(
        6, kernel_initializer=initializers.HeNormal(seed=1), bias_initializer=initializers.Constant(0.25)
    )
    model = keras.Sequential([keras.Input((6,)), dense, layers.Dropout(0.5, seed=4)])
    copy = make_fresh_copy(model, seed=3)
    np.testing.assert_array_equal(copy.layers[0].bias.numpy(), np.full(6, 0.25))
    assert copy.get_config() == model.get_config()


def test_unseeded_weights_are_found():
    model = keras.Sequential([keras.Input((6,)), Fixed(), Mixing()])

    def build(seed):
        return make_fresh_copy(model, seed=seed)

    assert [path.rsplit("/", 1)[1] for path in find_unseeded_weights(build(0), build, seed=0)] == ["fixed"]
    plain = nested()
    assert find_unseeded_weights(plain, lambda seed: pytest.fail("is not built again"), seed=0) == []
