"""Layers and operations that move, repeat, join or reduce axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from kdcli.models.keras.graph import count_elements
from kdcli.shrinking.channels import Axes, Call, CountKept, Traced, join_vectors
from kdcli.shrinking.rules.convolution import get_channel_axis
from kdcli.shrinking.slots import Vector


def resample(call: Call) -> list[Axes]:
    """Pooling, padding, cropping, upsampling: the channels stay as they are, other axes change."""
    traced = call.input
    axis = get_channel_axis(call.layer, len(traced.shape))
    call.fix_other_axes(traced, axis)
    return [tuple(vector if number == axis else None for number, vector in enumerate(traced.axes))]


def pool_globally(call: Call) -> list[Axes]:
    """Global pooling: one number for each channel."""
    traced = call.input
    axis = get_channel_axis(call.layer, len(traced.shape))
    call.fix_other_axes(traced, axis)
    vector = traced.axes[axis]
    if not call.layer.keepdims:
        return [(None, vector)]
    return [tuple(vector if number == axis else None for number in range(len(traced.shape)))]


def flatten_axes(call: Call) -> list[Axes]:
    """Flatten: the slots of the channels repeat for each position."""
    traced = call.input
    if getattr(call.layer, "data_format", None) == "channels_first" and len(traced.shape) > 2:
        call.give_up("flattens channels that come first")
        return []
    return [(None, *_reshape(call, traced, (count_elements(traced.shape[1:]),)))]


def reshape(call: Call) -> list[Axes]:
    """The layer Reshape; its target follows what stays."""
    traced, target = call.input, list(call.layer.target_shape)
    size = count_elements(traced.shape[1:])
    # One side may be left open.
    rest = None if size is None else size // math.prod(side for side in target if side != -1)
    axes = _reshape(call, traced, [rest if side == -1 else side for side in target])

    def compute(count: CountKept) -> list[int]:
        return [side if side == -1 or one is None else count(one) for side, one in zip(target, axes, strict=True)]

    call.edit("target_shape", compute)
    return [(None, *axes)]


def reshape_operation(call: Call) -> list[Axes]:
    """The operation Reshape, whose target has the batch axis too."""
    traced, target = call.input, list(call.layer.newshape)
    sides = [side for side in target[1:] if side not in (-1, None)]
    size = count_elements(traced.shape[1:])
    if target[0] not in (-1, None) or len(sides) < len(target) - 1 or size != math.prod(sides):
        call.give_up("reshapes the batch or an unknown side")
        return []
    axes = _reshape(call, traced, target[1:])

    def compute(count: CountKept) -> list[int | None]:
        kept = (side if one is None else count(one) for side, one in zip(target[1:], axes, strict=True))
        return [target[0], *kept]

    call.edit("newshape", compute)
    return [(None, *axes)]


def _reshape(call: Call, traced: Traced, target: Sequence[int | None]) -> Axes:
    """Reshape the slots of a tensor, without its batch axis; slots that the target would split are fixed."""
    shape, axes = traced.shape[1:], traced.axes[1:]
    if all(vector is None for vector in axes):
        return (None,) * len(target)
    parts = _match_sides(shape, target)
    if parts is None:
        call.fix_inputs(f"{call.name} reshapes it in an unsupported way")
        return (None,) * len(target)
    found: list[Vector] = [None] * len(target)
    for before, after in parts:
        slotted = [axis for axis in before if axes[axis] is not None]
        if not slotted:
            continue
        vector, sides = axes[slotted[0]], [shape[axis] for axis in before]
        assert vector is not None
        moved = _move_slots(sides, slotted[0] - before[0], vector, target, after)
        if len(slotted) > 1 or moved is None:
            for axis in slotted:
                call.fix(axes[axis], f"{call.name} splits or mixes it")
        else:
            found[moved[0]] = moved[1]
    return tuple(found)


def _match_sides(shape: Sequence[int | None], target: Sequence[int | None]) -> list[tuple[range, range]] | None:
    """The shortest runs of axes that hold the same elements before and after; None if there are none."""
    before, after = _count_up(shape), _count_up(target)
    parts: list[tuple[range, range]] = []
    first, other = 0, 0
    for axis, size in enumerate(before):
        if size in after[other:]:
            end = after.index(size, other) + 1
            parts.append((range(first, axis + 1), range(other, end)))
            first, other = axis + 1, end
    if {*shape[first:], *target[other:]} - {1} or not parts:
        return None
    # Axes of length 1 at the end belong to the last run.
    parts[-1] = range(parts[-1][0].start, len(shape)), range(parts[-1][1].start, len(target))
    return parts


def _count_up(shape: Sequence[int | None]) -> list[tuple[int, int]]:
    """For each axis, the product of the sides up to it and how many of them are unknown."""
    sizes, product, unknown = [], 1, 0
    for side in shape:
        product, unknown = product * (side or 1), unknown + (side is None)
        sizes.append((product, unknown))
    return sizes


def _move_slots(
    sides: Sequence[int | None], position: int, vector: np.ndarray, target: Sequence[int | None], after: range
) -> tuple[int, np.ndarray] | None:
    """The axis of the target along which the slots vary, and the slots along it; None if there are several."""
    known, wanted = [side for side in sides if side is not None], [target[axis] for axis in after]
    if len(known) < len(sides) or None in wanted:
        return (after[0], vector) if len(after) == 1 else None
    spread = np.reshape(vector, [-1 if axis == position else 1 for axis in range(len(sides))])
    laid = np.broadcast_to(spread, known).reshape([side for side in wanted if side is not None])
    for number, axis in enumerate(after):
        first = laid[tuple(slice(None) if other == number else slice(0, 1) for other in range(len(after)))]
        if np.array_equal(np.broadcast_to(first, laid.shape), laid):
            return axis, first.reshape(-1)
    return None


def permute(call: Call) -> list[Axes]:
    """The layer Permute, whose axes count from 1."""
    axes = call.input.axes
    return [(axes[0], *(axes[axis] for axis in call.layer.dims))]


def repeat_vector(call: Call) -> list[Axes]:
    """RepeatVector: a new axis in front of the channels."""
    return [(None, None, call.input.axes[-1])]


def concatenate(call: Call) -> list[Axes]:
    """Join the slots along the axis; those along other axes are united."""
    tensors = call.inputs
    axis = getattr(call.layer, "axis", -1) % len(tensors[0].shape)
    joined: list[Vector] = []
    for number in range(len(tensors[0].shape)):
        vectors = [traced.axes[number] for traced in tensors]
        if number == axis:
            if None in [traced.shape[number] for traced in tensors]:
                for vector in vectors:
                    call.fix(vector, f"{call.name} joins it with an axis of unknown size")
                joined.append(None)
            else:
                pairs = zip(vectors, (traced.shape[number] or 0 for traced in tensors), strict=True)
                joined.append(join_vectors(list(pairs)))
            continue
        joined.append(reduce(call.unite, vectors))
    return [tuple(joined)]


def reduce_axes(call: Call) -> list[Axes]:
    """Mean, sum and extremes over axes; slots along a reduced axis are fixed."""
    traced, operation = call.input, call.layer
    given = operation.axis
    rank = len(traced.shape)
    reduced = range(rank) if given is None else [given] if isinstance(given, int) else given
    along = {axis % rank for axis in reduced}
    for axis in along:
        call.fix(traced.axes[axis], f"{call.name} reduces it")
    if operation.keepdims:
        return [tuple(None if axis in along else vector for axis, vector in enumerate(traced.axes))]
    return [tuple(vector for axis, vector in enumerate(traced.axes) if axis not in along)]


def transpose(call: Call) -> list[Axes]:
    """The operation Transpose."""
    axes = call.input.axes
    order = call.layer.axes
    return [tuple(axes[axis] for axis in (order if order is not None else reversed(range(len(axes)))))]


def expand(call: Call) -> list[Axes]:
    """The operation ExpandDims."""
    axes = list(call.input.axes)
    given = call.layer.axis
    if not isinstance(given, int):
        call.give_up("adds several axes")
        return []
    axes.insert(given % (len(axes) + 1), None)
    return [tuple(axes)]


def squeeze(call: Call) -> list[Axes]:
    """The operation Squeeze."""
    traced, given = call.input, call.layer.axis
    rank = len(traced.shape)
    along = [given] if isinstance(given, int) else given
    if along is None:
        # Without an axis, a single channel that stays would lose its axis.
        call.fix_inputs(f"{call.name} removes every axis of length 1")
        removed = {axis for axis in range(rank) if traced.shape[axis] == 1}
    else:
        removed = {axis % rank for axis in along}
    return [tuple(vector for axis, vector in enumerate(traced.axes) if axis not in removed)]


_RESAMPLED = (
    "Cropping1D Cropping2D Cropping3D Resizing UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D "
    "ZeroPadding3D"
)
_POOLED = [f"{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)]


SHAPE_LAYERS = {
    **dict.fromkeys(_RESAMPLED.split(), resample),
    **dict.fromkeys(_POOLED, resample),
    **{f"Global{name}": pool_globally for name in _POOLED},
    "Concatenate": concatenate,
    "Flatten": flatten_axes,
    "Permute": permute,
    "RepeatVector": repeat_vector,
    "Reshape": reshape,
}
SHAPE_OPERATIONS = {
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), reduce_axes),
    "Concatenate": concatenate,
    "ExpandDims": expand,
    "Reshape": reshape_operation,
    "Squeeze": squeeze,
    "Transpose": transpose,
}
