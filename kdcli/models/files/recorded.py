"""Recorded answers: what a model that lives elsewhere said to the training examples, by their index."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import ops
from kdcli.models.network import Network, Outputs

# What a file may hold answers as, the best first, and how each is understood.
_KINDS = {"logits": "logits", "probabilities": "probabilities", "values": "values"}
# What an archive may become when it is unpacked.
_SPARE_BYTES, _MAX_EXPANSION = 16_000_000, 30
_HINT = (
    "kd predict MODEL --data D --split train --out FILE.npz writes one, "
    "as does np.savez('answers.npz', logits=..., index=np.arange(n))"
)


class RecordedNetwork(Network):
    """Answers by the row of an example; it cannot be asked anything else.

    Args:
        path: a `.npz` file with `logits`, `probabilities` or `values` (n, outputs) and `index` (n,), the rows of
            the training part as the source has it; `fingerprint` of the data where it says so.
        name: what messages call it.

    Raises:
        ModelError: not such a file, or answers that cannot be right.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        self.name = name
        arrays, self.sha256 = _read(path)
        self.inputs = ()
        self.recorded_kind, self._answers = _answers(arrays, name)
        self.rows = _rows(arrays, len(self._answers), name)
        self.output_name = self.recorded_kind
        self.output_shape = self._answers.shape[1:]
        self.outputs = int(self._answers.shape[-1])
        self.fingerprint = str(arrays["fingerprint"]) if "fingerprint" in arrays else None
        self._order = np.argsort(self.rows)

    def recorded(self, rows: np.ndarray) -> np.ndarray:
        """The answers to some rows of the training part, as they were recorded.

        Raises:
            ModelError: some of them have none.
        """
        found = np.searchsorted(self.rows, rows, sorter=self._order)
        places = self._order[np.minimum(found, len(self._order) - 1)]
        missing = rows[self.rows[places] != rows]
        if len(missing):
            first = ", ".join(str(row) for row in np.sort(missing)[:5])
            raise ModelError(
                f"{self.name}: has no answer to {len(missing)} of {len(rows)} examples of the training part "
                f"(index {first}{', ...' if len(missing) > 5 else ''})",
                hint="kd predict MODEL --data D --split train --out FILE.npz covers all of them",
            )
        return self._answers[places]

    def read_logits(self, rows: np.ndarray) -> np.ndarray:
        """Float32 logits (n, outputs) of some rows of the training part.

        Raises:
            ModelError: some of them have none.
        """
        return np.asarray(ops.convert_to_numpy(self._as_logits(self.recorded(rows))), np.float32)

    def compute(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Recorded answers are got by row."""
        self._refuse()

    def compute_saved_output(self, raw: Mapping[str, Any]) -> Any:
        """Recorded answers are got by row."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ModelError(f"{self.name}: recorded answers are about the training examples, nothing else is known")


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    try:
        content = path.read_bytes()
        # Handed anything but a zip, numpy takes it for a pickle.
        if not zipfile.is_zipfile(io.BytesIO(content)):
            raise zipfile.BadZipFile("it is no zip archive")
        _check_sizes(path, content)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            wanted = [name for name in (*_KINDS, "index", "fingerprint") if name in file.files]
            return {name: file[name] for name in wanted}, hashlib.sha256(content).hexdigest()
    except ValueError as error:
        reason = "holds pickled objects, which could run code" if "pickle" in str(error) else "is damaged"
        raise ModelError(f"{path}: {reason}", hint=_HINT) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ModelError(f"{path}: not a readable .npz file: {error}", hint=_HINT) from None


def _check_sizes(path: Path, content: bytes) -> None:
    """Refuse an archive that unpacks to much more than it is, and arrays that it cannot fill."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _SPARE_BYTES + _MAX_EXPANSION * len(content):
            raise ModelError(f"{path}: refused, size: it unpacks from {len(content)} bytes to {unpacked}")
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(file)
            if prod(shape) * dtype.itemsize > member.file_size:
                raise ModelError(f"{path}: refused, size: {member.filename} is {shape}, more than the file holds")


def _answers(arrays: Mapping[str, np.ndarray], name: str) -> tuple[str, np.ndarray]:
    kind = next((kind for kind in _KINDS if kind in arrays), None)
    if kind is None or "index" not in arrays:
        missing = "index" if kind else "logits, probabilities or values"
        raise ModelError(f"{name}: recorded answers without {missing}", hint=_HINT)
    answers = arrays[kind]
    if answers.ndim != 2 or answers.dtype.kind not in "fiu" or not answers.size:
        raise ModelError(f"{name}: {kind} is {answers.dtype} {answers.shape}; numbers (n, outputs) are expected")
    finite = np.isfinite(answers).all(axis=1)
    if not finite.all():
        raise ModelError(
            f"{name}: {int((~finite).sum())} of {len(answers)} answers are NaN or infinite (first in row "
            f"{int(np.flatnonzero(~finite)[0])} of {kind})"
        )
    return kind, answers.astype(np.float32)


def _rows(arrays: Mapping[str, np.ndarray], count: int, name: str) -> np.ndarray:
    rows = arrays["index"]
    if rows.shape != (count,) or rows.dtype.kind not in "iu" or rows.min(initial=0) < 0:
        raise ModelError(f"{name}: index is {rows.dtype} {rows.shape}; {count} whole numbers from 0 are expected")
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        twice = values[counts > 1]
        first = ", ".join(str(row) for row in twice[:5])
        raise ModelError(f"{name}: {len(twice)} examples have more than one answer (index {first})")
    return rows.astype(np.int64)
