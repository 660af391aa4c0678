"""Preprocessing: turns raw examples into a network's input (channel axis, size, scale, type)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import ops
from kdcli.recipe.model_sections import InputSection
from kdcli.spec import Standardization
from kdcli.tensors import Shape, Tensor, Tensors

SCALES = ("unit", "signed", "raw", "imagenet", "caffe")
PixelScale = str | Standardization
# Channel statistics of ImageNet, in the channel order and units that the published weights expect.
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
CAFFE_MEAN = np.array((103.939, 116.779, 123.68), np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of one input of a network.

    Args:
        raw_shape: shape of a raw example.
        raw_dtype: type of a raw example; only `uint8` images are scaled.
        shape: shape of the network's input, without the batch axis; None for an axis of any size.
        dtype: type of the network's input.
        scale: one of `SCALES`, or a standardization in pixel values.
        size: (height, width) to resize to, or None to keep the size.
        fit: `stretch`, `crop` or `pad`; how an image with other proportions is resized.
    """

    raw_shape: tuple[int, ...]
    raw_dtype: str
    shape: Shape
    dtype: str
    scale: PixelScale = "unit"
    size: tuple[int, int] | None = None
    fit: str = "stretch"

    @property
    def is_image(self) -> bool:
        """Whether raw examples are images, which can be resized."""
        return _is_image(self.raw_shape, self.raw_dtype)

    @property
    def is_scaled(self) -> bool:
        """Whether the scale has an effect: on images of bytes."""
        return self.raw_dtype == "uint8" and self.is_image

    @property
    def preprocessed_shape(self) -> tuple[int, ...]:
        """Shape of one preprocessed example."""
        shape = self.raw_shape
        if len(shape) == 2 and len(self.shape) == 3:
            shape = (*shape, 1)
        elif len(shape) == 3 and len(self.shape) == 2 and shape[-1] == 1:
            shape = shape[:2]
        if self.size is not None and len(shape) in (2, 3):
            shape = (*self.size, *shape[2:])
        return tuple(shape)

    def with_scale(self, scale: PixelScale) -> Preprocessing:
        """A copy with another scale."""
        return replace(self, scale=scale)

    def __call__(self, raw: Tensor) -> Tensor:
        """Preprocess a batch (batch, *raw_shape)."""
        batch = ops.convert_to_tensor(raw)
        if len(self.raw_shape) == 2 and len(self.shape) == 3:
            batch = batch[..., None]
        elif len(self.raw_shape) == 3 and len(self.shape) == 2 and self.raw_shape[-1] == 1:
            batch = batch[..., 0]
        if self.size is not None:
            batch = self._resize(ops.cast(batch, "float32"))
        if self.is_scaled:
            batch = _scale(ops.cast(batch, "float32"), self.scale)
        return ops.cast(batch, self.dtype)

    def _resize(self, batch: Tensor) -> Tensor:
        flat = len(self.shape) == 2
        batch = batch[..., None] if flat else batch
        batch = ops.image.resize(
            batch,
            self.size,
            antialias=True,
            crop_to_aspect_ratio=self.fit == "crop",
            pad_to_aspect_ratio=self.fit == "pad",
            data_format="channels_last",
        )
        return batch[..., 0] if flat else batch

    def to_json(self) -> dict[str, Any]:
        """The preprocessing as plans and runs record it."""
        size = list(self.size) if self.size else None
        scale = scale_to_json(self.scale) if self.is_scaled else None
        return {
            "shape": list(self.preprocessed_shape),
            "dtype": self.dtype,
            "scale": scale,
            "resize": size,
            "fit": self.fit,
        }


def scale_to_json(scale: PixelScale) -> str | dict[str, Any]:
    """Convert a scale to the form that a recipe uses."""
    return scale if isinstance(scale, str) else scale.model_dump(mode="json")


def scale_from_json(value: Any) -> PixelScale | None:
    """Read a scale that `scale_to_json` wrote; None for anything else."""
    if isinstance(value, dict):
        try:
            return Standardization.model_validate(value)
        except ValueError:
            return None
    return value if value in SCALES else None


def _scale(batch: Tensor, scale: PixelScale) -> Tensor:
    if isinstance(scale, Standardization):
        mean, deviation = (np.array(values, np.float32) for values in (scale.mean, scale.deviation))
        return (batch - mean) / deviation
    if scale == "unit":
        return batch / 255.0
    if scale == "signed":
        return batch / 127.5 - 1.0
    if scale == "imagenet":
        return (batch / 255.0 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    if scale == "caffe":
        return batch[..., ::-1] - CAFFE_MEAN
    return batch


def _is_image(shape: tuple[int, ...], dtype: str) -> bool:
    """Three axes, or two axes of bytes; two axes of other numbers may be a series, which is not resized."""
    return len(shape) == 3 or (len(shape) == 2 and dtype == "uint8")


def make_preprocessing(
    section: InputSection,
    *,
    raw_shape: tuple[int, ...],
    raw_dtype: str,
    shape: Shape,
    dtype: str,
    name: str,
) -> Preprocessing:
    """Build the preprocessing that a recipe's `input` section specifies; `scale: auto` starts as `unit`.

    Args:
        section: the `input` section.
        raw_shape: shape of a raw example.
        raw_dtype: type of a raw example.
        shape: shape of the network's input, without the batch axis; None for an axis of any size.
        dtype: type of the network's input.
        name: what messages call the network.

    Raises:
        ModelError: the data cannot become this network's input.
    """
    size: tuple[int, int] | None = None
    if section.resize != "auto" and not _is_image(raw_shape, raw_dtype):
        raise ModelError(f"{name}: input.resize applies to images, but the data has shape {_text(raw_shape)}")
    if section.resize != "auto":
        size = section.resize
    elif _is_image(raw_shape, raw_dtype) and len(shape) in (2, 3):
        height, width = shape[:2]
        size = None if height is None or width is None else (height, width)
    if size == tuple(raw_shape[:2]):
        # Resizing to the size that the data already has would change pixels.
        size = None
    scale: PixelScale = "unit" if section.scale == "auto" else section.scale
    if isinstance(scale, Standardization):
        scale = scale.in_pixels
    preprocessing = Preprocessing(raw_shape, raw_dtype, shape, dtype, scale, size, section.fit)
    found = preprocessing.preprocessed_shape
    fits = len(found) == len(shape) and all(a in (None, b) for a, b in zip(shape, found, strict=True))
    if not fits:
        expected = tuple("any" if side is None else side for side in shape)
        raise ModelError(
            f"{name} takes inputs of shape {_text(expected)}, the data has {_text(raw_shape)}"
            + (f" (resized: {_text(found)})" if size else ""),
            hint=_shape_hint(found, expected),
        )
    channels = found[-1] if len(found) == 3 else 1
    needed = scale.channels if isinstance(scale, Standardization) else 3 if scale in ("imagenet", "caffe") else 1
    if needed not in (1, channels) and preprocessing.is_scaled:
        raise ModelError(f"{name}: input.scale {scale} needs {needed} channels, the data has {channels}")
    return preprocessing


def _shape_hint(found: tuple[str | int, ...], expected: tuple[str | int, ...]) -> str:
    if len(found) == len(expected) == 3 and {found[-1], expected[-1]} == {1, 3}:
        colour = "in colour" if expected[-1] == 3 else "in grey"
        return f"--set data.source.channels={expected[-1]} reads folders of images and TFRecord files {colour}"
    return "the channels must match; for flat inputs, put keras.layers.Flatten() in front of the model"


def _text(shape: tuple[str | int, ...]) -> str:
    return "×".join(str(side) for side in shape) or "()"


def preprocess(preprocessing: Mapping[str, Preprocessing], raw: Tensors) -> Any:
    """Preprocess the raw inputs of a network: one tensor, or a dictionary by name where there are several."""
    inputs = {name: one(raw[name]) for name, one in preprocessing.items()}
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs
