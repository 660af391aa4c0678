"""Computing in half precision while the weights stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdcli.lazy import keras
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.network import Network


@contextmanager
def computing_in(network: Network, precision: str) -> Iterator[None]:
    """Let a network's layers compute in `mixed_bfloat16` while the block runs; `float32` changes nothing.

    Every layer gets the policy but the one that makes the logits. The policies are put back, so that the
    saved model is the one that was opened. A global policy would not reach a model that is loaded already.
    """
    if precision == "float32":
        yield
        return
    assert isinstance(network, KerasNetwork), "only layers can be told how to compute"
    layers = [layer for layer in network.layers if not isinstance(layer, keras.Model)]
    closing = [network.last_layer]
    if isinstance(network.last_layer, keras.layers.Activation | keras.layers.Softmax):
        # The logits are made by the layer before.
        closing.append(layers[layers.index(network.last_layer) - 1])
    kept = [(layer, layer.dtype_policy) for layer in layers if not any(layer is last for last in closing)]
    try:
        for layer, _ in kept:
            layer.dtype_policy = keras.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in kept:
            layer.dtype_policy = policy
