"""Prediction for many examples, batch by batch through one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kdcli.lazy import ops, tf
from kdcli.models.network import Network
from kdcli.tensors import Tensor, Tensors

LOGITS = "logits"
# Returns the raw inputs at some positions, by input name.
Take = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Predictor:
    """Runs a network in inference mode; its function is compiled once for all calls.

    Args:
        network: the network to run.
        taps: features to return with the logits.
        batch_size: examples in a batch.
    """

    def __init__(self, network: Network, *, taps: Sequence[str] = (), batch_size: int = 256) -> None:
        self.network = network
        self.taps = tuple(taps)
        self.batch_size = batch_size
        self._compiled = tf.function(self._compute, autograph=False, reduce_retracing=True)

    def _compute(self, raw: Tensors) -> dict[str, Tensor]:
        outputs = self.network.compute(raw, taps=self.taps, training=False)
        # Layers may compute in half precision; the results are float32, also features of integers.
        return {
            name: ops.cast(value, "float32")
            for name, value in {LOGITS: outputs.logits, **outputs.features}.items()
        }

    def __call__(
        self,
        take: Take,
        count: int,
        *,
        on_batch: Callable[[int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute the outputs for the examples 0 .. count - 1: `logits` and the taps, by name.

        Args:
            take: returns the raw inputs at some positions.
            count: number of examples.
            on_batch: called after each batch with the number of examples done; it may raise to stop.
        """
        results: dict[str, np.ndarray] = {}
        for start in range(0, count, self.batch_size):
            positions = np.arange(start, min(start + self.batch_size, count))
            raw = {name: tf.convert_to_tensor(value) for name, value in take(positions).items()}
            for name, tensor in self._compiled(raw).items():
                value = tensor.numpy()
                if name not in results:
                    results[name] = np.empty((count, *value.shape[1:]), value.dtype)
                results[name][start : start + len(positions)] = value
            if on_batch is not None:
                on_batch(start + len(positions))
        return results
