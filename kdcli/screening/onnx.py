"""Screening of `.onnx` files: the protobuf is parsed without external data, and nothing of it is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.screening.verdict import COPY_HINT, Finding, Verdict

# A protobuf cannot be larger.
_MAX_BYTES = 2**31
# After every function is put in where it is called.
MOST_NODES = 1_000_000
# What one operation may be told to make out of nothing.
_MAX_TENSOR_BYTES = 500_000_000
STANDARD = frozenset(("", "ai.onnx", "ai.onnx.ml"))
# onnxruntime's own operations as quantisers and optimisers of graphs write them. The domain also holds some that
# run Python or read files (PythonOp, EPContext), so it is not let in as a whole.
_OWN = "com.microsoft"
_OWN_OPERATIONS = frozenset(
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
# Bits of a value by the number of its type, and the field of a tensor that holds such values one by one.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128}
_BITS |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_FLOATS = {1: np.float32, 10: np.float16, 11: np.float64}
# Which input of an operation says how much it makes.
_MAKING = {"ConstantOfShape": 0, "Expand": 1, "RandomNormal": None, "RandomUniform": None}


def screen_onnx(path: Path) -> Verdict:
    """What an `.onnx` file could do.

    Refused are data in other files, operations of other libraries, functions that call each other without end or
    grow beyond measure, tensors that the file cannot fill or no memory can hold, and weights that are NaN. Without
    the package `onnx` nothing is found out; nor does anything open such a file then.

    Args:
        path: of a private copy.
    """
    size = path.stat().st_size
    if size >= _MAX_BYTES:
        return Verdict((Finding("size", f"it has {size} bytes; no such file can have 2 GB"),))
    if find_spec("onnx") is None:
        return Verdict()
    import onnx

    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    # The parser's own error has no public name.
    except Exception:
        return Verdict((Finding("damaged", "it is no ONNX model, or a damaged one", hint=COPY_HINT),))
    findings: list[Finding] = []
    for finding, _ in zip(_found(model), range(100), strict=False):
        findings.append(finding)
    return Verdict(tuple(findings))


def _found(model: Any) -> Iterator[Finding]:
    functions = {(one.domain, one.name): one for one in model.functions}
    graphs, bodies = [model.graph], [model.graph.node, *(one.node for one in model.functions)]
    held = {key: _inside(one.node) for key, one in functions.items()}
    for body in bodies:
        for node in _inside(body):
            yield from _operation(node, functions)
            graphs += [graph for attribute in node.attribute for graph in _graphs(attribute)]
    yield from _expanded(_inside(model.graph.node), held)
    for graph in graphs:
        yield from _shapes(graph)
    for body in bodies:
        for node in _inside(body):
            for attribute in node.attribute:
                yield from _tensors((*_one(attribute, "t"), *attribute.tensors))
                yield from _sparse((*_one(attribute, "sparse_tensor"), *attribute.sparse_tensors))


def _one(attribute: Any, field: str) -> tuple[Any, ...]:
    return (getattr(attribute, field),) if attribute.HasField(field) else ()


def _graphs(attribute: Any) -> tuple[Any, ...]:
    return (*_one(attribute, "g"), *attribute.graphs)


def _inside(nodes: Iterable[Any]) -> list[Any]:
    """All nodes, those of graphs within nodes included; the parser bounds how deep they lie."""
    found, left = [], list(nodes)
    while left:
        node = left.pop()
        found.append(node)
        left.extend(one for attribute in node.attribute for graph in _graphs(attribute) for one in graph.node)
    return found


def _operation(node: Any, functions: Mapping[tuple[str, str], Any]) -> Iterator[Finding]:
    if node.domain in STANDARD or (node.domain, node.op_type) in functions:
        return
    if node.domain != _OWN or node.op_type not in _OWN_OPERATIONS:
        yield Finding("operation", f"the custom operation {node.domain}.{node.op_type}"[:200])


def _expanded(main: list[Any], held: Mapping[tuple[str, str], list[Any]]) -> Iterator[Finding]:
    """Refuse functions that reach themselves, or become too many nodes where they are put in."""
    sizes: dict[tuple[str, str], int] = {}
    left = set(held)
    while left:
        ready = {key for key in left if not any((n.domain, n.op_type) in left for n in held[key])}
        if not ready:
            yield Finding("recursion", f"the function {min(left)[1]!r} calls itself"[:200])
            return
        for key in ready:
            sizes[key] = sum(1 + sizes.get((n.domain, n.op_type), 0) for n in held[key])
        left -= ready
    whole = sum(1 + sizes.get((n.domain, n.op_type), 0) for n in main)
    if whole > MOST_NODES:
        yield Finding("size", f"it becomes {whole:.3g} operations, {MOST_NODES} are the most")


def _shapes(graph: Any) -> Iterator[Finding]:
    """What one graph holds and declares."""
    yield from _tensors(graph.initializer)
    yield from _sparse(graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        sides = [side.dim_value or 1 for side in kind.shape.dim]
        if prod(sides) * _BITS.get(kind.elem_type, 8) // 8 > _MAX_TENSOR_BYTES:
            yield Finding("size", f"the tensor {value.name!r} is declared as {_text(sides)}"[:200])
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if node.output and attribute.HasField("t"):
                    constants[node.output[0]] = attribute.t
    for node in graph.node:
        place = _MAKING.get(node.op_type)
        told = constants.get(node.input[place]) if place is not None and len(node.input) > place else None
        sides = _numbers(told) if told is not None else []
        if node.op_type in _MAKING and place is None:
            sides = [side for a in node.attribute if a.name == "shape" for side in a.ints]
        # Values of four bytes, as most are.
        if prod(max(side, 1) for side in sides) * 4 > _MAX_TENSOR_BYTES:
            yield Finding("size", f"a {node.op_type} makes a tensor of shape {_text(sides)}"[:200])


def _tensors(tensors: Iterable[Any]) -> Iterator[Finding]:
    for tensor in tensors:
        if tensor.data_location == 1 or len(tensor.external_data):
            place = next((one.value for one in tensor.external_data if one.key == "location"), "?")
            yield Finding("external-data", f"the tensor {tensor.name!r} is read from the file {place!r}"[:200])
            continue
        values, bits = prod(tensor.dims), _BITS.get(tensor.data_type, 0)
        there = len(tensor.raw_data)
        declared = (values * bits + 7) // 8 if there else values
        if not there:
            there = max(len(getattr(tensor, field)) for field in _FIELDS)
            # Complex values are written as two, small ones several in one.
            declared = {14: 2 * values, 15: 2 * values}.get(tensor.data_type, (values * min(bits, 8) + 7) // 8)
            declared = values if tensor.data_type == 8 else declared
        if any(side < 0 for side in tensor.dims) or declared != there:
            message = f"the tensor {tensor.name!r} of shape {_text(tensor.dims)} holds {there} values or bytes"
            yield Finding("damaged", f"{message}, {declared} are declared"[:300], hint=COPY_HINT)
        elif tensor.data_type in _FLOATS and np.isnan(_floats(tensor)).any():
            yield Finding("weights", f"the tensor {tensor.name!r} holds NaN"[:200])


def _sparse(tensors: Iterable[Any]) -> Iterator[Finding]:
    for sparse in tensors:
        yield from _tensors((sparse.values, sparse.indices))
        if prod(max(side, 1) for side in sparse.dims) * 4 > _MAX_TENSOR_BYTES:
            yield Finding("size", f"the sparse tensor {sparse.values.name!r} is {_text(sparse.dims)}"[:200])


def _floats(tensor: Any) -> np.ndarray:
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data, _FLOATS[tensor.data_type])
    if tensor.data_type == 10:
        # Half precision lies in the bits of integers.
        return np.array(tensor.int32_data, np.int64).astype(np.uint16).view(np.float16)
    return np.array(tensor.double_data if tensor.data_type == 11 else tensor.float_data)


def _numbers(tensor: Any) -> list[int]:
    if tensor.data_type != 7 or prod(tensor.dims) > 16:
        return []
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 8 * 8], np.int64).tolist()
    return list(tensor.int64_data)


def _text(shape: Iterable[int]) -> str:
    return "×".join(str(side) for side in shape) or "()"
