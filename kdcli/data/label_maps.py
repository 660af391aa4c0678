"""Targets for every pixel: masks of classes, told from images whose pixels are values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdcli.data.examples import RowArray

# Maps that are looked at, and the fraction of equal neighbours from which on they are areas of classes.
_SAMPLED_MAPS = 32
_MIN_EQUAL_NEIGHBOURS = 0.5


def has_areas(maps: np.ndarray) -> bool:
    """Whether neighbours are mostly equal, as in a mask; in a photograph they seldom are.

    Pairs within the background, the most frequent value, say nothing and are left out.

    Args:
        maps: (n, h, w) or (n, h, w, channels), whole numbers.
    """
    some = maps[np.linspace(0, len(maps) - 1, min(_SAMPLED_MAPS, len(maps))).astype(int)]
    channels = some.reshape(*some.shape[:3], -1).astype(np.int64)
    # One number for each colour.
    codes = channels @ (1 << 16) ** np.arange(channels.shape[-1])
    colours, counts = np.unique(codes, return_counts=True)
    background = colours[counts.argmax()]
    left, right = codes[:, :, :-1], codes[:, :, 1:]
    telling = (left != background) | (right != background)
    return bool(telling.any() and (left == right)[telling].mean() >= _MIN_EQUAL_NEIGHBOURS)


def fits_image(labels: np.ndarray, inputs: Mapping[str, RowArray]) -> bool:
    """Whether there is a value, or a row of them, for each pixel of an input."""
    shapes = [(tuple(array.shape[1:]), array.dtype) for array in inputs.values()]
    return any(len(shape) >= 2 and labels.shape[1:3] == shape[:2] for shape, _ in shapes)


def needs_channel(labels: np.ndarray, inputs: Mapping[str, RowArray]) -> bool:
    """Whether they are (n, h, w) values for images, whose networks give (n, h, w, 1)."""
    images = [
        array for array in inputs.values() if array.ndim == 4 or (array.ndim == 3 and array.dtype == np.uint8)
    ]
    return labels.ndim == 3 and any(labels.shape[1:3] == tuple(array.shape[1:3]) for array in images)
