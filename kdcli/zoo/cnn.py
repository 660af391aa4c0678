"""A plain convolutional network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.lazy import keras
from kdcli.spec import Fraction, ModelSource
from kdcli.tensors import KerasModel
from kdcli.zoo.image_shape import check_image_shape


class Cnn(ModelSource):
    """Blocks of 3×3 convolution, BatchNorm and ReLU; each halves the image and doubles the width.

    A dense layer computes the logits from the average of the last feature map. Taps: `block1`, `block2`, ... after
    each block.

    Args:
        width: number of channels of the first block.
        blocks: number of blocks; a side shorter than 4 pixels is not halved further.
        convolutions: number of convolutions in each block.
        dropout: fraction of features dropped before the last layer.
    """

    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"width": 4},
        {"width": 8},
        {"width": 16},
        {"width": 32},
        {"width": 64},
    )

    kind: Literal["zoo"] = "zoo"
    name: Literal["cnn"] = "cnn"
    width: Annotated[int, Field(ge=1, le=4096)] = 16
    blocks: Annotated[int, Field(ge=1, le=8)] = 3
    convolutions: Annotated[int, Field(ge=1, le=8)] = 1
    dropout: Annotated[Fraction, Field(lt=1)] = 0.0

    def build(self, input_shape: tuple[int, ...], classes: int) -> KerasModel:
        """Build a fresh `keras.Model` for images (h, w, channels) with `classes` logits."""
        check_image_shape("zoo cnn", input_shape)
        layers = keras.layers
        inputs = x = keras.Input(input_shape, name="image")
        for block in range(1, self.blocks + 1):
            if block > 1 and min(x.shape[1], x.shape[2]) >= 4:
                x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
            for step in range(1, self.convolutions + 1):
                last = step == self.convolutions
                tag = f"block{block}" if last else f"block{block}_{step}"
                filters = self.width * 2 ** (block - 1)
                x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{tag}_convolution")(x)
                # With Keras' 0.99, moving averages need many hundred steps to match training statistics.
                x = layers.BatchNormalization(momentum=0.9, name=f"{tag}_normalization")(x)
                x = layers.ReLU(name=tag)(x)
        x = layers.GlobalAveragePooling2D(name="pooling")(x)
        if self.dropout:
            x = layers.Dropout(self.dropout, name="dropout")(x)
        return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="cnn")
