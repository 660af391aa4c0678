"""A network's answers to many examples, batch by batch through one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdcli.lazy import ops, tf
from kdcli.models.network import Network

LOGITS = "logits"
Take = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Predictor:
    """Asks a network in inference mode; the function is compiled once and used for every call.

    Args:
        network: whom to ask.
        taps: features to keep beside the logits.
        batch_size: examples in a batch.
    """

    def __init__(
        self,
        network: Network,
        *,
        taps: Sequence[str] = (),
        batch_size: int = 256,
    ) -> None:
        self.network = network
        self.taps = tuple(taps)
        self.batch_size = batch_size
        self._compiled = tf.function(self._answer, autograph=False, reduce_retracing=True)

    def _answer(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.network.compute(raw, taps=self.taps, training=False)
        kept = {LOGITS: answer.logits, **answer.features}
        # Half precision is for computing; kept answers are float32, except features that are no floats.
        return {name: ops.cast(value, "float32") for name, value in kept.items()}

    def __call__(
        self,
        take: Take,
        count: int,
        *,
        on_batch: Callable[[int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """The answers to the examples 0 .. count - 1, by name: `logits` and the taps.

        Args:
            take: raw inputs at some positions.
            count: how many examples.
            on_batch: called with the number of examples answered so far; it may raise to stop.
        """
        kept: dict[str, np.ndarray] = {}
        for start in range(0, count, self.batch_size):
            positions = np.arange(start, min(start + self.batch_size, count))
            raw = {name: tf.convert_to_tensor(value) for name, value in take(positions).items()}
            answers = self._compiled(raw)
            for name, value in answers.items():
                value = value.numpy()
                if name not in kept:
                    kept[name] = np.empty((count, *value.shape[1:]), value.dtype)
                kept[name][start : start + len(positions)] = value
            if on_batch is not None:
                on_batch(start + len(positions))
        return kept
