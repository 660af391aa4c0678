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
