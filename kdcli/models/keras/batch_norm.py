"""Mean and deviation of a tap, from the batch normalization that computes it."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import keras, ops
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.tensors import Tensor

# Layers that may follow a batch normalization before the tap; the end of a nested model may too.
_BETWEEN = ("Identity", "Dropout", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU")


def find_normalization(network: Network, tap: str) -> tuple[Tensor, Tensor] | None:
    """Find the scale and shift of the batch normalization behind a tap: its deviation and its mean.

    An activation directly after a batch normalization counts as its output.

    Args:
        network: any network; the layers are known for Keras models only.
        tap: name of the tap.

    Returns:
        (scale, shift), each (channels,); None where no batch normalization computes the tap.
    """
    if not isinstance(network, KerasNetwork):
        return None
    name: str | None = tap
    while name is not None:
        layer = network.get_layer_of(name)
        if isinstance(layer, keras.layers.BatchNormalization):
            return _get_affine(layer, int(network.taps[name][-1] or 0))
        passes = isinstance(layer, keras.Model) or type(layer).__name__ in _BETWEEN
        name = network.get_source_of(name) if passes else None
    return None


def list_normalized_taps(network: Network) -> tuple[str, ...]:
    """List the taps for which `find_normalization` finds one."""
    return tuple(tap for tap in network.taps if find_normalization(network, tap) is not None)


def _get_affine(layer: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Scale and shift; without its own, a batch normalization has scale 1 and shift 0."""
    scale = ops.ones((channels,)) if layer.gamma is None else ops.convert_to_tensor(layer.gamma)
    shift = ops.zeros((channels,)) if layer.beta is None else ops.convert_to_tensor(layer.beta)
    return scale, shift
