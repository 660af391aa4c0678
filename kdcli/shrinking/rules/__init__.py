"""How layers pass on the slots of channels: one rule for each class of layers and operations.

A rule takes a `Call`, records which axes of weights and which settings follow its slots, and returns the slots
along each axis of each output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdcli.lazy import keras
from kdcli.shrinking.channels import Axes, Call
from kdcli.shrinking.rules import (
    attention,
    convolution,
    dense,
    elementwise,
    normalization,
    recurrent,
    shapes,
)

Rule = Callable[[Call], list[Axes]]

_LAYERS: dict[str, Rule] = {
    **attention.ATTENTION_LAYERS,
    **convolution.CONVOLUTION_LAYERS,
    **dense.DENSE_LAYERS,
    **elementwise.ELEMENTWISE_LAYERS,
    **normalization.NORMALIZATION_LAYERS,
    **recurrent.RECURRENT_LAYERS,
    **shapes.SHAPE_LAYERS,
}
_OPERATIONS: dict[str, Rule] = {**elementwise.ELEMENTWISE_OPERATIONS, **shapes.SHAPE_OPERATIONS}


def find_rule(operation: Any) -> Rule | None:
    """The rule of a layer or an operation of Keras; None for any other class, and for quantized layers."""
    if type(operation).__module__.split(".")[0] != "keras":
        return None
    if not isinstance(operation, keras.Layer):
        return _OPERATIONS.get(type(operation).__name__)
    if getattr(operation, "quantization_mode", None) or getattr(operation, "lora_enabled", False):
        return None
    return _LAYERS.get(type(operation).__name__)
