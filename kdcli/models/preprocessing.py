"""How a raw example becomes a network's input: channel axis, size, scale, type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import ops
from kdcli.spec import Standardization

SCALES = ("unit", "signed", "raw", "imagenet", "caffe")
PixelScale = str | Standardization
# Channel statistics of ImageNet, in the order and units in which the published weights expect them.
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
IMAGENET_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)
CAFFE_MEAN = np.array((103.939, 116.779, 123.68), np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """One network's preparation of one input.

    Args:
        raw_shape: shape of a stored example.
        raw_dtype: its type; only `uint8` pictures are scaled.
        shape: the network's input shape, None where it takes any size.
        dtype: the network's input type.
        scale: one of `SCALES`, or a standardization in pixel values.
        size: (height, width) to resize to, or None to leave the size.
        fit: `stretch`, `crop` or `pad`.
    """

    raw_shape: tuple[int, ...]
    raw_dtype: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: PixelScale = "unit"
    size: tuple[int, int] | None = None
    fit: str = "stretch"

    @property
    def is_image(self) -> bool:
        """Whether the input is a picture, which has a size and can be resized."""
        return _is_picture(self.raw_shape, self.raw_dtype)

    @property
    def is_scaled(self) -> bool:
        """Whether the scale has any effect here."""
        return self.raw_dtype == "uint8" and self.is_image

    @property
    def preprocessed_shape(self) -> tuple[int, ...]:
        """The shape of one prepared example."""
        shape = self.raw_shape
        if len(shape) == 2 and len(self.shape) == 3:
            shape = (*shape, 1)
        elif len(shape) == 3 and len(self.shape) == 2 and shape[-1] == 1:
            shape = shape[:2]
        if self.size is not None and len(shape) in (2, 3):
            shape = (*self.size, *shape[2:])
        return tuple(shape)

    def with_scale(self, scale: PixelScale) -> Preprocessing:
        """The same with another scale."""
        return replace(self, scale=scale)

    def __call__(self, raw: Any) -> Any:
        """Prepare a batch (batch, *raw_shape) of raw values."""
        batch = ops.convert_to_tensor(raw)
        if len(self.raw_shape) == 2 and len(self.shape) == 3:
            batch = batch[..., None]
        elif len(self.raw_shape) == 3 and len(self.shape) == 2 and self.raw_shape[-1] == 1:
            batch = batch[..., 0]
        if self.size is not None:
            batch = self._resized(ops.cast(batch, "float32"))
        if self.is_scaled:
            batch = _scaled(ops.cast(batch, "float32"), self.scale)
        return ops.cast(batch, self.dtype)

    def _resized(self, batch: Any) -> Any:
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
        """What the plan and the run record."""
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
    """The scale as a recipe writes it."""
    return scale if isinstance(scale, str) else scale.model_dump(mode="json")


def scale_from_json(given: Any) -> PixelScale | None:
    """The scale that `scale_to_json` wrote; None for anything else."""
    if isinstance(given, dict):
        try:
            return Standardization.model_validate(given)
        except ValueError:
            return None
    return given if given in SCALES else None


def _scaled(batch: Any, scale: PixelScale) -> Any:
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


def _is_picture(shape: tuple[int, ...], dtype: str) -> bool:
    """Three axes, or two of bytes: two axes of other numbers may be a series, which no one resizes."""
    return len(shape) == 3 or (len(shape) == 2 and dtype == "uint8")


def make_preprocessing(
    section: Any,
    *,
    raw_shape: tuple[int, ...],
    raw_dtype: str,
    shape: tuple[int | None, ...],
    dtype: str,
    name: str,
) -> Preprocessing:
    """The preparation that a recipe's `input` section asks for; `scale: auto` starts as `unit`.

    Raises:
        ModelError: the data cannot become this network's input.
    """
    size = None
    if section.resize != "auto" and not _is_picture(raw_shape, raw_dtype):
        raise ModelError(f"{name}: input.resize is for pictures, the data has shape {_text(raw_shape)}")
    if section.resize != "auto":
        # The size that the data has already is no resizing: pixels stay as they are.
        size = tuple(section.resize) if tuple(section.resize) != tuple(raw_shape[:2]) else None
    elif _is_picture(raw_shape, raw_dtype) and len(shape) in (2, 3) and None not in shape[:2]:
        size = shape[:2] if tuple(raw_shape[:2]) != tuple(shape[:2]) else None
    scale: PixelScale = "unit" if section.scale == "auto" else section.scale
    if isinstance(scale, Standardization):
        scale = scale.in_pixels
    prepared = Preprocessing(raw_shape, raw_dtype, shape, dtype, scale, size, section.fit)
    given = prepared.preprocessed_shape
    fits = len(given) == len(shape) and all(w in (None, g) for g, w in zip(given, shape, strict=True))
    if not fits:
        wanted = tuple("any" if side is None else side for side in shape)
        raise ModelError(
            f"{name} takes inputs of shape {_text(wanted)}, the data has {_text(raw_shape)}"
            + (f" (resized: {_text(given)})" if size else ""),
            hint=_way_to_fit(given, wanted),
        )
    channels = given[-1] if len(given) == 3 else 1
    needed = scale.channels if isinstance(scale, Standardization) else 3 if scale in ("imagenet", "caffe") else 1
    if needed not in (1, channels) and prepared.is_scaled:
        raise ModelError(f"{name}: input.scale {scale} needs {needed} channels, the data has {channels}")
    return prepared


def _way_to_fit(given: tuple[str | int, ...], wanted: tuple[str | int, ...]) -> str:
    if len(given) == len(wanted) == 3 and {given[-1], wanted[-1]} == {1, 3}:
        colour = "in colour" if wanted[-1] == 3 else "in grey"
        return f"--set data.source.channels={wanted[-1]} reads folders of images and TFRecord files {colour}"
    return "channels must fit; for flat inputs put keras.layers.Flatten() in front of the model"


def _text(shape: tuple[str | int, ...]) -> str:
    return "×".join(str(side) for side in shape) or "()"


def preprocess(preparations: Mapping[str, Preprocessing], raw: Mapping[str, Any]) -> Any:
    """The network's input from the raw inputs: a tensor, or a mapping where there are several."""
    prepared = {name: preparation(raw[name]) for name, preparation in preparations.items()}
    return next(iter(prepared.values())) if len(prepared) == 1 else prepared
