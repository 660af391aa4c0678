"""The batch normalisation that an inner tensor comes out of: what is known of its distribution."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import keras, ops
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network

# What may stand between a batch normalisation and a tap, beside the end of a nested model.
_BETWEEN = ("Identity", "Dropout", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU")


def find_normalization(network: Network, tap: str) -> tuple[Any, Any] | None:
    """(scale, shift) of the batch normalisation that made a tap, each (channels,): its deviation and its mean.

    An activation right after a batch normalisation counts as made by it.

    Args:
        network: only of Keras models the layers are known.
        tap: name of an inner tensor.

    Returns:
        None where no batch normalisation made it.
    """
    if not isinstance(network, KerasNetwork):
        return None
    name: str | None = tap
    while name is not None:
        layer = network.get_layer_of(name)
        if isinstance(layer, keras.layers.BatchNormalization):
            return _affine(layer, int(network.taps[name][-1] or 0))
        keeps = isinstance(layer, keras.Model) or type(layer).__name__ in _BETWEEN
        name = network.get_source_of(name) if keeps else None
    return None


def list_normalized_taps(network: Network) -> tuple[str, ...]:
    """The taps that `normalization_of` knows something about."""
    return tuple(tap for tap in network.taps if find_normalization(network, tap) is not None)


def _affine(layer: Any, channels: int) -> tuple[Any, Any]:
    """A batch normalisation without a scale has 1, without a shift 0."""
    scale = ops.ones((channels,)) if layer.gamma is None else ops.convert_to_tensor(layer.gamma)
    shift = ops.zeros((channels,)) if layer.beta is None else ops.convert_to_tensor(layer.beta)
    return scale, shift
