"""Soft labels: a row of probabilities for each example, or for each pixel."""

from __future__ import annotations

import numpy as np

from kdcli.data.named_arrays import list_first
from kdcli.errors import DataError

# Tolerance for the sum of a row, because entries may be rounded to half precision or to two digits: a value per
# entry, with bounds for the whole row.
_MIN_TOLERANCE, _ENTRY_TOLERANCE, _MAX_TOLERANCE = 0.02, 0.005, 0.1
# Up to this fraction of rows with another sum are errors; above it the rows are values.
_MAX_WRONG_ROWS = 0.1


def are_probability_rows(labels: np.ndarray) -> bool:
    """Check whether each example, or each pixel, has a row of probabilities (including one-hot rows)."""
    return labels.ndim in (2, 4) and labels.shape[-1] > 1 and bool(_sum_to_one(labels).all())


def normalize_rows(labels: np.ndarray) -> np.ndarray:
    """Scale rows to a sum of 1, in float32."""
    wide = labels.astype(np.float64)
    return (wide / wide.sum(-1, keepdims=True)).astype(np.float32)


def describe_soft_labels(labels: np.ndarray, where: str) -> str:
    """Describe how soft labels are used, as a note for the user."""
    ordered = np.sort(labels.reshape(-1, labels.shape[-1]), axis=-1)
    ties = int((ordered[:, -1] == ordered[:, -2]).sum())
    note = f"; {ties} rows have no single largest entry, and the first of them is used" if ties else ""
    return (
        f"{where} has rows of {labels.shape[-1]} fractions that sum to 1: soft labels; label losses use the whole "
        f"row, metrics its largest entry{note}"
    )


def check_row_sums(labels: np.ndarray, where: str) -> None:
    """Refuse rows of which most, but not all, are probabilities.

    Args:
        labels: (n, classes).
        where: name of the labels in messages.

    Raises:
        DataError: names the rows.
    """
    wrong = ~_sum_to_one(labels)
    if wrong.any() and wrong.mean() <= _MAX_WRONG_ROWS:
        total = labels[wrong][0].astype(float).sum()
        raise DataError(
            f"{where} has {labels.shape[1]} fractions per example, and {wrong.sum()} of {len(wrong)} rows do not "
            f"sum to 1 (sum {total:.4g}; at {list_first(np.flatnonzero(wrong))})",
            hint="divide each row by its sum, or --set data.task=regression when they are values",
        )


def _sum_to_one(labels: np.ndarray) -> np.ndarray:
    in_range = (labels >= 0).all(-1) & (labels <= 1).all(-1)
    tolerance = np.clip(_ENTRY_TOLERANCE * labels.shape[-1], _MIN_TOLERANCE, _MAX_TOLERANCE)
    return in_range & (np.abs(labels.sum(-1, dtype=np.float64) - 1) <= tolerance)
