"""Label maps: masks of classes against images of values."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.label_maps import has_areas

RANDOM = np.random.default_rng(0)


def test_masks_have_areas():
    blocks = RANDOM.integers(0, 150, (8, 4, 4)).repeat(6, axis=1).repeat(6, axis=2)
    assert has_areas(blocks)
    assert has_areas(np.stack([blocks, blocks + 1, blocks], axis=-1))


@pytest.mark.parametrize("shape", [(8, 24, 24), (8, 24, 24, 1), (8, 24, 24, 3)])
def test_photographs_have_no_areas(shape):
    assert not has_areas(RANDOM.integers(0, 256, shape))


def test_background_is_not_counted_as_area():
    strokes = np.zeros((8, 24, 24), np.uint8)
    strokes[:, 8:12, 8:12] = RANDOM.integers(1, 256, (8, 4, 4))
    assert not has_areas(strokes)
