"""Computing in half precision while the weights stay float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcli.lazy import keras
from kdcli.models.tapping import layers_by_path


@contextmanager
def computing_in(model: Any, precision: str) -> Iterator[None]:
    """Let a model's layers compute in `mixed_bfloat16` while the block runs; `float32` changes nothing.

    Every layer gets the policy but the last, whose output is the logits. The policies are put back, so that the
    saved model is the one that was opened. A global policy would not reach a model that is loaded already.
    """
    if precision == "float32":
        yield
        return
    layers = [layer for layer in layers_by_path(model).values() if not isinstance(layer, keras.Model)]
    kept = [(layer, layer.dtype_policy) for layer in layers[:-1]]
    try:
        for layer, _ in kept:
            layer.dtype_policy = keras.DTypePolicy(precision)
        yield
    finally:
        for layer, policy in kept:
            layer.dtype_policy = policy
