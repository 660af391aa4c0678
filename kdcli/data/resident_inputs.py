"""Raw inputs in memory as tensors, without a second copy of them on the way there."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcli.data.examples import Examples
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
