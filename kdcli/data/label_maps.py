"""Label maps: one label per pixel; distinguish masks of classes from images of values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdcli.data.examples import RowArray
from kdcli.errors import DataError

# Number of maps that are examined.
_SAMPLED_MAPS = 32
# Fraction of equal neighbours from which on maps consist of areas.
_MIN_EQUAL_NEIGHBOURS = 0.5


def has_areas(maps: np.ndarray) -> bool:
    """Check whether neighbouring pixels are mostly equal, as in masks and unlike in photographs.

    Pairs of pixels within the background, which is the most frequent value, are not counted.

    Args:
        maps: (n, h, w) or (n, h, w, channels) integers.
    """
    sample = maps[np.linspace(0, len(maps) - 1, min(_SAMPLED_MAPS, len(maps))).astype(int)]
    channels = sample.reshape(*sample.shape[:3], -1).astype(np.int64)
    # One number for each colour.
    codes = channels @ (1 << 16) ** np.arange(channels.shape[-1])
    colours, counts = np.unique(codes, return_counts=True)
    background = colours[counts.argmax()]
    left, right = codes[:, :, :-1], codes[:, :, 1:]
    counted = (left != background) | (right != background)
    return bool(counted.any() and (left == right)[counted].mean() >= _MIN_EQUAL_NEIGHBOURS)


def fits_image(labels: np.ndarray, inputs: Mapping[str, RowArray]) -> bool:
    """Check whether labels have one value, or one row of values, for each pixel of an input."""
    shapes = [tuple(array.shape[1:]) for array in inputs.values()]
    return any(len(shape) >= 2 and labels.shape[1:3] == shape[:2] for shape in shapes)


def needs_channel(labels: np.ndarray, inputs: Mapping[str, RowArray]) -> bool:
    """Check for (n, h, w) values for images; networks output (n, h, w, 1)."""
    images = [
        array for array in inputs.values() if array.ndim == 4 or (array.ndim == 3 and array.dtype == np.uint8)
    ]
    return labels.ndim == 3 and any(labels.shape[1:3] == tuple(array.shape[1:3]) for array in images)


def remove_channel(labels: np.ndarray, where: str) -> np.ndarray:
    """Convert label maps (n, h, w) or (n, h, w, 1) to (n, h, w).

    Raises:
        DataError: another shape.
    """
    if labels.ndim == 4 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.ndim != 3:
        raise DataError(f"{where} has shape {labels.shape}; segmentation needs one class per pixel (n, h, w)")
    return labels


def check_map_channels(labels: np.ndarray, where: str, *, whole: bool) -> None:
    """Refuse maps with several channels that are classes rather than values.

    Args:
        labels: (n, h, w, channels).
        where: name of the labels in messages.
        whole: whether all labels are integers.

    Raises:
        DataError: several classes per pixel, or masks that store colours.
    """
    if np.isin(labels[:256], (0, 1)).all() and np.isin(labels, (0, 1)).all():
        raise DataError(
            f"{where} has {labels.shape[-1]} channels of 0 and 1 that are not one-hot; a pixel has one class",
            hint="use one channel as the map, or --set data.task=regression to learn them as values",
        )
    if whole and has_areas(labels):
        raise DataError(
            f"{where} has shape {labels.shape} and areas of equal colour; masks store a class number per pixel",
            hint="store class numbers instead of colours, or --set data.task=regression when these are images",
        )
