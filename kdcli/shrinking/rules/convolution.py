"""Convolutions: plain, grouped, transposed, depthwise and separable."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcli.shrinking.channels import Axes, Call
from kdcli.shrinking.rules.elementwise import apply_activation
from kdcli.shrinking.slots import Vector


def get_channel_axis(layer: Any, rank: int) -> int:
    """The axis of the channels of an image, a volume or a sequence."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def replace_channels(call: Call, vector: Vector) -> list[Axes]:
    """The output of a layer that changes the channels and keeps the rank; other axes are fixed."""
    traced = call.input
    axis = get_channel_axis(call.layer, len(traced.shape))
    call.fix_other_axes(traced, axis)
    axes: list[Vector] = [None] * len(traced.shape)
    axes[axis] = apply_activation(call, vector)
    return [tuple(axes)]


def _read_channels(call: Call) -> Vector:
    traced = call.input
    return traced.axes[get_channel_axis(call.layer, len(traced.shape))]


def convolve(call: Call) -> list[Axes]:
    """Conv1D, Conv2D, Conv3D: the kernel is (..., inputs / groups, filters)."""
    layer = call.layer
    if layer.groups > 1:
        return _convolve_groups(call)
    _bind_input(call, layer.kernel, -2)
    return _make_filters(call, layer.kernel, -1)


def _make_filters(call: Call, kernel: Any, axis: int) -> list[Axes]:
    """The output of a layer whose filters are an axis of a kernel."""
    vector = call.make(call.layer.filters)
    call.bind(kernel, axis, vector, "makes")
    _bind_bias(call, vector)
    call.edit_count("filters", vector)
    return replace_channels(call, vector)


def _bind_bias(call: Call, vector: Vector) -> None:
    call.bind(call.layer.bias if call.layer.use_bias else None, 0, vector, "follows")


def _bind_input(call: Call, kernel: Any, axis: int) -> None:
    vector = _read_channels(call)
    if get_channel_axis(call.layer, len(call.input.shape)) == len(call.input.shape) - 1:
        call.read(call.layer, kernel, axis, vector)
    else:
        call.bind(kernel, axis, vector, "reads")


def _convolve_groups(call: Call) -> list[Axes]:
    """Whole groups are removed: the channels that a group reads together with those that it makes."""
    layer, groups = call.layer, call.layer.groups
    vector, read = call.make(layer.filters), _read_channels(call)
    if vector is None or read is None:
        call.fix(read, f"{call.name} combines it with channels that stay")
        call.fix(vector, f"{call.name} is grouped and reads channels that stay")
        return replace_channels(call, vector)
    made, seen = vector.reshape(groups, -1), read.reshape(groups, -1)
    call.unite_rows(made)
    call.unite_rows(seen)
    call.unite(made[:, 0], seen[:, 0])
    call.edit_count("groups", made[:, 0])
    return _make_filters(call, layer.kernel, -1)


def convolve_transposed(call: Call) -> list[Axes]:
    """Conv1DTranspose to Conv3DTranspose: the kernel is (..., filters, inputs)."""
    _bind_input(call, call.layer.kernel, -1)
    return _make_filters(call, call.layer.kernel, -2)


def _repeat(vector: Vector, times: int) -> Vector:
    return None if vector is None else np.repeat(vector, times)


def convolve_depthwise(call: Call) -> list[Axes]:
    """DepthwiseConv1D, DepthwiseConv2D: the kernel is (..., inputs, multiplier)."""
    layer, read = call.layer, _read_channels(call)
    call.bind(layer.kernel, -2, read, "follows")
    vector = _repeat(read, layer.depth_multiplier)
    _bind_bias(call, vector)
    return replace_channels(call, vector)


def convolve_separable(call: Call) -> list[Axes]:
    """SeparableConv1D, SeparableConv2D: depthwise, then pointwise (..., inputs * multiplier, filters)."""
    layer, read = call.layer, _read_channels(call)
    call.bind(layer.depthwise_kernel, -2, read, "follows")
    inner = _repeat(read, layer.depth_multiplier)
    if layer.depth_multiplier == 1:
        _bind_input(call, layer.pointwise_kernel, -2)
    else:
        call.bind(layer.pointwise_kernel, -2, inner, "reads")
    return _make_filters(call, layer.pointwise_kernel, -1)


CONVOLUTION_LAYERS = {
    **{f"Conv{rank}D": convolve for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": convolve_transposed for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": convolve_depthwise for rank in (1, 2)},
    **{f"SeparableConv{rank}D": convolve_separable for rank in (1, 2)},
}
