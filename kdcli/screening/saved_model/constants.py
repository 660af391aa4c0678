"""Rules for the constants of a SavedModel: their size in memory, and graphs that are hidden in them."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, prod
from typing import Any

from kdcli.lazy import tf
from kdcli.screening.saved_model.program import Body, Program
from kdcli.screening.saved_model.proto import (
    all_nodes,
    declared_bytes,
    dtype_bytes,
    library_nodes,
    parse_message,
    source_name,
)
from kdcli.screening.verdict import Finding

_MAX_CONSTANT_BYTES = 2**28
_MAX_TOTAL_BYTES = 2**30
_MAX_ELEMENTS = 2**28
_MAX_BUCKETS = 2**24
# Longer constants are not shapes.
_MAX_SHAPE_VALUES = 64
# The input of an operation that holds its output shape: the output has the product of its values as elements.
_SHAPE_INPUTS = {
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
# Attributes that hold messages of TensorFlow which are not graphs.
_MESSAGE_ATTRIBUTES = ("config_proto", "config", "_output_shapes")
_SHAPED_OPERATIONS = ("TemporaryVariable", "VariableV2", "Variable")


def check_constants(program: Program) -> Iterator[Finding]:
    """Refuse constants and shapes that take much more memory than the file stores for them."""
    total = 0
    for body in program.bodies:
        for node in body.nodes.values():
            for tensor in _tensors_of(node):
                total += max(0, (declared_bytes(tensor) or 0) - tensor.ByteSize())
            for fault in _size_faults(body, node):
                yield Finding("size", f"{body.describe(node)} {fault}")
    if total > _MAX_TOTAL_BYTES:
        message = f"constants declare {total:,} bytes more than they store (at most {_MAX_TOTAL_BYTES:,})"
        yield Finding("size", message)


def _size_faults(body: Body, node: Any) -> Iterator[str]:
    for tensor in _tensors_of(node):
        if fault := _tensor_fault(tensor):
            yield f"has a constant that {fault}"
    elements = _output_elements(body, node)
    if elements > _MAX_ELEMENTS:
        yield f"({node.op}) creates {elements:,} elements (at most {_MAX_ELEMENTS:,})"
    if "initial_num_buckets" in node.attr and node.attr["initial_num_buckets"].i > _MAX_BUCKETS:
        buckets = node.attr["initial_num_buckets"].i
        yield f"creates a table with {buckets:,} buckets (at most {_MAX_BUCKETS:,})"


def _tensor_fault(tensor: Any) -> str | None:
    """What is wrong with the size of a `TensorProto` message, as a clause without its subject."""
    declared, stored = declared_bytes(tensor), tensor.ByteSize()
    if declared is None:
        return "has an invalid shape"
    if declared > _MAX_CONSTANT_BYTES and declared > 4 * stored:
        return f"declares {declared:,} bytes and stores {stored:,}"
    return None


def check_specifications(*messages: Any) -> Iterator[Finding]:
    """Refuse large arrays in the specifications of function arguments: loading creates each of them."""
    for message in messages:
        for tensor in _tensors_within(message):
            if fault := _tensor_fault(tensor):
                yield Finding("size", f"an array in the specification of a function argument {fault}")


def _tensors_within(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = [one for one in value.values() if hasattr(one, "ListFields")]
        else:
            inner = [value] if hasattr(value, "ListFields") else list(value)
        for one in inner:
            if field.message_type.name == "TensorProto":
                yield one
            else:
                yield from _tensors_within(one)


def check_texts(program: Program) -> Iterator[Finding]:
    """Refuse graphs stored as strings, and constants that screening cannot read; neither has a legitimate use."""
    opaque = (tf.variant.as_datatype_enum, tf.resource.as_datatype_enum)
    text = tf.string.as_datatype_enum
    for body in program.bodies:
        for node in body.nodes.values():
            tensors = list(_tensors_of(node))
            if any(one.dtype in opaque or (one.dtype == text and one.tensor_content) for one in tensors):
                message = f"{body.describe(node)} has a constant that screening cannot read"
                yield Finding("constant", message)
            texts = (*_text_attributes(node), *(string for one in tensors for string in one.string_val))
            if any(map(holds_graph, texts)):
                yield Finding("hidden-graph", f"{body.describe(node)} has a graph stored as a string")


def _text_attributes(node: Any) -> Iterator[bytes]:
    for name, value in node.attr.items():
        kind = value.WhichOneof("value")
        if kind == "s" and name not in _MESSAGE_ATTRIBUTES:
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


def _output_elements(body: Body, node: Any) -> int:
    """The number of elements that an operation creates, if constants determine it; otherwise 0."""
    if node.op in _SHAPED_OPERATIONS and "shape" in node.attr:
        return prod(max(dim.size, 0) for dim in node.attr["shape"].shape.dim)
    if node.op == "Range":
        ends = [_constant_values(body, name) for name in node.input[:3]]
        if len(ends) < 3 or any(not end for end in ends) or not ends[2][0]:
            return 0
        return int(max(0, abs((ends[1][0] - ends[0][0]) / ends[2][0])))
    place = _SHAPE_INPUTS.get(node.op)
    values = _constant_values(body, node.input[place]) if place is not None and place < len(node.input) else []
    return int(prod(max(value, 0) for value in values)) if values else 0


def _constant_values(body: Body, tensor: str) -> list[float]:
    """The numbers of a short constant; empty for anything else."""
    node, passed = body.nodes.get(source_name(tensor)), 0
    while node is not None and node.op == "Identity" and node.input and passed < len(body.nodes):
        node, passed = body.nodes.get(source_name(node.input[0])), passed + 1
    if node is None or node.op != "Const" or not dtype_bytes(node.attr["value"].tensor.dtype):
        return []
    tensor_proto = node.attr["value"].tensor
    if (declared_bytes(tensor_proto) or 0) > _MAX_SHAPE_VALUES * 8:
        return []
    try:
        values = [value.item() for value in tf.make_ndarray(tensor_proto).ravel()]
    except (TypeError, ValueError):
        return []
    return [value for value in values if isinstance(value, int | float) and isfinite(value)]


# Bytes of the smallest message with an operation: tags, a name of one letter and the shortest operation name.
_MIN_GRAPH_BYTES = 10
# The tags of a node and of its operation name.
_TAGS = (b"\n", b"\x12")


def holds_graph(text: bytes) -> bool:
    """Whether some bytes are a message with operations: a graph, a function, a library or a SavedModel."""
    if len(text) < _MIN_GRAPH_BYTES or not all(tag in text for tag in _TAGS):
        return False
    return any(_is_operation(node) for node in _nodes(text))


def _nodes(text: bytes) -> Iterator[Any]:
    """The nodes of every kind of message that some bytes parse as."""
    for kind in ("GraphDef", "FunctionDef", "FunctionDefLibrary", "SavedModel"):
        try:
            message = parse_message(kind, text)
        except ValueError:
            continue
        if kind == "GraphDef":
            yield from all_nodes(message)
        elif kind == "FunctionDef":
            yield from message.node_def
        elif kind == "FunctionDefLibrary":
            yield from library_nodes(message)
        else:
            for meta in message.meta_graphs:
                yield from all_nodes(meta.graph_def)


def _is_operation(node: Any) -> bool:
    return bool(node.name) and node.op.isidentifier() and hasattr(tf.raw_ops, node.op)
