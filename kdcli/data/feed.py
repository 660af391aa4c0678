"""Batches gathered by example index inside a compiled function, from memory or from the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.data.encoded_images import EncodedImages, decode_images
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.lazy import tf
from kdcli.runs.mapped_arrays import PART_BYTES

# Where TensorFlow expects a tensor to begin, in bytes.
ALIGNMENT_BYTES = 64


def load_resident_tensors(examples: Examples) -> dict[str, Any]:
    """All raw inputs of a split, by name; `tf.constant` would need twice their size for a moment."""
    count = len(examples)
    shapes = {name: (count, *shape) for name, shape in examples.shapes.items()}
    arrays = {name: _aligned(shapes[name], dtype) for name, dtype in examples.dtypes.items()}
    rows = max(1, PART_BYTES // max(1, examples.bytes // max(count, 1)))
    for start in range(0, count, rows):
        positions = np.arange(start, min(start + rows, count))
        for name, part in examples.take(positions).items():
            arrays[name][positions] = part
    # The tensor takes over the array's memory; where there is a GPU, `identity` brings it there.
    return {name: tf.identity(tf.experimental.dlpack.from_dlpack(a.__dlpack__())) for name, a in arrays.items()}


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(needed + ALIGNMENT_BYTES, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[begin : begin + needed].view(dtype).reshape(shape)


# Raw inputs up to this size lie in memory as tensors; larger ones stay where they are and are streamed.
RESIDENT_BYTES = 256_000_000


@dataclass(frozen=True)
class Batch:
    """Tensors of a batch (or of a replica's slice of it).

    Args:
        inputs: raw inputs by name, augmented, in their stored type.
        labels: labels, or None; soft ones, and those of mixed pictures, are (batch, ..., classes).
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
        self.is_resident = examples.bytes <= resident_bytes
        self._inputs = load_resident_tensors(examples) if self.is_resident else None
        labels = examples.training_labels()
        self._labels = None if labels is None else tf.constant(labels)
        weights = examples.weights
        self._weights = None if weights is None else tf.constant(weights[examples.rows])

    def gather(
        self, positions: Any, table: Any, *, slot: Any, total: int, inputs: Mapping[str, Any] | None = None
    ) -> Batch:
        """The batch at some positions: gathered, then augmented by the view's table.

        Args:
            positions: example indices (batch,).
            table: random numbers of the view.
            slot: which kept view that is.
            total: examples in the global batch.
            inputs: the inputs in this view where they were read ahead.
        """
        if inputs is None:
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
                row = label if label.shape.rank > 1 else tf.one_hot(label, self.classes)
                labels += counts[:, None] * row
        if self._labels is not None:
            labels = tf.math.divide_no_nan(labels, weights[:, None])
        return None if self._labels is None else labels, None if self._weights is None else weights

    def _gathered(self, positions: Any) -> dict[str, Any]:
        if self._inputs is not None:
            return {name: tf.gather(array, positions) for name, array in self._inputs.items()}
        return read_host_inputs(self.examples, positions)


def read_host_inputs(examples: Examples, positions: Any) -> dict[str, Any]:
    """Raw inputs at some positions, for a compiled function, of examples that stay where they are.

    Pictures that are kept encoded come as bytes and are decoded by operations of the function.
    """
    encoded = {n: array for n, array in examples.inputs.items() if isinstance(array, EncodedImages)}
    plain = replace(examples, inputs={n: array for n, array in examples.inputs.items() if n not in encoded})

    def take(at: np.ndarray) -> list[np.ndarray]:
        rows = examples.rows[at]
        return [*(array.read_encoded(rows) for array in encoded.values()), *plain.take(at).values()]

    types = [*(tf.string for _ in encoded), *plain.dtypes.values()]
    # What positions stand for never changes: calls may run side by side, also where operations are deterministic.
    # Of a single type a call outside of a function gives the tensor itself.
    taken = tf.nest.flatten(tf.numpy_function(take, [positions], types, stateful=False))
    tensors = dict(zip([*encoded, *plain.inputs], taken, strict=True))
    found = {}
    for name, shape in examples.shapes.items():
        tensor = tensors[name]
        if name in encoded:
            tensor = decode_images(tf.ensure_shape(tensor, positions.shape), encoded[name].form)
        found[name] = tf.ensure_shape(tensor, (*positions.shape, *shape))
    return found
