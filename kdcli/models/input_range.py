"""The range of pixel values at the first layer with weights, derived from the graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from kdcli.models.network import Network
from kdcli.models.preprocessing import PixelScale
from kdcli.tensors import Tensor

# Operations that return sizes: a shape computed from an image does not carry its values.
_SIZES = ("Shape", "ShapeN", "Size", "Rank")
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")


def find_first_weighted_input(
    operations: Iterable[Any], inputs: Iterable[Tensor], *, weights: Collection[str] = ()
) -> Tensor | None:
    """Find the tensor that enters the first operation with weights.

    Args:
        operations: the operations of a TensorFlow graph, in an order in which they can be computed.
        inputs: the tensors that carry the data.
        weights: names of operations that are weights; variables are recognized without.

    Returns:
        The tensor: one of `inputs` where nothing precedes the weights. None where no operation has weights.
    """
    data = {tensor.name for tensor in inputs}
    weight_tensors: set[str] = set()
    for operation in operations:
        if operation.type in _SIZES:
            continue
        operands = list(operation.inputs)
        first = next((tensor for tensor in operands if tensor.name in data), None)
        weighted = any(tensor.name in weight_tensors for tensor in operands)
        if first is not None and weighted:
            return first
        if first is not None:
            data.update(tensor.name for tensor in operation.outputs)
        elif weighted or _is_weight(operation, weights):
            weight_tensors.update(tensor.name for tensor in operation.outputs)
    return None


def _is_weight(operation: Any, weights: Collection[str]) -> bool:
    captured = operation.type == "Placeholder" and operation.outputs[0].dtype.name == "resource"
    return captured or operation.type in _VARIABLES or operation.name in weights


def measure_input_range(
    network: Network, scale: PixelScale, raw: dict[str, np.ndarray]
) -> tuple[float, float] | None:
    """Measure the smallest and largest pixel value at the first layer with weights.

    Args:
        network: a network with preprocessing.
        scale: the pixel scale to try.
        raw: input name → a black image and a white image, in this order.

    Returns:
        The two values, or None where the network cannot tell.
    """
    found = network.with_scale(scale).compute_before_weights(raw)
    if found is None or found.ndim < 2 or len(found) != 2 or not found.size:
        return None
    values = found.astype(np.float64)
    # Values that are equal for both images are not pixels, but padding in front of the layer, for example.
    pixels = values[:, np.abs(values[1] - values[0]) > 1e-9]
    return (float(pixels.min()), float(pixels.max())) if pixels.size else None
