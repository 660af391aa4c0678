"""A multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.lazy import keras
from kdcli.spec import Fraction, ModelSource
from kdcli.tensors import KerasModel


class Mlp(ModelSource):
    """Dense layers with ReLU on the flattened input. Taps: `hidden1`, `hidden2`, ...

    Args:
        width: number of units of each hidden layer.
        depth: number of hidden layers.
        dropout: fraction of units dropped after each hidden layer.
    """

    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"width": 16},
        {"width": 32},
        {"width": 64},
        {"width": 128},
        {"width": 256},
    )

    kind: Literal["zoo"] = "zoo"
    name: Literal["mlp"] = "mlp"
    width: Annotated[int, Field(ge=1, le=65536)] = 64
    depth: Annotated[int, Field(ge=1, le=64)] = 2
    dropout: Annotated[Fraction, Field(lt=1)] = 0.0

    def build(self, input_shape: tuple[int, ...], classes: int) -> KerasModel:
        """Build a fresh `keras.Model` for examples of any fixed shape, with `classes` outputs."""
        layers = keras.layers
        inputs = x = keras.Input(input_shape, name="features")
        if len(input_shape) != 1:
            x = layers.Flatten(name="flatten")(x)
        for number in range(1, self.depth + 1):
            x = layers.Dense(self.width, activation="relu", name=f"hidden{number}")(x)
            if self.dropout:
                x = layers.Dropout(self.dropout, name=f"dropout{number}")(x)
        return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="mlp")
