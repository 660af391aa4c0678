"""Recorded outputs as a network: what another model computed for the training examples, by their index."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NoReturn

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import ops
from kdcli.models.network import Network, Outputs
from kdcli.tensors import Tensor, Tensors

# The arrays that may hold outputs, in order of preference.
_KINDS = ("logits", "probabilities", "values")
# The size that an archive may have when unpacked: spare bytes, and a multiple of its own size.
_SPARE_BYTES, _MAX_EXPANSION = 16_000_000, 30
_HINT = (
    "kd predict MODEL --data D --split train --out FILE.npz writes such a file, "
    "as does np.savez('answers.npz', logits=..., index=np.arange(n))"
)


class RecordedNetwork(Network):
    """Outputs by the row of an example; anything else cannot be computed.

    Args:
        path: a `.npz` file with `logits`, `probabilities` or `values` (n, outputs) and `index` (n,), the rows of
            the training split as the source has it; optionally the `fingerprint` of the data.
        name: what messages call the file.

    Raises:
        ModelError: a damaged file, or outputs that cannot be right.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self.name = name
        arrays, self.sha256 = _read(path)
        self.inputs = ()
        self.recorded_kind, self._recorded = _get_outputs(arrays, name)
        self.rows = _get_rows(arrays, len(self._recorded), name)
        self.output_name = self.recorded_kind
        self.output_shape = self._recorded.shape[1:]
        self.outputs = int(self._recorded.shape[-1])
        self.fingerprint = str(arrays["fingerprint"]) if "fingerprint" in arrays else None
        self._order = np.argsort(self.rows)

    def recorded(self, rows: np.ndarray) -> np.ndarray:
        """The outputs for some rows of the training split, as they were recorded.

        Raises:
            ModelError: rows without outputs.
        """
        found = np.searchsorted(self.rows, rows, sorter=self._order)
        places = self._order[np.minimum(found, len(self._order) - 1)]
        missing = rows[self.rows[places] != rows]
        if len(missing):
            first = ", ".join(str(row) for row in np.sort(missing)[:5])
            raise ModelError(
                f"{self.name}: has no outputs for {len(missing)} of {len(rows)} examples of the training split "
                f"(index {first}{', ...' if len(missing) > 5 else ''})",
                hint="kd predict MODEL --data D --split train --out FILE.npz covers all of them",
            )
        return self._recorded[places]

    def read_logits(self, rows: np.ndarray) -> np.ndarray:
        """Read the float32 logits (n, outputs) for some rows of the training split.

        Raises:
            ModelError: rows without outputs.
        """
        return np.asarray(ops.convert_to_numpy(self._as_logits(self.recorded(rows))), np.float32)

    def compute(self, raw: Tensors, *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Refuse: outputs are recorded by row."""
        self._refuse()

    def compute_saved_output(self, raw: Tensors) -> Tensor:
        """Refuse: outputs are recorded by row."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ModelError(f"{self.name}: recorded outputs cover only the training examples")


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read the arrays of a file, and the hash of its content."""
    try:
        content = path.read_bytes()
        # numpy treats anything but a zip archive as a pickle.
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise zipfile.BadZipFile("not a zip archive")
        _check_sizes(path, content)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            names = [name for name in (*_KINDS, "index", "fingerprint") if name in file.files]
            return {name: file[name] for name in names}, hashlib.sha256(content).hexdigest()
    except ValueError as error:
        pickled = "pickle" in str(error)
        reason = "contains pickled objects, which could run code" if pickled else "the file is damaged"
        raise ModelError(f"{path}: {reason}", hint=_HINT) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ModelError(f"{path}: not a readable .npz file: {error}", hint=_HINT) from None


def _check_sizes(path: Path, content: bytes) -> None:
    """Refuse an archive that unpacks to far more than its size, and arrays that it cannot fill."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _SPARE_BYTES + _MAX_EXPANSION * len(content):
            raise ModelError(f"{path}: refused, size: unpacks from {len(content):,} bytes to {unpacked:,}")
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(file)
            if prod(shape) * dtype.itemsize > member.file_size:
                raise ModelError(
                    f"{path}: refused, size: {member.filename} has shape {shape}, more than the file holds"
                )


def _get_outputs(arrays: Mapping[str, np.ndarray], name: str) -> tuple[str, np.ndarray]:
    """The kind of the recorded outputs, and the outputs."""
    kind = next((kind for kind in _KINDS if kind in arrays), None)
    if kind is None or "index" not in arrays:
        missing = "index" if kind else "logits, probabilities or values"
        raise ModelError(f"{name}: recorded outputs without {missing}", hint=_HINT)
    outputs = arrays[kind]
    if outputs.ndim != 2 or outputs.dtype.kind not in "fiu" or not outputs.size:
        raise ModelError(
            f"{name}: {kind} is {outputs.dtype} of shape {outputs.shape} (expected numbers of shape (n, outputs))"
        )
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        raise ModelError(
            f"{name}: {int((~finite).sum())} of {len(outputs)} outputs are NaN or infinite (first in row "
            f"{int(np.flatnonzero(~finite)[0])} of {kind})"
        )
    return kind, outputs.astype(np.float32)


def _get_rows(arrays: Mapping[str, np.ndarray], count: int, name: str) -> np.ndarray:
    """The row of the training split for each of the outputs."""
    rows = arrays["index"]
    if rows.shape != (count,) or rows.dtype.kind not in "iu" or rows.min(initial=0) < 0:
        raise ModelError(
            f"{name}: index is {rows.dtype} of shape {rows.shape} (expected {count} whole numbers from 0)"
        )
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        repeated = values[counts > 1]
        first = ", ".join(str(row) for row in repeated[:5])
        raise ModelError(f"{name}: {len(repeated)} examples have more than one output (index {first})")
    return rows.astype(np.int64)
