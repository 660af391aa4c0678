"""Weights as an 8-bit file holds them: 8-bit kernels with a scale per channel, 32-bit biases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras, ops
from kdcli.models.keras.layers import wrap_calls
from kdcli.quantization.folded_model import WEIGHTED
from kdcli.quantization.placement import Fixed, RangePlacement
from kdcli.tensors import KerasModel, Tensor

# The largest level of 8-bit activations, counted from 0, and that of kernels, whose levels are symmetric.
LARGEST, _LARGEST_OF_KERNEL = 255, 127
SMALLEST = 1e-6


def round_kernels(model: KerasModel, placement: RangePlacement) -> dict[str, np.ndarray]:
    """The rounded kernels of a folded model, by name of the layer.

    A file gets them as constants: the converter rounds them to the same values, and it supports no rounding
    operation in front of the transposed kernel of a Dense layer.
    """
    layers = _list_rounded(model, placement)
    return {layer.name: ops.convert_to_numpy(round_kernel(layer, layer.kernel)[0]) for layer in layers}


def _list_rounded(model: KerasModel, placement: RangePlacement) -> list[Any]:
    return [one for one in model.layers if type(one).__name__ in WEIGHTED and one.name not in placement.floats]


@contextmanager
def replace_weights(
    model: KerasModel,
    placement: RangePlacement,
    find_scale: Callable[[int | Fixed], Tensor],
    kernels: Mapping[str, np.ndarray] | None,
) -> Iterator[None]:
    """Let the layers of a folded model compute with rounded weights, during the block.

    Args:
        model: from `fold_model`.
        placement: of its ranges.
        find_scale: from a range to the step between two of its levels.
        kernels: from `round_kernels`, for a file, whose converter rounds the biases; None rounds all weights.
    """
    layers = _list_rounded(model, placement)

    def wrap(number: int, original: Any) -> Any:
        layer = layers[number]

        def call(*args: Any, **kwargs: Any) -> Any:
            if kernels is not None:
                replaced = [(layer.kernel, ops.convert_to_tensor(kernels[layer.name]))]
            else:
                replaced = _round_weights(layer, find_scale(placement.sources[layer.name]))
            with keras.StatelessScope(state_mapping=replaced):
                return original(*args, **kwargs)

        return call

    with wrap_calls(layers, wrap):
        yield


def _round_weights(layer: Any, scale: Tensor) -> list[tuple[Any, Tensor]]:
    """Each weight of a layer with its rounded value; `scale` is the step of its input."""
    kernel, bound = round_kernel(layer, layer.kernel)
    if not layer.use_bias:
        return [(layer.kernel, kernel)]
    step = ops.stop_gradient(scale * bound / _LARGEST_OF_KERNEL)
    bias = round_straight_through(ops.convert_to_tensor(layer.bias) / step) * step
    return [(layer.kernel, kernel), (layer.bias, bias)]


def round_kernel(layer: Any, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """A kernel rounded to 8 bits, symmetric and in a narrow range, for each output channel; the gradient passes.

    Jacob et al. 2018, arXiv:1712.05877; per channel as in Krishnamoorthi 2018, arXiv:1806.08342.

    Returns:
        The kernel, and its largest absolute value for each channel, (channels,).
    """
    value, shape = ops.convert_to_tensor(kernel), tuple(kernel.shape)
    if type(layer).__name__ == "DepthwiseConv2D":
        value = ops.reshape(value, (*shape[:2], shape[2] * shape[3]))
    axis = WEIGHTED[type(layer).__name__] % len(value.shape)
    others = [one for one in range(len(value.shape)) if one != axis]
    bound = ops.stop_gradient(ops.maximum(ops.max(ops.abs(value), axis=others), SMALLEST))
    rounded = keras.quantizers.fake_quant_with_min_max_vars(value, -bound, bound, narrow_range=True, axis=axis)
    return ops.reshape(rounded, shape), bound


def round_straight_through(value: Tensor) -> Tensor:
    """Round to the nearest whole number; the gradient passes."""
    return value + ops.stop_gradient(ops.floor(value + 0.5) - value)
