"""Feature maps of different sizes: average pooling to the smaller size, or nearest-neighbour resizing."""

from __future__ import annotations

from kdcli.lazy import ops
from kdcli.tensors import Tensor


def match_sizes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average the larger map down to the smaller; vectors and sequences of equal length are unchanged.

    Args:
        student, teacher: features (batch, h, w, channels), or with fewer axes.

    Raises:
        ValueError: sequences of different lengths, or features with different numbers of axes.
    """
    ours, theirs = tuple(student.shape[1:-1]), tuple(teacher.shape[1:-1])
    if ours == theirs:
        return student, teacher
    if len(ours) != 2 or len(theirs) != 2:
        raise ValueError(
            f"features of shapes {tuple(student.shape)} and {tuple(teacher.shape)} cannot be brought to one size"
        )
    size = min(ours[0], theirs[0]), min(ours[1], theirs[1])
    return average_pool(student, size), average_pool(teacher, size)


def average_pool(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Average over windows that cover a map evenly, also where the size does not divide it.

    Window i of n over a side of length s covers floor(i·s/n) to ceil((i+1)·s/n); windows may overlap.
    """
    height, width = feature.shape[1:3]
    if (height, width) == tuple(size):
        return feature
    rows = ops.convert_to_tensor(_window_weights(height, size[0]), dtype=feature.dtype)
    columns = ops.convert_to_tensor(_window_weights(width, size[1]), dtype=feature.dtype)
    return ops.einsum("ih,bhwc,jw->bijc", rows, feature, columns)


def resize_to_nearest(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map; output point i is input point floor(i · from / to), without a half-pixel shift."""
    for axis, wanted in enumerate(size, start=1):
        length = feature.shape[axis]
        if length != wanted:
            feature = ops.take(feature, [place * length // wanted for place in range(wanted)], axis=axis)
    return feature


def _window_weights(length: int, count: int) -> list[list[float]]:
    """(count, length): row i holds the weights of window i."""
    weights = []
    for number in range(count):
        begin, end = number * length // count, -(-(number + 1) * length // count)
        weights.append([1 / (end - begin) if begin <= place < end else 0.0 for place in range(length)])
    return weights
