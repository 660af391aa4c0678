"""Constants of a SavedModel: more memory than they hold, and graphs hidden in them."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, prod
from typing import Any

from kdcli.lazy import tf
from kdcli.screening.saved_model.program import Body, Program
from kdcli.screening.saved_model.proto import (
    declared_bytes,
    dtype_bytes,
    parse_function,
    parse_graph,
    parse_library,
    parse_saved_model,
    quote_name,
    source,
)
from kdcli.screening.verdict import Finding

_CONSTANT_BYTES = 2**28
_ALL_BYTES = 2**30
_ELEMENTS = 2**28
_BUCKETS = 2**24
# Shapes are short.
_SHAPE_VALUES = 64
# Which input of an operation says how large its output is: the product of its values.
_SHAPES = {
    **dict.fromkeys(("Fill", "Empty", "RandomUniform", "RandomUniformInt", "RandomStandardNormal"), 0),
    **dict.fromkeys(("TruncatedNormal", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoissonV2"), 0),
    **dict.fromkeys(("StatelessRandomUniform", "StatelessRandomUniformV2", "StatelessRandomNormal"), 0),
    **dict.fromkeys(("StatelessRandomNormalV2", "StatelessTruncatedNormal", "StatelessTruncatedNormalV2"), 0),
    **dict.fromkeys(("StatelessRandomUniformInt", "StatelessRandomUniformIntV2"), 0),
    **dict.fromkeys(("StatelessRandomUniformFullInt", "StatelessRandomUniformFullIntV2"), 0),
    **dict.fromkeys(("StatefulUniform", "StatefulStandardNormalV2", "StatefulTruncatedNormal"), 1),
    **dict.fromkeys(("StatefulUniformInt", "StatefulUniformFullInt"), 1),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), 0),
    **dict.fromkeys(("BroadcastTo", "Tile", "OneHot", "SparseToDense", "Bincount", "DenseBincount"), 1),
    **dict.fromkeys(("ResizeArea", "ResizeBicubic", "ResizeBilinear", "ResizeNearestNeighbor"), 1),
    **dict.fromkeys(("ScatterNd", "LinSpace", "MatrixDiagV2", "MatrixDiagV3", "CropAndResize"), 2),
    **dict.fromkeys(("UnsortedSegmentSum", "UnsortedSegmentProd", "UnsortedSegmentMax", "UnsortedSegmentMin"), 2),
    **dict.fromkeys(("TensorListReserve", "TensorListResize"), 1),
    "CropAndResize": 3,
    "TensorArrayV3": 0,
}
# Attributes with messages of TensorFlow's own that are no graphs.
_SETTINGS = ("config_proto", "config", "_output_shapes")
_SHAPED = ("TemporaryVariable", "VariableV2", "Variable")


def check_constants(program: Program) -> Iterator[Finding]:
    """Constants and shapes that ask for more memory than they hold."""
    total = 0
    for body in program.bodies:
        for node in body.nodes.values():
            for tensor in _tensors_of(node):
                total += max(0, (declared_bytes(tensor) or 0) - tensor.ByteSize())
            for fault in _large(body, node):
                yield Finding("size", f"node {quote_name(node.name)} of {body} {fault}")
    if total > _ALL_BYTES:
        yield Finding("size", f"constants ask for {total:,} bytes more than they hold (at most {_ALL_BYTES:,})")


def _large(body: Body, node: Any) -> Iterator[str]:
    for tensor in _tensors_of(node):
        declared, held = declared_bytes(tensor), tensor.ByteSize()
        if declared is None:
            yield "holds a constant without a proper shape"
        elif declared > _CONSTANT_BYTES and declared > 4 * held:
            yield f"asks for {declared:,} bytes and holds {held:,}"
    elements = _elements(body, node)
    if elements > _ELEMENTS:
        yield f"({node.op}) makes {elements:,} elements at once (at most {_ELEMENTS:,})"
    if "initial_num_buckets" in node.attr and node.attr["initial_num_buckets"].i > _BUCKETS:
        yield f"makes a table with {node.attr['initial_num_buckets'].i:,} places (at most {_BUCKETS:,})"


def check_texts(program: Program) -> Iterator[Finding]:
    """Graphs in text, and constants whose content no screening can read: both have no honest use."""
    odd = (tf.variant.as_datatype_enum, tf.resource.as_datatype_enum)
    text = tf.string.as_datatype_enum
    for body in program.bodies:
        for node in body.nodes.values():
            tensors = list(_tensors_of(node))
            if any(one.dtype in odd or (one.dtype == text and one.tensor_content) for one in tensors):
                message = f"node {quote_name(node.name)} of {body} holds a constant that cannot be looked into"
                yield Finding("constant", message)
            if any(map(holds_graph, (*_texts(node), *(string for one in tensors for string in one.string_val)))):
                yield Finding(
                    "hidden-graph", f"node {quote_name(node.name)} of {body} holds a whole graph as text"
                )


def _texts(node: Any) -> Iterator[bytes]:
    for name, value in node.attr.items():
        kind = value.WhichOneof("value")
        if kind == "s" and name not in _SETTINGS:
            yield value.s
        elif kind == "list":
            yield from value.list.s


def _tensors_of(node: Any) -> Iterator[Any]:
    """Every `TensorProto` among a node's attributes."""
    for value in node.attr.values():
        kind = value.WhichOneof("value")
        if kind == "tensor":
            yield value.tensor
        elif kind == "list":
            yield from value.list.tensor


def _elements(body: Body, node: Any) -> int:
    """How many elements an operation makes at once, where constants say so; 0 where they do not."""
    if node.op in _SHAPED and "shape" in node.attr:
        return prod(max(dim.size, 0) for dim in node.attr["shape"].shape.dim)
    if node.op == "Range":
        ends = [_constant(body, name) for name in node.input[:3]]
        if len(ends) < 3 or any(not end for end in ends) or not ends[2][0]:
            return 0
        return int(max(0, abs((ends[1][0] - ends[0][0]) / ends[2][0])))
    place = _SHAPES.get(node.op)
    values = _constant(body, node.input[place]) if place is not None and place < len(node.input) else []
    return int(prod(max(value, 0) for value in values)) if values else 0


def _constant(body: Body, tensor: str) -> list[float]:
    """The few numbers of a constant; nothing for anything else."""
    node, passed = body.nodes.get(source(tensor)), 0
    while node is not None and node.op == "Identity" and node.input and passed < len(body.nodes):
        node, passed = body.nodes.get(source(node.input[0])), passed + 1
    if node is None or node.op != "Const" or not dtype_bytes(node.attr["value"].tensor.dtype):
        return []
    tensor_proto = node.attr["value"].tensor
    if (declared_bytes(tensor_proto) or 0) > _SHAPE_VALUES * 8:
        return []
    try:
        values = [value.item() for value in tf.make_ndarray(tensor_proto).ravel()]
    except (TypeError, ValueError):
        return []
    return [value for value in values if isinstance(value, int | float) and isfinite(value)]


# The smallest message with an operation: its tags, a name of one letter and the shortest name of an operation.
_SHORTEST = 10
# The tags that begin every node: its first field, and the name of its operation.
_TAGS = (b"\n", b"\x12")


def holds_graph(text: bytes) -> bool:
    """Whether some bytes are a message with operations in it: a graph, a function, a library or a SavedModel."""
    if len(text) < _SHORTEST or not all(tag in text for tag in _TAGS):
        return False
    return any(_is_real(node) for node in _nodes(text))


def _nodes(text: bytes) -> Iterator[Any]:
    for parse in (parse_graph, parse_function, parse_library, parse_saved_model):
        try:
            message = parse(text)
        except ValueError:
            continue
        if parse is parse_graph:
            yield from message.node
            yield from (node for function in message.library.function for node in function.node_def)
        elif parse is parse_function:
            yield from message.node_def
        elif parse is parse_library:
            yield from (node for function in message.function for node in function.node_def)
        else:
            for meta in message.meta_graphs:
                yield from meta.graph_def.node
                yield from (node for function in meta.graph_def.library.function for node in function.node_def)


def _is_real(node: Any) -> bool:
    return bool(node.name) and node.op.isidentifier() and hasattr(tf.raw_ops, node.op)
