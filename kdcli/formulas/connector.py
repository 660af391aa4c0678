"""Layers between the student's feature and the teacher's, each followed by batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras
from kdcli.loss import Shape


def convolution(channels: int, size: int = 1, *, axes: int = 3, bias: bool = False) -> Any:
    """A convolution of a map that keeps its height and width; of sequences and vectors a dense layer.

    Args:
        channels: that come out.
        size: of the window in pixels.
        axes: of the feature beside the batch.
        bias: whether something is added.
    """
    if axes == 3:
        return keras.layers.Conv2D(channels, size, padding="same", use_bias=bias)
    return keras.layers.Dense(channels, use_bias=bias)


def normalization() -> Any:
    """Batch normalisation as the published code has it."""
    return keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9)


def built(layers: Sequence[Any], shape: Shape) -> list[Any]:
    """The layers, each built for what the one before gives.

    Args:
        layers: to be called one after the other.
        shape: of the feature that goes in, without the batch axis.
    """
    flowing: Any = (None, *shape)
    for layer in layers:
        layer.build(flowing)
        flowing = layer.compute_output_shape(flowing)
    return list(layers)


def through(layers: Sequence[Any], feature: Any) -> Any:
    """The feature after all layers; batch normalisation counts the batch, for it learns with the student."""
    for layer in layers:
        feature = layer(feature, training=True)
    return feature


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
