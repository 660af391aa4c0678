"""Inference in half precision with float32 weights."""

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
    """Let a network compute in a mixed precision during the block; `float32` changes nothing.

    All layers except those that compute the logits get the policy, and their own policies are restored, so that
    the saved model stays as it was opened. A global policy would not affect a model that is already loaded.

    Args:
        network: a `KerasNetwork`, unless `precision` is `float32`.
        precision: `float32`, `mixed_bfloat16` or `mixed_float16`.
    """
    if precision == "float32":
        yield
        return
    assert isinstance(network, KerasNetwork), "only Keras layers have a dtype policy"
    exact = {id(layer) for layer in find_logits_layers(network)}
    layers = [layer for layer in network.layers if not isinstance(layer, keras.Model) and id(layer) not in exact]
    policies = [(layer, layer.dtype_policy) for layer in layers]
    try:
        for layer, _ in policies:
            layer.dtype_policy = keras.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


def find_logits_layers(network: KerasNetwork) -> list[Any]:
    """Find the layers that compute the logits: the last one with a kernel and all after it."""
    called = [layer for layer in network.called_layers if not _has_layers(layer)]
    if network.last_layer in called:
        # Layers called later compute another output.
        called = called[: len(called) - called[::-1].index(network.last_layer)]
    found: list[Any] = []
    for layer in reversed(called):
        found.append(layer)
        if any(len(weight.shape) > 1 for weight in layer.weights):
            break
    return found


def _has_layers(layer: Any) -> bool:
    return isinstance(layer, keras.Model) or len(find_layers(layer)) > 0
