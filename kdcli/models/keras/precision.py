"""Computing in half precision while the weights stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcli.lazy import keras
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.taps import find_layers
from kdcli.models.network import Network


@contextmanager
def compute_in(network: Network, precision: str) -> Iterator[None]:
    """Let a network's layers compute in `mixed_bfloat16` while the block runs; `float32` changes nothing.

    Every layer gets the policy but those that make the logits. The policies are put back, so that the
    saved model is the one that was opened. A global policy would not reach a model that is loaded already.
    """
    if precision == "float32":
        yield
        return
    assert isinstance(network, KerasNetwork), "only layers can be told how to compute"
    closing = {id(layer) for layer in find_logits_layers(network)}
    layers = [layer for layer in network.layers if not isinstance(layer, keras.Model) and id(layer) not in closing]
    kept = [(layer, layer.dtype_policy) for layer in layers]
    try:
        for layer, _ in kept:
            layer.dtype_policy = keras.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in kept:
            layer.dtype_policy = policy


def find_logits_layers(network: KerasNetwork) -> list[Any]:
    """The last layer with a kernel, and those after it: normalisation, activation, pooling, reshaping."""
    called = [layer for layer in network.called if not _holds_layers(layer)]
    if network.last_layer in called:
        # What is called after it makes another output.
        called = called[: len(called) - called[::-1].index(network.last_layer)]
    found: list[Any] = []
    for layer in reversed(called):
        found.append(layer)
        if any(len(weight.shape) > 1 for weight in layer.weights):
            break
    return found


def _holds_layers(layer: Any) -> bool:
    return isinstance(layer, keras.Model) or len(find_layers(layer)) > 0
