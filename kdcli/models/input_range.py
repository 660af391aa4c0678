"""What becomes of images on their way to the first layer with weights, read off the graph and not off names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from kdcli.models.network import Network
from kdcli.models.preprocessing import PixelScale

# What tells sizes, not values: a shape that is computed from an image is no image.
_SIZES = ("Shape", "ShapeN", "Size", "Rank")
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")


def find_first_weighted_input(
    operations: Iterable[Any], inputs: Iterable[Any], *, weights: Collection[str] = ()
) -> Any | None:
    """The tensor that the first operation with weights takes.

    Args:
        operations: of a TensorFlow graph, each after those that it needs.
        inputs: the tensors that carry the data.
        weights: names of operations that are weights; variables are known as such.

    Returns:
        A tensor, one of `inputs` where nothing stands before the weights; None where no operation has any.
    """
    data = {tensor.name for tensor in inputs}
    learned: set[str] = set()
    for operation in operations:
        if operation.type in _SIZES:
            continue
        taken = list(operation.inputs)
        first = next((tensor for tensor in taken if tensor.name in data), None)
        weighted = any(tensor.name in learned for tensor in taken)
        if first is not None and weighted:
            return first
        if first is not None:
            data.update(tensor.name for tensor in operation.outputs)
        elif weighted or _is_weight(operation, weights):
            learned.update(tensor.name for tensor in operation.outputs)
    return None


def _is_weight(operation: Any, weights: Collection[str]) -> bool:
    captured = operation.type == "Placeholder" and operation.outputs[0].dtype.name == "resource"
    return captured or operation.type in _VARIABLES or operation.name in weights


def measure_input_range(
    network: Network, scale: PixelScale, raw: dict[str, np.ndarray]
) -> tuple[float, float] | None:
    """The least and the largest value that reach the first layer with weights.

    Args:
        network: with its preprocessing.
        scale: under which the images go in.
        raw: a black image and a white one, in this order, by input name.

    Returns:
        A pair, or None where the network does not tell.
    """
    reached = network.with_scale(scale).compute_before_weights(raw)
    if reached is None or reached.ndim < 2 or len(reached) != 2 or not reached.size:
        return None
    values = reached.astype(np.float64)
    # What is the same for both images is no pixel: padding in front of the layer, say.
    pixels = values[:, np.abs(values[1] - values[0]) > 1e-9]
    return (float(pixels.min()), float(pixels.max())) if pixels.size else None
