"""Maps of two sizes: the larger is averaged down to the smaller, or one is resized to the nearest point."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import ops


def match_sizes(student: Any, teacher: Any) -> tuple[Any, Any]:
    """Both features with the same height and width; vectors and sequences stay as they are.

    Args:
        student, teacher: (batch, h, w, channels), or with fewer axes.

    Raises:
        ValueError: sequences of different lengths, or features with other numbers of axes.
    """
    ours, theirs = tuple(student.shape[1:-1]), tuple(teacher.shape[1:-1])
    if ours == theirs:
        return student, teacher
    if len(ours) != 2 or len(theirs) != 2:
        raise ValueError(f"features of {tuple(student.shape)} and {tuple(teacher.shape)} cannot be laid over")
    size = min(ours[0], theirs[0]), min(ours[1], theirs[1])
    return average_pool(student, size), average_pool(teacher, size)


def average_pool(feature: Any, size: tuple[int, int]) -> Any:
    """The mean over windows that cover a map evenly, also where the size does not divide it.

    Window i of n over a side of length s goes from floor(i·s/n) to ceil((i+1)·s/n); windows may overlap.
    """
    height, width = feature.shape[1:3]
    if (height, width) == tuple(size):
        return feature
    rows = ops.convert_to_tensor(_windows(height, size[0]), dtype=feature.dtype)
    columns = ops.convert_to_tensor(_windows(width, size[1]), dtype=feature.dtype)
    return ops.einsum("ih,bhwc,jw->bijc", rows, feature, columns)


def resize_to_nearest(feature: Any, size: tuple[int, int]) -> Any:
    """The point i · from / to, rounded down, for each i: neither end is shifted by half a point."""
    for axis, wanted in enumerate(size, start=1):
        length = feature.shape[axis]
        if length != wanted:
            feature = ops.take(feature, [place * length // wanted for place in range(wanted)], axis=axis)
    return feature


def _windows(length: int, count: int) -> list[list[float]]:
    """(count, length): row i holds the shares of window i."""
    shares = []
    for number in range(count):
        begin, end = number * length // count, -(-(number + 1) * length // count)
        shares.append([1 / (end - begin) if begin <= place < end else 0.0 for place in range(length)])
    return shares
