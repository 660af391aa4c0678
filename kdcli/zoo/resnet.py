"""A residual network for small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from kdcli.lazy import keras
from kdcli.spec import ModelSource
from kdcli.tensors import KerasModel, Tensor
from kdcli.zoo.image_shape import check_image_shape


def _six_n_plus_two(depth: int) -> int:
    if depth % 6 != 2:
        raise ValueError(f"must be 6n+2 (8, 14, 20, ... 56), got {depth}")
    return depth


class Resnet(ModelSource):
    """A residual network for small images: a 3×3 convolution, then three stages of blocks.

    He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 4.2: a block is two 3×3 convolutions, each with
    BatchNorm; ReLU follows the addition. The second and third stage halve the image and double the width.
    Where a block changes the shape, its shortcut is a 1×1 convolution with BatchNorm (the paper's option B);
    elsewhere it is the identity. (The paper's networks for CIFAR-10 pad with zeros, option A, which saves 2,752
    parameters at width 16.) Taps: `stage1` .. `stage3` after the last ReLU of each stage, and
    `stage1_block1`, ... after the others.

    Args:
        depth: number of layers with weights: 6n + 2 from 8 to 56, with n blocks in each stage.
        width: number of channels of the first stage.
    """

    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"depth": 8, "width": 8},
        {"depth": 20, "width": 8},
        {"depth": 8, "width": 16},
        {"depth": 20, "width": 16},
        {"depth": 56, "width": 16},
    )

    kind: Literal["zoo"] = "zoo"
    name: Literal["resnet"] = "resnet"
    depth: Annotated[int, Field(ge=8, le=56), AfterValidator(_six_n_plus_two)] = 20
    width: Annotated[int, Field(ge=1, le=1024)] = 16

    def build(self, input_shape: tuple[int, ...], classes: int) -> KerasModel:
        """Build a fresh `keras.Model` for images (h, w, channels) with `classes` logits."""
        check_image_shape("zoo resnet", input_shape)
        inputs = keras.Input(input_shape, name="image")
        x = keras.layers.ReLU(name="stem")(_add_convolution(inputs, self.width, name="stem"))
        blocks = (self.depth - 2) // 6
        for stage in (1, 2, 3):
            for block in range(1, blocks + 1):
                name = f"stage{stage}" if block == blocks else f"stage{stage}_block{block}"
                strides = 2 if stage > 1 and block == 1 else 1
                x = _add_block(x, self.width * 2 ** (stage - 1), strides=strides, name=name)
        x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
        return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(x), name=f"resnet{self.depth}")


def _add_block(x: Tensor, filters: int, *, strides: int, name: str) -> Tensor:
    layers, shortcut = keras.layers, x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = _add_convolution(x, filters, size=1, strides=strides, name=f"{name}_shortcut")
    inner = layers.ReLU(name=f"{name}_inner")(_add_convolution(x, filters, strides=strides, name=f"{name}_first"))
    added = layers.Add(name=f"{name}_sum")([_add_convolution(inner, filters, name=f"{name}_second"), shortcut])
    return layers.ReLU(name=name)(added)


def _add_convolution(x: Tensor, filters: int, *, name: str, size: int = 3, strides: int = 1) -> Tensor:
    x = keras.layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_convolution",
    )(x)
    # With Keras' default of 0.99, moving averages need many hundred steps to match the training statistics.
    return keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_normalization")(x)
