"""How large a model is, and how much work one answer is."""

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

HDF5, KERAS_WEIGHTS = b"\x89HDF\r\n\x1a\n", "model.weights.h5"
# The groups in which Keras 3 and Keras 2 keep what an optimizer remembers.
_OPTIMIZERS = ("optimizer", "optimizer_weights")
# Its variables in a checkpoint: of Keras 2, and the usual slots of TensorFlow 1.
_SLOT = re.compile(
    r"\.OPTIMIZER_SLOT/|^optimizer/|/(Adam|RMSProp|Momentum|Adagrad|Ftrl|Adadelta)(_\d+)?$|^beta\d_power"
)
BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "int8": 1}
# Operations whose work is not seen in the graph: loops, branches, calls, transforms, sparse products.
_HIDDEN = re.compile(
    r"(Stateless)?(While|If|Case)$|.*PartitionedCall$|.*FFT[23]?D?$|Sparse.*MatMul|Cudnn|Xla|.*PyFunc|Map|Scan"
)


def count_file_bytes(path: Path) -> int:
    """Bytes as shipped: of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def count_model_bytes(path: Path) -> int:
    """Bytes of a file without the state of an optimizer that a compiled model was saved with."""
    return count_file_bytes(path) - count_optimizer_bytes(path)


def count_optimizer_bytes(path: Path) -> int:
    """Bytes that the state of an optimizer takes in a `.keras` or `.h5` file or a SavedModel; 0 in others."""
    if path.is_dir():
        return _slot_bytes(path / "variables" / "variables")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if KERAS_WEIGHTS not in archive.namelist():
                return 0
            info = archive.getinfo(KERAS_WEIGHTS)
            with archive.open(info) as file:
                return round(_group_bytes(file) * info.compress_size / max(info.file_size, 1))
    with path.open("rb") as file:
        return _group_bytes(file) if file.read(len(HDF5)) == HDF5 else 0


def _group_bytes(file: IO[bytes]) -> int:
    """What an HDF5 file is smaller by when it is written without its optimizer's group."""
    import h5py

    file.seek(0)
    with h5py.File(file, "r") as weights:
        if not any(name in weights for name in _OPTIMIZERS):
            return 0
        copies = []
        for left_out in ((), _OPTIMIZERS):
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as copy:
                for name in weights:
                    if name not in left_out:
                        weights.copy(name, copy)
            copies.append(buffer.getbuffer().nbytes)
        return copies[0] - copies[1]


def _slot_bytes(checkpoint: Path) -> int:
    """The same of a checkpoint, as Keras 2 and TensorFlow 1 write them into SavedModels."""
    if not checkpoint.with_suffix(".index").is_file():
        return 0
    reader = tf.train.load_checkpoint(str(checkpoint))
    types = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return sum(types[name].size * math.prod(shape) for name, shape in shapes.items() if _SLOT.search(name))


def count_least_bytes(variables: Iterable[Any]) -> int:
    """Bytes that no exported file of these weights is smaller than: 1 for each number of a kernel, as int8 has it.

    Vectors are left out: what batch normalization learns is folded into kernels and biases.
    """
    floats = [variable for variable in variables if "float" in str(variable.dtype)]
    return sum(math.prod(variable.shape) for variable in floats if len(variable.shape) > 1)


def count_weight_bytes(parameters: int) -> dict[str, int]:
    """Bytes of the weights alone, in each width."""
    return {name: width * parameters for name, width in BYTES_PER_WEIGHT.items()}


def count_flops(network: Network) -> int | None:
    """Floating point operations of convolutions and matrix products for one example; a multiply-add is 2.

    Counted on the compiled graph, so that layers of any kind count by what they compute. Element-wise work,
    pooling and the preparation are left out.

    Returns:
        The count, or None where the graph hides its work (loops, calls) or leaves a size open, or holds nothing
        that counts.
    """
    return count_graph_flops(compile_network(network, batch=1))


def count_graph_flops(function: Any) -> int | None:
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
