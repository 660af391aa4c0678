"""Inputs and outputs of LiteRT and ONNX files, and how they store values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdcli.errors import ModelError


@dataclass(frozen=True)
class FileTensor:
    """An input or output of a file.

    Args:
        name: name in the file.
        shape: shape without the batch axis; -1 for an axis of any size.
        dtype: `float32`, `uint8`, `int8`, ...
        scale: a stored integer q means `scale * (q - zero_point)`; None if values are stored unquantized.
        zero_point: 0 without a scale.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return np.dtype(self.dtype).kind in "iu"

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """A batch in the type of the tensor; floats are quantized for an integer tensor, integers are not.

        Raises:
            ModelError: another shape, or integers out of range.
        """
        if batch.ndim != len(self.shape) + 1 or any(
            side not in (-1, size) for side, size in zip(self.shape, batch.shape[1:], strict=True)
        ):
            raise ModelError(f"the file takes examples of shape {self.shape}, got {tuple(batch.shape[1:])}")
        if not self.is_integer:
            return np.ascontiguousarray(batch, self.dtype)
        limits = np.iinfo(self.dtype)
        if batch.dtype.kind == "f":
            batch = np.round(batch.astype(np.float64) / (self.scale or 1.0)) + self.zero_point
            batch = np.clip(batch, limits.min, limits.max)
        elif batch.dtype != self.dtype and batch.size:
            if batch.min() < limits.min or batch.max() > limits.max:
                raise ModelError(f"the file takes {self.dtype}, got values from {batch.min()} to {batch.max()}")
        return np.ascontiguousarray(batch, self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The float32 values of what the tensor holds."""
        if not self.is_integer or self.scale is None:
            return stored.astype(np.float32)
        return ((stored.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)
