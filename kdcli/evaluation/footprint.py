"""How large a model is, and how much work one answer is."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from kdcli.evaluation.compiling import compiled
from kdcli.models.network import Network

WIDTHS = {"float32": 4, "float16": 2, "int8": 1}
# Operations whose work is not seen in the graph: loops, branches, calls, transforms, sparse products.
_HIDDEN = re.compile(
    r"(Stateless)?(While|If|Case)$|.*PartitionedCall$|.*FFT[23]?D?$|Sparse.*MatMul|Cudnn|Xla|.*PyFunc|Map|Scan"
)


def file_bytes(path: Path) -> int:
    """Bytes as shipped: of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def weight_bytes(parameters: int) -> dict[str, int]:
    """Bytes of the weights alone, in each width."""
    return {name: width * parameters for name, width in WIDTHS.items()}


def flops(network: Network) -> int | None:
    """Floating point operations of convolutions and matrix products for one example; a multiply-add is 2.

    Counted on the compiled graph, so that layers of any kind count by what they compute. Element-wise work,
    pooling and the preparation are left out.

    Returns:
        The count, or None where the graph hides its work (loops, calls) or leaves a size open, or holds nothing
        that counts.
    """
    return flops_in(compiled(network, batch=1))


def flops_in(function: Any) -> int | None:
    """The same of a compiled function that takes one example."""
    total = 0
    for operation in function.graph.get_operations():
        if _HIDDEN.match(operation.type):
            return None
        if operation.type in _PRODUCTS:
            try:
                total += 2 * _PRODUCTS[operation.type](operation)
            except _Unknown:
                return None
    return total or None


class _Unknown(Exception):
    """A size that the graph leaves open."""


def _shape(tensor: Any) -> list[int]:
    if tensor.shape.rank is None or None in tensor.shape.as_list():
        raise _Unknown
    return [int(side) for side in tensor.shape.as_list()]


def _convolution(operation: Any) -> int:
    # The kernel (..., inputs, outputs) is applied once for each output element; groups are in its `inputs`.
    kernel = _shape(operation.inputs[1])
    return math.prod(_shape(operation.outputs[0])) * math.prod(kernel[:-1])


def _depthwise(operation: Any) -> int:
    height, width, *_ = _shape(operation.inputs[1])
    return math.prod(_shape(operation.outputs[0])) * height * width


def _transposed(operation: Any) -> int:
    # The kernel (..., outputs, inputs) is spread once for each input element.
    kernel = _shape(operation.inputs[1])
    return math.prod(_shape(operation.inputs[2])) * math.prod(kernel[:-1])


def _matrices(operation: Any) -> int:
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    inner = _shape(operation.inputs[0])[-2 if transposed else -1]
    return math.prod(_shape(operation.outputs[0])) * inner


def _einsum(operation: Any) -> int:
    if len(operation.inputs) == 1:
        return 0
    sizes: dict[str, int] = {}
    equation = operation.get_attr("equation").decode()
    for labels, tensor in zip(equation.split("->")[0].split(","), operation.inputs, strict=True):
        before, dots, after = labels.partition("...")
        shape = _shape(tensor)
        rest = len(shape) - len(before) - len(after)
        # What the dots stand for is aligned at its end, as in broadcasting.
        names = [*before, *(f"...{number}" for number in range(rest if dots else 0, 0, -1)), *after]
        for name, side in zip(names, shape, strict=True):
            sizes[name] = max(side, sizes.get(name, 1))
    return math.prod(sizes.values())


_PRODUCTS = {
    "Conv": _convolution,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
    "MatMul": _matrices,
    "BatchMatMul": _matrices,
    "BatchMatMulV2": _matrices,
    "BatchMatMulV3": _matrices,
    "Einsum": _einsum,
}
