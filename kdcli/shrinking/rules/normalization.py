"""Normalization layers, PReLU and softmax: weights that follow the channels, and what couples them."""

from __future__ import annotations

from kdcli.shrinking.channels import Axes, Call
from kdcli.shrinking.slots import Vector


def normalize_batch(call: Call) -> list[Axes]:
    """BatchNormalization: statistics are per channel, so removing one leaves the others unchanged."""
    layer, axes = call.layer, call.input.axes
    vector = axes[layer.axis if isinstance(layer.axis, int) else layer.axis[0]]
    for variable in layer.weights:
        call.bind(variable, 0, vector, "follows")
    return [axes]


def normalize_layer(call: Call) -> list[Axes]:
    """LayerNormalization, RMSNormalization: statistics over the channels couple them."""
    layer, axes = call.layer, call.input.axes
    along = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    vectors = [axes[axis] for axis in along]
    for vector in vectors:
        _couple(call, vector)
    for variable in layer.weights:
        for axis, vector in enumerate(vectors):
            call.bind(variable, axis, vector, "follows")
    return [axes]


def _couple(call: Call, vector: Vector) -> None:
    """Fix channels that are normalized together, unless the caller frees them."""
    if not call.free_normalized:
        call.fix(vector, f"{call.name} normalizes it")


def normalize_groups(call: Call) -> list[Axes]:
    """GroupNormalization: whole groups can be removed, since each group has its own statistics."""
    layer, axes = call.layer, call.input.axes
    vector = axes[layer.axis]
    for axis, other in enumerate(axes):
        if axis != layer.axis % len(axes):
            call.fix(other, f"{call.name} normalizes over it")
    if vector is None:
        return [axes]
    groups = layer.groups if layer.groups > 0 else len(vector)
    members = vector.reshape(groups, -1)
    if groups == 1:
        _couple(call, vector)
    else:
        call.unite_rows(members)
        call.edit_count("groups", members[:, 0])
    for variable in layer.weights:
        call.bind(variable, 0, vector, "follows")
    return [axes]


def normalize_axes(call: Call) -> list[Axes]:
    """UnitNormalization, Softmax: the length or the sum over some axes couples them."""
    axes = call.input.axes
    along = [call.layer.axis] if isinstance(call.layer.axis, int) else list(call.layer.axis)
    for axis in along:
        _couple(call, axes[axis])
    return [axes]


def scale_input(call: Call) -> list[Axes]:
    """Normalization: it has statistics of the data, which belong to the inputs."""
    call.fix_inputs(f"{call.name} has statistics of it")
    return [call.input.axes]


def scale_layer(call: Call) -> list[Axes]:
    """LayerScale, as in ConvNeXt: one factor for each channel."""
    for variable in call.layer.weights:
        call.bind(variable, 0, call.input.axes[-1], "follows")
    return [call.input.axes]


def rectify(call: Call) -> list[Axes]:
    """PReLU: a slope for each element, or for each channel."""
    axes = call.input.axes
    slopes = call.layer.alpha
    for axis, vector in enumerate(axes[1:]):
        if slopes.shape[axis] > 1:
            call.bind(slopes, axis, vector, "follows")
    return [axes]


NORMALIZATION_LAYERS = {
    "BatchNormalization": normalize_batch,
    "GroupNormalization": normalize_groups,
    "LayerNormalization": normalize_layer,
    "LayerScale": scale_layer,
    "Normalization": scale_input,
    "PReLU": rectify,
    "RMSNormalization": normalize_layer,
    "Softmax": normalize_axes,
    "UnitNormalization": normalize_axes,
}
