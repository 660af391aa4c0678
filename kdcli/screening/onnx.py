"""Screening of `.onnx` files: the protobuf is parsed without external data, and the rules for the model in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.screening.verdict import COPY_HINT, MAX_FINDINGS, Finding, Verdict, quote

# The limit of protobuf.
_MAX_BYTES = 2**31
# After all functions are inlined.
_MAX_NODES = 1_000_000
_MAX_TENSOR_BYTES = 500_000_000
# Numbers above this are not told apart.
_HUGE = 2**62
_STANDARD_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml"))
# Operations of onnxruntime that quantizers and graph optimizers write. The domain is not allowed as a whole: some
# of its operations run Python or read files (PythonOp, EPContext).
_RUNTIME_DOMAIN = "com.microsoft"
_RUNTIME_OPERATIONS = frozenset(
    """
    Attention BiasAdd BiasGelu BiasSoftmax BiasSplitGelu CropAndResize
    DecoderMaskedMultiHeadAttention DequantizeLinear
    DynamicQuantizeLSTM DynamicQuantizeMatMul EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm
    FusedMatMul FusedMatMulActivation GatherBlockQuantized Gelu GemmFastGelu GridSample
    GroupNorm GroupQueryAttention Inverse LongformerAttention MatMulBnb4 MatMulFpQ4 MatMulInteger16
    MatMulIntegerToFloat MatMulNBits MaxpoolWithMask MoE MultiHeadAttention NhwcConv NhwcFusedConv NhwcMaxPool
    PackedAttention PackedMultiHeadAttention QAttention QEmbedLayerNormalization QGemm QLinearAdd
    QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
    QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QuantizeLinear QuickGelu
    RelativePositionBias RemovePadding RestorePadding RotaryEmbedding SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization SparseAttention TransposeMatMul Trilu Unique
    """.split()
)
# Bits per value by type number, and the fields of a tensor that store values one by one.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128}
_BITS |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
_VALUE_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_HALF, _DOUBLE, _STRING, _INT64, _COMPLEX = 10, 11, 8, 7, (14, 15)
_FLOATS = {1: np.float32, _HALF: np.float16, _DOUBLE: np.float64}
# The input that holds the shape of an operation's output; None where an attribute holds it.
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "RandomNormal": None, "RandomUniform": None}
_FunctionName = tuple[str, str]


def screen_onnx(path: Path) -> Verdict:
    """Screen an `.onnx` file.

    Refuses data in other files, custom operations, functions that call themselves or expand to too many nodes,
    tensors that the file cannot fill or that are too large for memory, and weights that are NaN. Without the
    package `onnx` nothing is checked, and nothing can open such a file either.

    Args:
        path: a private copy of the file.
    """
    size = path.stat().st_size
    if size >= _MAX_BYTES:
        return Verdict((Finding("size", f"the file has {size:,} bytes; an ONNX file is smaller than 2 GiB"),))
    if find_spec("onnx") is None:
        return Verdict()
    import onnx

    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    # The parser's own error has no public name.
    except Exception:
        return Verdict((Finding("damaged", "not an ONNX model, or a damaged one", hint=COPY_HINT),))
    return Verdict(tuple(islice(_check_model(model), MAX_FINDINGS)))


def _check_model(model: Any) -> Iterator[Finding]:
    functions = {(function.domain, function.name): _all_nodes(function.node) for function in model.functions}
    main = _all_nodes(model.graph.node)
    nodes = [*main, *(node for function in model.functions for node in _all_nodes(function.node))]
    for node in nodes:
        yield from _check_operation(node, functions)
    yield from _check_expansion(main, functions)
    yield from _check_graph(model.graph)
    for node in nodes:
        for attribute in node.attribute:
            for graph in _graphs(attribute):
                yield from _check_graph(graph)
    for node in nodes:
        for attribute in node.attribute:
            yield from _check_tensors((*_singular(attribute, "t"), *attribute.tensors))
            yield from _check_sparse((*_singular(attribute, "sparse_tensor"), *attribute.sparse_tensors))


def _singular(attribute: Any, field: str) -> tuple[Any, ...]:
    return (getattr(attribute, field),) if attribute.HasField(field) else ()


def _graphs(attribute: Any) -> tuple[Any, ...]:
    return (*_singular(attribute, "g"), *attribute.graphs)


def _all_nodes(nodes: Iterable[Any]) -> list[Any]:
    """All nodes, including those of graphs inside nodes; the parser limits the nesting."""
    found, waiting = [], list(nodes)
    while waiting:
        node = waiting.pop()
        found.append(node)
        graphs = (graph for attribute in node.attribute for graph in _graphs(attribute))
        waiting.extend(inner for graph in graphs for inner in graph.node)
    return found


def _check_operation(node: Any, functions: Mapping[_FunctionName, list[Any]]) -> Iterator[Finding]:
    if node.domain in _STANDARD_DOMAINS or (node.domain, node.op_type) in functions:
        return
    if node.domain != _RUNTIME_DOMAIN or node.op_type not in _RUNTIME_OPERATIONS:
        yield Finding("operation", f"the custom operation {quote(f'{node.domain}.{node.op_type}')} is not allowed")


def _check_expansion(main: list[Any], functions: Mapping[_FunctionName, list[Any]]) -> Iterator[Finding]:
    """Refuse functions that call themselves, or that expand to too many nodes once they are inlined."""
    called = {name: {(node.domain, node.op_type) for node in nodes} for name, nodes in functions.items()}
    calls = {name: names & functions.keys() for name, names in called.items()}
    sizes: dict[_FunctionName, int] = {}

    def expand(nodes: list[Any]) -> int:
        return min(_HUGE, sum(1 + sizes.get((node.domain, node.op_type), 0) for node in nodes))

    try:
        for name in TopologicalSorter(calls).static_order():
            sizes[name] = expand(functions[name])
    except CycleError as error:
        yield Finding("recursion", f"the function {min(error.args[1])[1]!r} calls itself"[:200])
        return
    total = expand(main)
    if total > _MAX_NODES:
        yield Finding("size", f"the graph expands to {total:.3g} operations (at most {_MAX_NODES:,})")


def _check_graph(graph: Any) -> Iterator[Finding]:
    """Check the stored tensors of one graph and the tensors that it declares or creates."""
    yield from _check_tensors(graph.initializer)
    yield from _check_sparse(graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        sides = [side.dim_value or 1 for side in kind.shape.dim]
        if prod(sides) * _BITS.get(kind.elem_type, 8) // 8 > _MAX_TENSOR_BYTES:
            yield _too_large(f"the tensor {value.name!r} has the shape {_join(sides)}")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            constants |= {output: attribute.t for output in node.output[:1] if attribute.HasField("t")}
    for node in graph.node:
        if node.op_type in _SHAPE_INPUTS:
            sides = _output_shape(node, constants)
            # Most types have values of four bytes.
            if prod(max(side, 1) for side in sides) * 4 > _MAX_TENSOR_BYTES:
                yield _too_large(f"{node.op_type} creates a tensor of shape {_join(sides)}")


def _output_shape(node: Any, constants: Mapping[str, Any]) -> list[int]:
    """The shape that a node creates, as far as it is a constant; empty otherwise."""
    place = _SHAPE_INPUTS[node.op_type]
    if place is None:
        return [side for attribute in node.attribute if attribute.name == "shape" for side in attribute.ints]
    tensor = constants.get(node.input[place]) if len(node.input) > place else None
    return [] if tensor is None else _integers(tensor)


def _too_large(message: str) -> Finding:
    return Finding("size", f"{message[:200]}, too large for memory")


def _check_tensors(tensors: Iterable[Any]) -> Iterator[Finding]:
    for tensor in tensors:
        if tensor.data_location == 1 or len(tensor.external_data):
            file = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            yield Finding("external-data", f"the tensor {tensor.name!r} is stored in the file {file!r}"[:200])
            continue
        declared, stored = _measure_tensor(tensor)
        if any(side < 0 for side in tensor.dims) or declared != stored:
            message = f"the tensor {tensor.name!r} of shape {_join(tensor.dims)} holds {stored:,} values or bytes"
            yield Finding("damaged", f"{message}, its shape needs {declared:,}"[:300], hint=COPY_HINT)
        elif tensor.data_type in _FLOATS and np.isnan(_floats(tensor)).any():
            yield Finding("weights", f"the tensor {tensor.name!r} contains NaN"[:200])


def _measure_tensor(tensor: Any) -> tuple[int, int]:
    """How much data the shape of a tensor needs and how much it has: bytes if it is raw, otherwise values."""
    values, bits = max(-_HUGE, min(prod(tensor.dims), _HUGE)), _BITS.get(tensor.data_type, 0)
    if stored := len(tensor.raw_data):
        return (values * bits + 7) // 8, stored
    stored = max(len(getattr(tensor, field)) for field in _VALUE_FIELDS)
    if tensor.data_type == _STRING:
        return values, stored
    # Complex values take two entries; small values share one.
    return 2 * values if tensor.data_type in _COMPLEX else (values * min(bits, 8) + 7) // 8, stored


def _check_sparse(tensors: Iterable[Any]) -> Iterator[Finding]:
    for sparse in tensors:
        yield from _check_tensors((sparse.values, sparse.indices))
        if prod(max(side, 1) for side in sparse.dims) * 4 > _MAX_TENSOR_BYTES:
            yield _too_large(f"the sparse tensor {sparse.values.name!r} has the shape {_join(sparse.dims)}")


def _floats(tensor: Any) -> np.ndarray:
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data, _FLOATS[tensor.data_type])
    if tensor.data_type == _HALF:
        # Half precision is stored as the bits of integers.
        return np.array(tensor.int32_data, np.int64).astype(np.uint16).view(np.float16)
    return np.array(tensor.double_data if tensor.data_type == _DOUBLE else tensor.float_data)


def _integers(tensor: Any) -> list[int]:
    if tensor.data_type != _INT64 or prod(tensor.dims) > 16:
        return []
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 8 * 8], np.int64).tolist()
    return list(tensor.int64_data)


def _join(shape: Iterable[int]) -> str:
    return "×".join(str(side) for side in shape) or "()"
