"""The residual networks for small images, against the paper's table."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from kdcli.zoo import Resnet

# He et al. 2015, table 6: layers → millions of parameters, for shortcuts without parameters (option A).
TABLE = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85}
# Two 1×1 convolutions, 16 → 32 and 32 → 64, each with scale and offset of its BatchNorm.
SHORTCUTS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def trained_parameters(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize("depth", TABLE)
def test_the_number_of_parameters_equals_that_of_the_paper(depth):
    model = Resnet(depth=depth).build((32, 32, 3), 10)
    assert SHORTCUTS == 2752
    assert round((trained_parameters(model) - SHORTCUTS) / 1e6, 2) == TABLE[depth]
    assert abs(trained_parameters(model) / 1e6 - TABLE[depth]) < 0.01


@pytest.mark.parametrize("depth", [8, 20])
def test_the_depth_counts_the_layers_with_weights(depth):
    model = Resnet(depth=depth, width=2).build((32, 32, 3), 10)
    names = [layer.name for layer in model.layers if layer.name.endswith(("_convolution", "logits"))]
    assert len([name for name in names if "shortcut" not in name]) == depth
    assert [name for name in names if "shortcut" in name] == [
        f"{first}_shortcut_convolution"
        for first in (("stage2", "stage3") if depth == 8 else ("stage2_block1", "stage3_block1"))
    ]


def test_each_stage_halves_the_image_and_doubles_the_width():
    model = Resnet(depth=8, width=4).build((32, 32, 3), 10)
    shapes = [model.get_layer(f"stage{stage}").output.shape for stage in (1, 2, 3)]
    assert shapes == [(None, 32, 32, 4), (None, 16, 16, 8), (None, 8, 8, 16)]


def test_a_block_adds_its_input():
    model = Resnet(depth=8, width=2).build((4, 4, 2), 2)
    summed = model.get_layer("stage1_sum")
    inner, shortcut = summed.input
    assert shortcut is model.get_layer("stem").output
    assert inner is model.get_layer("stage1_second_normalization").output
    assert model.get_layer("stage1").input is summed.output


@pytest.mark.parametrize(
    ("depth", "words"),
    [(18, "must be 6n+2 (8, 14, 20, ... 56), got 18"), (2, "greater than"), (62, "less than"), (20.0, "integer")],
)
def test_another_depth_is_refused(depth, words):
    with pytest.raises(ValidationError) as caught:
        Resnet(depth=depth)
    assert words in str(caught.value)


def test_an_invalid_depth_in_a_recipe_lists_the_valid_ones(kd, tmp_path):
    (tmp_path / "r.yaml").write_text("student: {model: {kind: zoo, name: resnet, depth: 18}}\n")
    ran = kd("recipes", "check", "r.yaml")
    assert ran.code == 2
    assert "student.model.depth: must be 6n+2 (8, 14, 20, ... 56), got 18" in ran.err
