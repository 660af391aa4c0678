"""What a network is built of, in words: found in the operations that it computes with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_PRODUCTS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "XlaEinsum")
_LOOPS = ("While", "StatelessWhile", "CudnnRNN", "CudnnRNNV3")
# What stands before everything else that it is found with.
_NAMES = {"attention": _PRODUCTS, "depthwise convolutions": ("DepthwiseConv2dNative",), "recurrence": _LOOPS}


def describe_architecture(operations: Iterable[Any], inputs: Iterable[Any]) -> str:
    """Attention, depthwise or plain convolutions, recurrence or dense layers; with residual sums or without.

    Attention is a product, a residual connection a sum of two tensors of one shape that both come from the input.

    Args:
        operations: of a graph, each after those that it needs.
        inputs: its input tensors.
    """
    carried = {tensor.ref() for tensor in inputs}
    found: set[str] = set()
    residual = False
    for operation in operations:
        ours = [tensor for tensor in operation.inputs if tensor.ref() in carried]
        if not ours:
            continue
        carried.update(tensor.ref() for tensor in operation.outputs)
        if operation.type in _PRODUCTS and len(ours) < 2:
            continue
        found.add(operation.type)
        if operation.type in ("Add", "AddV2") and len(ours) == 2:
            first, second = ours
            residual |= first.shape.rank == 4 and first.shape.as_list() == second.shape.as_list()
    for name, types in _NAMES.items():
        if found.intersection(types):
            return f"{name} with residual sums" if residual and "convolution" in name else name
    if found.intersection(("Conv2D", "Conv3D")):
        return "plain convolutions with residual sums" if residual else "plain convolutions"
    return "dense layers"
