"""Layers that losses own: made in Keras' float type whatever the policy of the student is, built, gone through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras, ops
from kdcli.loss import Parts, Shape


def make_layer(make: Any, *arguments: Any, **options: Any) -> Any:
    """A Keras layer that computes in Keras' float type, also under a policy of half precision.

    Args:
        make: its class.
        arguments, options: what the class takes, `dtype` excepted.
    """
    return make(*arguments, **options, dtype=keras.config.floatx())


def make_dense(units: int, *, activation: str | None = None, bias: bool = True) -> Any:
    """A dense layer over the last axis."""
    return make_layer(keras.layers.Dense, units, activation=activation, use_bias=bias)


def make_convolution(
    channels: int,
    size: int = 1,
    *,
    axes: int = 3,
    bias: bool = False,
    start: str = "glorot_uniform",
    activation: str | None = None,
) -> Any:
    """A convolution of a map that keeps its height and width; of sequences and vectors a dense layer.

    Args:
        channels: that come out.
        size: of the window in pixels.
        axes: of the feature beside the batch.
        bias: whether something is added.
        start: what the kernel is drawn from.
        activation: of what comes out.
    """
    options = {"use_bias": bias, "kernel_initializer": start, "activation": activation}
    if axes == 3:
        return make_layer(keras.layers.Conv2D, channels, size, padding="same", **options)
    return make_layer(keras.layers.Dense, channels, **options)


def make_batch_norm() -> Any:
    """Batch normalisation as the published code has it."""
    return make_layer(keras.layers.BatchNormalization, epsilon=1e-5, momentum=0.9)


def build_layers(layers: Sequence[Any], shape: Shape) -> list[Any]:
    """The layers, each built for what the one before gives.

    Args:
        layers: to be called one after the other.
        shape: of the feature that goes in, without the batch axis.
    """
    flowing: Any = (None, *shape)
    for one in layers:
        one.build(flowing)
        flowing = one.compute_output_shape(flowing)
    return list(layers)


def get_pair_layers(parts: Parts, name: str, pairs: int) -> list[list[Any]]:
    """The layers of each pair; none where the parts have none of this name, as in a call without parts."""
    return parts.trained.get(name, [[] for _ in range(pairs)])


def apply_layers(layers: Sequence[Any], feature: Any) -> Any:
    """The feature after all layers, in its own float type.

    Batch normalisation counts the batch, for it learns with the student.
    """
    flowing = feature
    for one in layers:
        flowing = one(flowing, training=True)
    return ops.cast(flowing, feature.dtype)


def check_channels(feature: Any, target: Any) -> None:
    """Refuse features that no layer brought together.

    Raises:
        ValueError: the student's has other channels than the teacher's.
    """
    if feature.shape[-1] != target.shape[-1]:
        raise ValueError(
            f"student feature {tuple(feature.shape)} and teacher feature {tuple(target.shape)} differ in "
            "channels; a run makes layers between them, a direct call takes them as parts=loss.build(...)"
        )
