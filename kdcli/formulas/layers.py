"""Keras layers that belong to a loss: made, built and applied in Keras' float type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras, ops
from kdcli.loss import Parts
from kdcli.tensors import Layer, Shape, Tensor


def make_layer(layer_class: Any, *arguments: Any, **options: Any) -> Layer:
    """Make a Keras layer that computes in Keras' float type, whatever the dtype policy.

    Args:
        layer_class: a class of Keras layers.
        arguments, options: arguments of the class, except `dtype`.
    """
    return layer_class(*arguments, **options, dtype=keras.config.floatx())


def make_dense(units: int, *, activation: str | None = None, bias: bool = True) -> Layer:
    """Make a dense layer over the last axis."""
    return make_layer(keras.layers.Dense, units, activation=activation, use_bias=bias)


def make_convolution(
    channels: int,
    size: int = 1,
    *,
    axes: int = 3,
    bias: bool = False,
    start: str = "glorot_uniform",
    activation: str | None = None,
) -> Layer:
    """Make a convolution that keeps height and width; for sequences and vectors, a dense layer.

    Args:
        channels: number of output channels.
        size: kernel size in pixels.
        axes: number of the feature's axes without the batch axis.
        bias: whether the layer has a bias.
        start: kernel initializer.
        activation: activation of the output.
    """
    options = {"use_bias": bias, "kernel_initializer": start, "activation": activation}
    if axes == 3:
        return make_layer(keras.layers.Conv2D, channels, size, padding="same", **options)
    return make_layer(keras.layers.Dense, channels, **options)


def make_batch_norm() -> Layer:
    """Make a batch normalisation with the epsilon and momentum of the published code."""
    return make_layer(keras.layers.BatchNormalization, epsilon=1e-5, momentum=0.9)


def build_layers(layers: Sequence[Layer], shape: Shape) -> list[Layer]:
    """Build each layer for the output shape of the one before.

    Args:
        layers: layers in the order in which they are applied.
        shape: shape of the first layer's input, without the batch axis.
    """
    flowing: Any = (None, *shape)
    for one in layers:
        one.build(flowing)
        flowing = one.compute_output_shape(flowing)
    return list(layers)


def get_pair_layers(parts: Parts, name: str, pairs: int) -> list[list[Layer]]:
    """Return the layers of each pair; empty lists for a call without parts."""
    return parts.trained.get(name, [[] for _ in range(pairs)])


def apply_layers(layers: Sequence[Layer], feature: Tensor) -> Tensor:
    """Apply layers in training mode and cast the result to the feature's float type."""
    flowing = feature
    for one in layers:
        flowing = one(flowing, training=True)
    return ops.cast(flowing, feature.dtype)


def check_channels(feature: Tensor, target: Tensor) -> None:
    """Refuse a student feature whose channels differ from the teacher's.

    Raises:
        ValueError: the numbers of channels differ.
    """
    if feature.shape[-1] != target.shape[-1]:
        raise ValueError(
            f"student feature {tuple(feature.shape)} and teacher feature {tuple(target.shape)} differ in "
            "channels; a run adds layers between them, a direct call passes them as parts=loss.build(...)"
        )
