"""The architecture of a network in words, derived from its operations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdcli.tensors import Tensor

_PRODUCTS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "XlaEinsum")
_LOOPS = ("While", "StatelessWhile", "CudnnRNN", "CudnnRNNV3")
# Each takes precedence over those after it, and over plain convolutions.
_NAMES = {"attention": _PRODUCTS, "depthwise convolutions": ("DepthwiseConv2dNative",), "recurrence": _LOOPS}


def describe_architecture(operations: Iterable[Any], inputs: Iterable[Tensor]) -> str:
    """Name the architecture: attention, depthwise or plain convolutions, recurrence, or dense layers.

    Attention is recognized by products, and a residual connection by a sum, of two tensors that both depend on
    the input.

    Args:
        operations: the operations of a graph, in an order in which they can be computed.
        inputs: its input tensors.
    """
    dependent = {tensor.ref() for tensor in inputs}
    found: set[str] = set()
    residual = False
    for operation in operations:
        operands = [tensor for tensor in operation.inputs if tensor.ref() in dependent]
        if not operands:
            continue
        dependent.update(tensor.ref() for tensor in operation.outputs)
        if operation.type in _PRODUCTS and len(operands) < 2:
            continue
        found.add(operation.type)
        if operation.type in ("Add", "AddV2") and len(operands) == 2:
            first, second = operands
            residual |= first.shape.rank == 4 and first.shape.as_list() == second.shape.as_list()
    for name, types in _NAMES.items():
        if found.intersection(types):
            return f"{name} with residual sums" if residual and "convolution" in name else name
    if found.intersection(("Conv2D", "Conv3D")):
        return "plain convolutions with residual sums" if residual else "plain convolutions"
    return "dense layers"
