"""Layers and operations that compute each element from those at the same position."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.shrinking.channels import Axes, Call, Traced
from kdcli.shrinking.slots import Vector

# Activations that mix the elements of an axis.
_MIXING = ("softmax", "log_softmax", "sparsemax", "glu")


def is_elementwise(activation: Any) -> bool:
    """Whether a function is an activation of Keras that computes each element by itself."""
    if activation is None or isinstance(activation, keras.Layer):
        return activation is None or type(activation).__name__ in ELEMENTWISE_LAYERS
    name = getattr(activation, "__name__", "")
    return getattr(keras.activations, name, None) is activation and name not in _MIXING


def apply_activation(call: Call, vector: Vector) -> Vector:
    """The slots after the layer's activation; one that is not elementwise fixes them."""
    activation = getattr(call.layer, "activation", None)
    if vector is None or is_elementwise(activation):
        return vector
    name = getattr(activation, "__name__", type(activation).__name__)
    if name in ("softmax", "log_softmax") and call.free_normalized:
        return vector
    call.fix(vector, f"{call.name} mixes it ({name})" if name in _MIXING else f"{call.name} uses {name}")
    # A gated unit halves the axis.
    return None if name == "glu" else vector


def pass_on(call: Call) -> list[Axes]:
    """One output like the first input."""
    return [call.input.axes]


def activate(call: Call) -> list[Axes]:
    """The layer Activation."""
    traced = call.input
    last = apply_activation(call, traced.axes[-1])
    if not is_elementwise(call.layer.activation):
        call.fix_other_axes(traced, len(traced.axes) - 1)
    return [(*traced.axes[:-1], last)]


def merge(call: Call) -> list[Axes]:
    """Unite the slots of all inputs position by position; axes of length 1 are broadcast."""
    return [_merge(call, [*call.inputs, *_find_arrays([call.args, call.kwargs])])]


def scale_constant(call: Call) -> list[Axes]:
    """Rescaling: its constants must be the same for all channels."""
    if any(np.ndim(value) for value in (call.layer.scale, call.layer.offset)):
        call.fix_inputs(f"{call.name} has a constant for each channel")
    return [call.input.axes]


def _find_arrays(value: Any) -> list[Traced]:
    """Constants among the arguments that are more than one number."""
    if isinstance(value, dict) and value.get("class_name") in ("__numpy__", "__tensor__"):
        shape = np.shape(value["config"]["value"])
        return [Traced(shape, (None,) * len(shape))]
    if isinstance(value, dict):
        return [one for item in value.values() for one in _find_arrays(item)]
    if isinstance(value, list | tuple) and not isinstance(value, Traced):
        return [one for item in value for one in _find_arrays(item)]
    return []


def _merge(call: Call, tensors: Sequence[Traced]) -> Axes:
    rank = max(len(traced.shape) for traced in tensors)
    return tuple(_merge_axis(call, tensors, axis) for axis in range(-rank, 0))


def _merge_axis(call: Call, tensors: Sequence[Traced], axis: int) -> Vector:
    """Merge one axis, counted from the end."""
    sides = [traced for traced in tensors if len(traced.shape) >= -axis]
    wide = [traced.axes[axis] for traced in sides if traced.shape[axis] != 1]
    return reduce(call.unite, wide) if wide else None


_SAME_LAYERS = (
    "ActivityRegularization AlphaDropout Dropout ELU GaussianDropout GaussianNoise Identity LeakyReLU ReLU "
    "SpatialDropout1D SpatialDropout2D SpatialDropout3D StochasticDepth"
)
_SAME_OPERATIONS = (
    "Abs Absolute Cast Ceil Celu Clip Copy Cos Cosh Elu Erf Exp Expm1 Exponential Floor Gelu HardSigmoid HardSilu "
    "HardTanh LeakyRelu Log Log1p LogSigmoid Mish Negative Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign "
    "Silu Sin SoftShrink Softplus Softsign Sqrt Square StopGradient Tan Tanh Threshold OnesLike ZerosLike"
)
_MERGED_OPERATIONS = "Add Divide Maximum Minimum Multiply Power Subtract TrueDivide"

ELEMENTWISE_LAYERS = {
    **dict.fromkeys(_SAME_LAYERS.split(), pass_on),
    **dict.fromkeys(("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"), merge),
    "Activation": activate,
    "Rescaling": scale_constant,
}
ELEMENTWISE_OPERATIONS = {
    **dict.fromkeys(_SAME_OPERATIONS.split(), pass_on),
    **dict.fromkeys(_MERGED_OPERATIONS.split(), merge),
}
