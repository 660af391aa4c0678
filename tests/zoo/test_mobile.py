"""Depthwise separable blocks."""

from __future__ import annotations

import keras
import pytest

from kdcli.zoo import Mobile


def test_widths_and_strides_follow_the_paper():
    model = Mobile(width=2, blocks=8).build((32, 32, 3), 10)
    shapes = [model.get_layer(f"block{block}").output.shape[1:] for block in range(1, 9)]
    widths = [2 * factor for factor in (2, 4, 4, 8, 8, 16, 16, 16)]
    sides = [32, 16, 16, 8, 8, 4, 4, 2]
    assert shapes == [(side, side, width) for side, width in zip(sides, widths, strict=True)]
    assert model.get_layer("stem").output.shape[1:] == (32, 32, 2)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_block_is_a_depthwise_and_a_pointwise_convolution(blocks):
    model = Mobile(width=4, blocks=blocks).build((16, 16, 1), 10)
    depthwise = [layer for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert [layer.kernel.shape for layer in depthwise] == [(3, 3, c, 1) for c in (4, 8, 16)[:blocks]]
    pointwise = [layer for layer in model.layers if layer.name.endswith("_pointwise")]
    assert [layer.kernel.shape for layer in pointwise] == [(1, 1, 4, 8), (1, 1, 8, 16), (1, 1, 16, 16)][:blocks]


def test_it_is_smaller_than_a_network_of_full_convolutions():
    model = Mobile(width=16, blocks=5).build((32, 32, 3), 10)
    whole = sum(
        9 * layer.kernel.shape[2] * layer.kernel.shape[3]
        for layer in model.layers
        if layer.name.endswith("_pointwise")
    )
    assert model.count_params() * 5 < whole
