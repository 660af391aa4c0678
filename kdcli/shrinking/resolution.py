"""A model for smaller images: the same layers and weights behind a smaller input."""

from __future__ import annotations

import copy
from typing import Any

from kdcli.errors import ModelError
from kdcli.models.keras.layers import iterate_layers
from kdcli.shrinking.rebuild import build_like, finalize_layers
from kdcli.tensors import KerasModel, Shape

# Images have at most this many channels; a longer last axis means another layout.
_MAX_CHANNELS = 4
# A side is rounded to a multiple of it, so that strides divide it as they divided the old one.
_MULTIPLE = 8


def scale_side(side: int, fraction: float) -> int:
    """The length of a side that is scaled by a fraction, rounded to a multiple of 8 if it was one."""
    step = _MULTIPLE if side % _MULTIPLE == 0 else 1
    return max(step, round(side * fraction / step) * step)


def resize_input(model: KerasModel, fraction: float) -> KerasModel:
    """Build the model for images whose sides are a fraction of the present ones.

    Args:
        model: functional or sequential, with one image (height, width, channels) of a fixed size as its input.
        fraction: of the sides, in (0, 1]; 1 returns the model itself.

    Raises:
        ModelError: another input, or a layer whose weights depend on the size of the image.
    """
    if fraction == 1:
        return model
    shape: Shape = () if isinstance(model.input_shape, list | dict) else model.input_shape
    if len(shape) != 4 or None in shape[1:] or (shape[-1] or 0) > _MAX_CHANNELS:
        raise ModelError(f"{model.name}: the input must be one image of fixed size (height, width, channels)")
    before = tuple(side or 0 for side in shape[1:3])
    after = tuple(scale_side(side, fraction) for side in before)
    if after == before:
        raise ModelError(
            f"{model.name}: images of {before[0]}×{before[1]} are too small to be resized by {fraction:g}"
        )
    config = copy.deepcopy(model.get_config())
    _resize_inputs(config, before, after)
    resized = build_like(model, config)
    layers = dict(iterate_layers(model))
    for path, layer in iterate_layers(resized):
        values = layers[path].get_weights()
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            raise ModelError(f"{model.name}: the weights of {'/'.join(path)} depend on the size of the image")
        layer.set_weights(values)
    finalize_layers(resized)
    return resized


def _resize_inputs(config: Any, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Replace the size in every input layer of a configuration, nested models included."""
    for entry in config.get("layers", ()):
        inner = entry["config"]
        if entry["class_name"] == "InputLayer" and tuple(inner["batch_shape"][1:3]) == before:
            inner["batch_shape"] = [inner["batch_shape"][0], *after, *inner["batch_shape"][3:]]
        elif isinstance(inner, dict):
            _resize_inputs(inner, before, after)
