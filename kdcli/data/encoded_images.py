"""Pictures that stay encoded until they are asked for: random access to more of them than fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.image_decoder import DEEP_BITS, ImageSpec, compile_decoder
from kdcli.data.store import StoredBytes
from kdcli.errors import DataError
from kdcli.lazy import tf

DAMAGED = "damaged or cut off"


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Stands for the array (n, height, width, channels) in uint8 that the pictures are when decoded.

    Args:
        stored: the encoded pictures.
        names: what messages call each, in UTF-8.
        form: what they become.
    """

    stored: StoredBytes
    names: StoredBytes
    form: ImageSpec

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the decoded array."""
        return (len(self), *self.form.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a pixel."""
        return np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """How many axes the decoded array has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, wanted: Any) -> np.ndarray:
        """Some pictures, decoded: positions, or a slice.

        Raises:
            DataError: one of them is damaged.
        """
        rows = np.arange(*wanted.indices(len(self))) if isinstance(wanted, slice) else np.asarray(wanted)
        try:
            return self._decoded(rows)
        # TensorFlow may quote bytes in a message that must be text.
        except (tf.errors.OpError, UnicodeDecodeError):
            damaged = self.damaged(rows)
            if not damaged:
                raise
            more = f", and {len(damaged) - 1} more of {len(rows)}" if len(damaged) > 1 else ""
            raise DataError(
                f"{self.name(damaged[0])}: this picture is {DAMAGED}{more}", hint="copy it again, or remove it"
            ) from None

    def read_encoded(self, rows: np.ndarray) -> np.ndarray:
        """Some pictures as they are stored, an array of `bytes`."""
        return np.array(self.stored.at(rows), object)

    def name(self, row: int) -> str:
        """What messages call a picture."""
        return self.names.at(np.array([row]))[0].decode("utf-8")

    def damaged(self, rows: np.ndarray) -> list[int]:
        """Those of some pictures that cannot be decoded."""
        found = []
        for row in rows.tolist():
            try:
                self._decoded(np.array([row]))
            except (tf.errors.OpError, UnicodeDecodeError):
                found.append(row)
        return found

    def part(self, rows: slice) -> EncodedImages:
        """Neighbouring pictures as an array of their own, in the same store."""
        return EncodedImages(self.stored.part(rows), self.names.part(rows), self.form)

    def pieces(self) -> Iterator[np.ndarray]:
        """Lengths and bytes of the encoded pictures, and how they are decoded, for a fingerprint."""
        yield from self.stored.pieces()
        if self.form.bits != DEEP_BITS:
            yield np.array([self.form.bits])

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        decode = compile_decoder(self.form)
        return np.asarray(decode(tf.constant(self.read_encoded(rows), tf.string)))
