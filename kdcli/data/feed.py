"""Batches gathered by example index inside a compiled function, from memory or from the host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.data.encoded_images import EncodedImages, decode_images
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.lazy import tf
from kdcli.runs.mapped_arrays import PART_BYTES
from kdcli.tensors import Tensor, Tensors

# Raw inputs up to this size are loaded as tensors; larger ones are streamed from where they are stored.
RESIDENT_BYTES = 256_000_000
# TensorFlow expects the memory of a tensor to begin at a multiple of this.
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Batch:
    """Tensors of a batch, or of one replica's slice of it.

    Args:
        inputs: raw inputs by name, augmented, in their stored type.
        labels: labels, or None; soft labels, and labels of mixed images, are (batch, ..., classes).
        weights: sample weights (batch,), or None.
        positions: example indices (batch,).
        slot: number of the cached view, a scalar.
        total: number of examples in the global batch.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    positions: Tensor
    slot: Tensor
    total: int


class Feed:
    """Gathers batches by index inside a compiled function.

    Args:
        examples: the training split.
        views: its augmentation.
        classes: number of classes, for the labels of mixed images.
        resident_bytes: inputs up to this size are loaded as tensors.
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
        self, positions: Tensor, table: Tensor, *, slot: Tensor, total: int, inputs: Tensors | None = None
    ) -> Batch:
        """Gather the batch at the given positions and augment it.

        Args:
            positions: example indices (batch,).
            table: random numbers of the view.
            slot: number of the cached view.
            total: number of examples in the global batch.
            inputs: inputs that were read ahead and already augmented.
        """
        if inputs is None:
            raw = self._gather_inputs(positions)
            inputs = self.views.apply(raw, positions, table, take=self._gather_inputs)
        mix = self.views.mixes
        labels, weights = self._mix_labels(positions, table) if mix else self._gather_labels(positions)
        return Batch(dict(inputs), labels, weights, positions, slot, total)

    def _gather_labels(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        labels = None if self._labels is None else tf.gather(self._labels, positions)
        return labels, None if self._weights is None else tf.gather(self._weights, positions)

    def _mix_labels(self, positions: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Mix labels and weights: each source counts with its fraction of the image times its own weight."""
        size = next(iter(self.examples.shapes.values()))[:2]
        labels: Any = 0.0
        weights: Any = 0.0
        for at, fraction in self.views.sources(positions, table, size=(size[0], size[1])):
            label, weight = self._gather_labels(at)
            factor = fraction if weight is None else fraction * weight
            weights += factor
            if label is not None:
                row = label if label.shape.rank > 1 else tf.one_hot(label, self.classes)
                labels += factor[:, None] * row
        if self._labels is not None:
            labels = tf.math.divide_no_nan(labels, weights[:, None])
        return None if self._labels is None else labels, None if self._weights is None else weights

    def _gather_inputs(self, positions: Tensor) -> dict[str, Tensor]:
        if self._inputs is not None:
            return {name: tf.gather(array, positions) for name, array in self._inputs.items()}
        return read_host_inputs(self.examples, positions)


def read_host_inputs(examples: Examples, positions: Tensor) -> dict[str, Tensor]:
    """Read raw inputs from the host inside a compiled function.

    Encoded images are read as bytes and decoded by operations of the function.

    Args:
        examples: the split.
        positions: example indices (batch,).
    """
    encoded = {n: array for n, array in examples.inputs.items() if isinstance(array, EncodedImages)}
    plain = replace(examples, inputs={n: array for n, array in examples.inputs.items() if n not in encoded})

    def take(at: np.ndarray) -> list[np.ndarray]:
        rows = examples.rows[at]
        return [*(array.read_encoded(rows) for array in encoded.values()), *plain.take(at).values()]

    types = [*(tf.string for _ in encoded), *plain.dtypes.values()]
    # The function is pure, so calls may run in parallel even when operations must be deterministic.
    # Called eagerly with a single output type, it returns a tensor instead of a list: hence `flatten`.
    arrays = tf.nest.flatten(tf.numpy_function(take, [positions], types, stateful=False))
    tensors = dict(zip([*encoded, *plain.inputs], arrays, strict=True))
    found = {}
    for name, shape in examples.shapes.items():
        tensor = tensors[name]
        if name in encoded:
            tensor = decode_images(tf.ensure_shape(tensor, positions.shape), encoded[name].image_spec)
        found[name] = tf.ensure_shape(tensor, (*positions.shape, *shape))
    return found


def load_resident_tensors(examples: Examples) -> dict[str, Tensor]:
    """Load all raw inputs of a split as tensors, by name; `tf.constant` would need twice the memory."""
    count = len(examples)
    shapes = {name: (count, *shape) for name, shape in examples.shapes.items()}
    arrays = {name: _create_aligned(shapes[name], dtype) for name, dtype in examples.dtypes.items()}
    rows = max(1, PART_BYTES // max(1, examples.bytes // max(count, 1)))
    for start in range(0, count, rows):
        positions = np.arange(start, min(start + rows, count))
        for name, part in examples.take(positions).items():
            arrays[name][positions] = part
    # The tensor takes over the memory of the array; `identity` copies it to a GPU if there is one.
    return {name: tf.identity(tf.experimental.dlpack.from_dlpack(a.__dlpack__())) for name, a in arrays.items()}


def _create_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(needed + _ALIGNMENT_BYTES, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[begin : begin + needed].view(dtype).reshape(shape)
