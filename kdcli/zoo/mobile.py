"""A network of depthwise separable convolutions for small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.lazy import keras
from kdcli.spec import ModelSource
from kdcli.tensors import KerasModel, Tensor
from kdcli.zoo.image_shape import check_image_shape


class Mobile(ModelSource):
    """Depthwise separable blocks: good accuracy for few multiplications.

    Howard et al. 2017, arXiv:1704.04861: a block is a 3×3 depthwise convolution, then a 1×1 convolution over all
    channels, each with BatchNorm and ReLU. As in the paper, the first block doubles the width, and every second
    block halves the image and doubles the width, up to 16 times `width`. Unlike in the paper, the first
    convolution keeps the size, because the images are small. Taps: `stem`, `block1`, `block2`, ... after the
    last ReLU of each block.

    Args:
        width: number of channels of the first convolution.
        blocks: number of blocks; a side shorter than 4 pixels is not halved further.
    """

    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"width": 4}, {"width": 8}, {"width": 16}, {"width": 32})

    kind: Literal["zoo"] = "zoo"
    name: Literal["mobile"] = "mobile"
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    blocks: Annotated[int, Field(ge=1, le=13)] = 5

    def build(self, input_shape: tuple[int, ...], classes: int) -> KerasModel:
        """Build a fresh `keras.Model` for images (h, w, channels) with `classes` logits."""
        check_image_shape("zoo mobile", input_shape)
        layers = keras.layers
        inputs = keras.Input(input_shape, name="image")
        x = layers.Conv2D(self.width, 3, padding="same", use_bias=False, name="stem_convolution")(inputs)
        x = _add_activation(x, normalization="stem_normalization", name="stem")
        for block in range(1, self.blocks + 1):
            name, filters = f"block{block}", self.width * 2 ** min(1 + block // 2, 4)
            strides = 2 if block % 2 == 0 and min(x.shape[1], x.shape[2]) >= 4 else 1
            x = layers.DepthwiseConv2D(
                3, strides=strides, padding="same", use_bias=False, name=f"{name}_depthwise"
            )(x)
            x = _add_activation(x, normalization=f"{name}_depthwise_normalization", name=f"{name}_depthwise_relu")
            x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
            x = _add_activation(x, normalization=f"{name}_pointwise_normalization", name=name)
        x = layers.GlobalAveragePooling2D(name="pooling")(x)
        return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="mobile")


def _add_activation(x: Tensor, *, normalization: str, name: str) -> Tensor:
    # With Keras' default of 0.99, moving averages need many hundred steps to match the training statistics.
    x = keras.layers.BatchNormalization(momentum=0.9, name=normalization)(x)
    return keras.layers.ReLU(name=name)(x)
