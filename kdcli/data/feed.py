"""Batches by index, gathered inside a compiled function: what training hands to an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.lazy import tf

# Raw inputs up to this size lie in memory as tensors; larger ones are gathered on the host.
RESIDENT_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Batch:
    """Tensors of a batch (or of a replica's slice of it).

    Args:
        inputs: raw inputs by name, augmented, in their stored type.
        labels: labels, or None; where the view mixes pictures, shares of the classes (batch, classes).
        weights: sample weights (batch,), or None.
        positions: example indices (batch,).
        slot: which kept view this is, a scalar.
        total: examples in the global batch, a number.
    """

    inputs: dict[str, Any]
    labels: Any
    weights: Any
    positions: Any
    slot: Any
    total: int


class Feed:
    """Gathers batches by index inside a compiled function.

    Args:
        examples: the training split.
        views: its augmentation.
        classes: how many there are, for labels of mixed pictures.
        resident_bytes: up to this size the inputs are kept as tensors.
    """

    def __init__(
        self, examples: Examples, views: Views, *, classes: int = 0, resident_bytes: int = RESIDENT_BYTES
    ) -> None:
        self.examples = examples
        self.views = views
        self.classes = classes
        everything = np.arange(len(examples))
        self.resident = examples.bytes <= resident_bytes
        self._inputs = (
            {name: tf.constant(array) for name, array in examples.take(everything).items()}
            if self.resident
            else None
        )
        labels = examples.all_labels()
        self._labels = None if labels is None else tf.constant(labels)
        weights = examples.weights
        self._weights = None if weights is None else tf.constant(weights[examples.rows])

    def gather(self, positions: Any, table: Any, *, slot: Any, total: int) -> Batch:
        """The batch at some positions: gathered, then augmented by the view's table."""
        raw = self._gathered(positions)
        inputs = self.views.apply(raw, positions, table, take=self._gathered)
        labels, weights = self._mixed_truth(positions, table) if self.views.mixes else self._truth(positions)
        return Batch(dict(inputs), labels, weights, positions, slot, total)

    def _truth(self, positions: Any) -> tuple[Any, Any]:
        labels = None if self._labels is None else tf.gather(self._labels, positions)
        return labels, None if self._weights is None else tf.gather(self._weights, positions)

    def _mixed_truth(self, positions: Any, table: Any) -> tuple[Any, Any]:
        """Shares of the classes and mixed weights: a source counts in both by its share and its own weight."""
        size = next(iter(self.examples.shapes.values()))[:2]
        labels: Any = 0.0
        weights: Any = 0.0
        for at, share in self.views.sources(positions, table, size=(size[0], size[1])):
            label, weight = self._truth(at)
            counts = share if weight is None else share * weight
            weights += counts
            if label is not None:
                labels += counts[:, None] * tf.one_hot(label, self.classes)
        if self._labels is not None:
            labels = tf.math.divide_no_nan(labels, weights[:, None])
        return None if self._labels is None else labels, None if self._weights is None else weights

    def _gathered(self, positions: Any) -> dict[str, Any]:
        if self._inputs is not None:
            return {name: tf.gather(array, positions) for name, array in self._inputs.items()}
        return from_host(self.examples, positions)


def from_host(examples: Examples, positions: Any) -> dict[str, Any]:
    """Raw inputs at some positions, for a compiled function, of examples that stay where they are."""
    gathered = {}
    for name, dtype in examples.dtypes.items():
        tensor = tf.numpy_function(lambda at, key=name: examples.take(at)[key], [positions], dtype)
        gathered[name] = tf.ensure_shape(tensor, (None, *examples.shapes[name]))
    return gathered
