"""The statistics of batch normalization, measured again on examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras, ops, tf
from kdcli.models.keras.layers import iterate_layers, wrap_calls
from kdcli.tensors import Batches, KerasModel, Tensor


def measure_batch_statistics(model: KerasModel, batches: Batches) -> int:
    """Replace the moving mean and variance of every batch normalization by those of the examples.

    Each layer normalizes a batch by the statistics of the batch itself, as in training; everything else, such as
    dropout, runs as in inference.

    Args:
        model: its weights are changed.
        batches: preprocessed examples; each batch counts by its size.

    Returns:
        The number of layers with new statistics.
    """
    layers = [layer for _, layer in iterate_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    if not layers:
        return 0

    def compute(inputs: Any) -> list[tuple[Tensor, Tensor]]:
        with _normalize_by_batch(layers) as seen:
            model(inputs, training=False)
        return [seen[id(layer)] for layer in layers]

    function = tf.function(compute, autograph=False, reduce_retracing=True)
    total = 0
    sums: list[list[Any]] = [[0.0, 0.0] for _ in layers]
    for batch in batches():
        size = len(keras.tree.flatten(batch)[0])
        total += size
        for one, (mean, variance) in zip(sums, function(batch), strict=True):
            mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
            # Sum the squares, so that variance between batches counts.
            one[0], one[1] = one[0] + size * mean, one[1] + size * (variance + mean**2)
    for layer, (mean, square) in zip(layers, sums, strict=True):
        layer.moving_mean.assign(mean / total)
        layer.moving_variance.assign(np.maximum(square / total - (mean / total) ** 2, 0))
    return len(layers)


@contextmanager
def _normalize_by_batch(layers: Sequence[Any]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Let layers normalize by the statistics of the batch, and record these; a layer's last call counts."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def wrap(number: int, original: Any) -> Any:
        del original
        layer = layers[number]

        def call(inputs: Tensor, training: Any = None, mask: Any = None) -> Tensor:
            del training, mask
            axis = layer.axis % len(inputs.shape)
            value = ops.cast(inputs, "float64" if layer.compute_dtype == "float64" else "float32")
            mean, variance = ops.moments(value, axes=[one for one in range(len(inputs.shape)) if one != axis])
            seen[id(layer)] = mean, variance
            result = ops.batch_normalization(
                value, mean, variance, axis, offset=layer.beta, scale=layer.gamma, epsilon=layer.epsilon
            )
            return ops.cast(result, layer.compute_dtype)

        return call

    with wrap_calls(layers, wrap):
        yield seen
