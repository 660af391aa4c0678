"""The size of a model in bytes, and its floating point operations for one example."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from kdcli.evaluation.latency.subjects import compile_network
from kdcli.lazy import tf
from kdcli.models.network import Network

_HDF5_SIGNATURE, _KERAS_WEIGHTS = b"\x89HDF\r\n\x1a\n", "model.weights.h5"
# The groups in which Keras 3 and Keras 2 store the state of an optimizer.
_OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")
# Optimizer variables in a checkpoint: those of Keras 2, and the usual slots of TensorFlow 1.
_OPTIMIZER_VARIABLE = re.compile(
    r"\.OPTIMIZER_SLOT/|^optimizer/|/(Adam|RMSProp|Momentum|Adagrad|Ftrl|Adadelta)(_\d+)?$|^beta\d_power"
)
BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "int8": 1}
# Operations whose work the graph does not show: loops, branches, calls, transforms, sparse products.
_UNCOUNTABLE = re.compile(
    r"(Stateless)?(While|If|Case)$|.*PartitionedCall$|.*FFT[23]?D?$|Sparse.*MatMul|Cudnn|Xla|.*PyFunc|Map|Scan"
)


def count_file_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def count_model_bytes(path: Path) -> int:
    """Bytes of a model file, without the optimizer state that a compiled model was saved with."""
    return count_file_bytes(path) - count_optimizer_bytes(path)


def count_optimizer_bytes(path: Path) -> int:
    """Bytes of the optimizer state in a `.keras` or `.h5` file or a SavedModel; 0 for other formats."""
    if path.is_dir():
        return _count_checkpoint_bytes(path / "variables" / "variables")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if _KERAS_WEIGHTS not in archive.namelist():
                return 0
            info = archive.getinfo(_KERAS_WEIGHTS)
            with archive.open(info) as file:
                return round(_count_group_bytes(file) * info.compress_size / max(info.file_size, 1))
    with path.open("rb") as file:
        return _count_group_bytes(file) if file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE else 0


def _count_group_bytes(file: IO[bytes]) -> int:
    """By how many bytes an HDF5 file shrinks if it is written without the optimizer's group."""
    import h5py

    file.seek(0)
    with h5py.File(file, "r") as weights:
        if not any(name in weights for name in _OPTIMIZER_GROUPS):
            return 0
        copies = []
        for left_out in ((), _OPTIMIZER_GROUPS):
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as copy:
                for name in weights:
                    if name not in left_out:
                        weights.copy(name, copy)
            copies.append(buffer.getbuffer().nbytes)
        return copies[0] - copies[1]


def _count_checkpoint_bytes(checkpoint: Path) -> int:
    """Bytes of the optimizer variables in a checkpoint, as Keras 2 and TensorFlow 1 write them to SavedModels."""
    if not checkpoint.with_suffix(".index").is_file():
        return 0
    reader = tf.train.load_checkpoint(str(checkpoint))
    types = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return sum(
        types[name].size * math.prod(shape) for name, shape in shapes.items() if _OPTIMIZER_VARIABLE.search(name)
    )


def count_least_bytes(variables: Iterable[Any]) -> int:
    """A lower bound for the bytes of an exported file: 1 byte for each number of a kernel, as in int8.

    Vectors are not counted, because batch normalization is folded into kernels and biases.
    """
    floats = [variable for variable in variables if "float" in str(variable.dtype)]
    return sum(math.prod(variable.shape) for variable in floats if len(variable.shape) > 1)


def count_weight_bytes(parameters: int) -> dict[str, int]:
    """Bytes of the weights alone, by data type."""
    return {name: width * parameters for name, width in BYTES_PER_WEIGHT.items()}


def count_flops(network: Network) -> int | None:
    """Floating point operations of convolutions and matrix products for one example; a multiply-add is 2.

    They are counted in the compiled graph, so that layers of any kind are counted by what they compute.
    Element-wise operations, pooling and the preprocessing are not counted.

    Returns:
        The count; None if the graph hides its work (loops, calls), has an unknown size, or has no such operations.
    """
    return count_graph_flops(compile_network(network, batch=1))


def count_graph_flops(function: Any) -> int | None:
    """`count_flops` for a compiled function that takes one example."""
    total = 0
    for operation in function.graph.get_operations():
        if _UNCOUNTABLE.match(operation.type):
            return None
        if operation.type in _PRODUCTS:
            try:
                total += 2 * _PRODUCTS[operation.type](operation)
            except _UnknownSize:
                return None
    return total or None


class _UnknownSize(Exception):
    """The graph does not define a size."""


def _get_shape(tensor: Any) -> list[int]:
    if tensor.shape.rank is None or None in tensor.shape.as_list():
        raise _UnknownSize
    return [int(side) for side in tensor.shape.as_list()]


def _count_convolution(operation: Any) -> int:
    # The kernel (..., inputs, outputs) is applied once for each output element; `inputs` is per group.
    kernel = _get_shape(operation.inputs[1])
    return math.prod(_get_shape(operation.outputs[0])) * math.prod(kernel[:-1])


def _count_depthwise(operation: Any) -> int:
    height, width, *_ = _get_shape(operation.inputs[1])
    return math.prod(_get_shape(operation.outputs[0])) * height * width


def _count_transposed(operation: Any) -> int:
    # The kernel (..., outputs, inputs) is applied once for each input element.
    kernel = _get_shape(operation.inputs[1])
    return math.prod(_get_shape(operation.inputs[2])) * math.prod(kernel[:-1])


def _count_matrices(operation: Any) -> int:
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    inner = _get_shape(operation.inputs[0])[-2 if transposed else -1]
    return math.prod(_get_shape(operation.outputs[0])) * inner


def _count_einsum(operation: Any) -> int:
    if len(operation.inputs) == 1:
        return 0
    sizes: dict[str, int] = {}
    equation = operation.get_attr("equation").decode()
    for labels, tensor in zip(equation.split("->")[0].split(","), operation.inputs, strict=True):
        before, dots, after = labels.partition("...")
        shape = _get_shape(tensor)
        rest = len(shape) - len(before) - len(after)
        # The axes of the ellipsis are aligned at the end, as in broadcasting.
        names = [*before, *(f"...{number}" for number in range(rest if dots else 0, 0, -1)), *after]
        for name, side in zip(names, shape, strict=True):
            sizes[name] = max(side, sizes.get(name, 1))
    return math.prod(sizes.values())


_PRODUCTS = {
    "Conv": _count_convolution,
    "Conv2D": _count_convolution,
    "Conv3D": _count_convolution,
    "DepthwiseConv2dNative": _count_depthwise,
    "Conv2DBackpropInput": _count_transposed,
    "Conv3DBackpropInputV2": _count_transposed,
    "MatMul": _count_matrices,
    "BatchMatMul": _count_matrices,
    "BatchMatMulV2": _count_matrices,
    "BatchMatMulV3": _count_matrices,
    "Einsum": _count_einsum,
}
