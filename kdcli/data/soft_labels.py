"""Soft labels: a row of probabilities for each example, or for each pixel."""

from __future__ import annotations

import numpy as np

from kdcli.data.arrays import list_first
from kdcli.errors import DataError

# How far a row may be from 1: entries are rounded, to half precision or to two digits.
_LEAST, _EACH, _MOST = 0.02, 0.005, 0.1
# Up to this fraction of rows with another sum they are slips; above it the rows are values of another kind.
_SLIPS = 0.1


def are_probability_rows(labels: np.ndarray) -> bool:
    """Whether each example, or each pixel, has a row of probabilities, one-hot ones among them."""
    return labels.ndim in (2, 4) and labels.shape[-1] > 1 and bool(_sum_to_one(labels).all())


def normalize_rows(labels: np.ndarray) -> np.ndarray:
    """The rows in float32 with a sum of 1, however they were rounded."""
    wide = labels.astype(np.float64)
    return (wide / wide.sum(-1, keepdims=True)).astype(np.float32)


def describe_soft_labels(labels: np.ndarray, where: str) -> str:
    """What soft labels are used for, as a sentence."""
    ordered = np.sort(labels.reshape(-1, labels.shape[-1]), axis=-1)
    ties = int((ordered[:, -1] == ordered[:, -2]).sum())
    first = f"; {ties} have no single largest, the first of them counts" if ties else ""
    return (
        f"{where} holds rows of {labels.shape[-1]} fractions that sum to 1: soft labels, the whole row in label "
        f"losses, its largest for metrics{first}"
    )


def check_row_sums(labels: np.ndarray, where: str) -> None:
    """Refuse rows of probabilities of which some are not.

    Raises:
        DataError: naming the rows.
    """
    off = ~_sum_to_one(labels)
    if off.any() and off.mean() <= _SLIPS:
        raise DataError(
            f"{where} has {labels.shape[1]} fractions an example, and {off.sum()} of {len(off)} rows have "
            f"another sum than 1 ({labels[off][0].astype(float).sum():.4g}; at {list_first(np.flatnonzero(off))})",
            hint="divide each row by its sum; or --set data.task=regression when they are values",
        )


def _sum_to_one(labels: np.ndarray) -> np.ndarray:
    in_range = (labels >= 0).all(-1) & (labels <= 1).all(-1)
    tolerance = np.clip(_EACH * labels.shape[-1], _LEAST, _MOST)
    return in_range & (np.abs(labels.sum(-1, dtype=np.float64) - 1) <= tolerance)
