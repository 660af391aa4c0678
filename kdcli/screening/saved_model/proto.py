"""The protobuf messages of a SavedModel: parsing them, and reading names, types and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from kdcli.lazy import tf

# Memory for one element of a string tensor, at least.
_TEXT_BYTES = 24


def parse_message(kind: str, content: bytes) -> Any:
    """Parse a message.

    Args:
        kind: `SavedModel`, `VariableDef`, `AssetFileDef`, `GraphDef`, `FunctionDef`, `FunctionDefLibrary` or
            `TrackableObjectGraph`.
        content: the serialized message.

    Raises:
        ValueError: the content is not such a message.
    """
    # Imported late and after an access to `tf`, which keeps the import of TensorFlow quiet. These modules are
    # generated from published message definitions; most of their classes have no public name.
    _ = tf.__version__
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import function_pb2, graph_pb2, variable_pb2
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, trackable_object_graph_pb2

    classes: dict[str, Any] = {
        "SavedModel": saved_model_pb2.SavedModel,
        "VariableDef": variable_pb2.VariableDef,
        "AssetFileDef": meta_graph_pb2.AssetFileDef,
        "GraphDef": graph_pb2.GraphDef,
        "FunctionDef": function_pb2.FunctionDef,
        "TrackableObjectGraph": trackable_object_graph_pb2.TrackableObjectGraph,
        "FunctionDefLibrary": function_pb2.FunctionDefLibrary,
    }
    try:
        return classes[kind].FromString(content)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def library_nodes(library: Any) -> Iterator[Any]:
    """The nodes of all functions in a `FunctionDefLibrary` message."""
    return (node for function in library.function for node in function.node_def)


def all_nodes(graph_def: Any) -> Iterator[Any]:
    """The nodes of a `GraphDef` message and of all functions in its library."""
    yield from graph_def.node
    yield from library_nodes(graph_def.library)


def dtype_name(number: int) -> str:
    """The name of a data type by its number in messages; `unknown` if TensorFlow has no such type."""
    try:
        return str(tf.dtypes.as_dtype(number).name)
    except TypeError:
        return "unknown"


def dtype_bytes(number: int) -> int:
    """The bytes per element of a data type by its number; 0 for strings, resources and unknown types."""
    try:
        return int(tf.dtypes.as_dtype(number).size or 0)
    except (TypeError, KeyError):
        return 0


def declared_bytes(tensor: Any) -> int | None:
    """The memory in bytes that a `TensorProto` message takes as a tensor; None if its shape is invalid."""
    dims = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in dims):
        return None
    return prod(dims) * (dtype_bytes(tensor.dtype) or _TEXT_BYTES)


def tensor_names(information: Any) -> Iterator[str]:
    """The names of all tensors in a `TensorInfo` message: one, or the components of a composite tensor."""
    kind = information.WhichOneof("encoding")
    if kind == "name":
        yield information.name
    elif kind == "coo_sparse":
        sparse = information.coo_sparse
        yield from (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    elif kind == "composite_tensor":
        for component in information.composite_tensor.components:
            yield from tensor_names(component)


def source_name(tensor: str) -> str:
    """The name of the node or argument that a tensor or control input comes from."""
    return tensor.removeprefix("^").split(":")[0]
