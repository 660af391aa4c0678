"""Small Keras models, functional, sequential and subclassed, and examples for them."""

from __future__ import annotations

import keras
import numpy as np

X = np.random.default_rng(0).random((3, 4), np.float32)


@keras.saving.register_keras_serializable("tests")
class Small(keras.Model):
    """A subclassed model that can be built from its configuration."""

    def __init__(self, width=5, **options):
        super().__init__(**options)
        self.width = width
        self.hidden = keras.layers.Dense(width, activation="relu")
        self.out = keras.layers.Dense(2)

    def build(self, shape):
        self.hidden.build(shape)
        self.out.build((shape[0], self.width))
        self.built = True

    def call(self, x):
        return self.out(self.hidden(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def functional():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(x))


def sequential():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(2)])


def subclassed():
    model = Small()
    model(X)
    return model


BUILDS = {"functional": functional, "sequential": sequential, "subclassed": subclassed}


def save_linear_model(path, *, seed: int) -> None:
    """Save a linear model with better than chance accuracy: it detects the bar of each class."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    kernel, bias = model.layers[-1].get_weights()
    for label in range(3):
        kernel.reshape(8, 8, 3)[1 + 2 * label : 3 + 2 * label, :, label] += 0.4
    model.layers[-1].set_weights([kernel, bias])
    model.save(path)
