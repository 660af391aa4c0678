"""The messages of a SavedModel: bytes become records, and nothing in them is run."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from kdcli.lazy import tf

# A text takes this much in memory, however short.
_TEXT_BYTES = 24
# How much of a stranger's name is shown.
_SHOWN = 80


def parse_saved_model(content: bytes) -> Any:
    """The `SavedModel` message in a `saved_model.pb`.

    Raises:
        ValueError: damaged.
    """
    return _message("SavedModel", content)


def parse_variable(content: bytes) -> Any:
    """The `VariableDef` message of a model of TensorFlow 1.

    Raises:
        ValueError: damaged.
    """
    return _message("VariableDef", content)


def parse_asset(content: bytes) -> Any:
    """The `AssetFileDef` message of a model of TensorFlow 1.

    Raises:
        ValueError: damaged.
    """
    return _message("AssetFileDef", content)


def parse_graph(content: bytes) -> Any:
    """The `GraphDef` message in some bytes.

    Raises:
        ValueError: they hold none.
    """
    return _message("GraphDef", content)


def parse_function(content: bytes) -> Any:
    """The `FunctionDef` message in some bytes.

    Raises:
        ValueError: they hold none.
    """
    return _message("FunctionDef", content)


def parse_library(content: bytes) -> Any:
    """The `FunctionDefLibrary` message in some bytes.

    Raises:
        ValueError: they hold none.
    """
    return _message("FunctionDefLibrary", content)


def _message(kind: str, content: bytes) -> Any:
    # Imported here and after a touch of `tf`, which keeps TensorFlow's import quiet. These modules are generated
    # from published definitions of messages; most of their classes have no public name.
    _ = tf.__version__
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import function_pb2, graph_pb2, variable_pb2
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    classes: dict[str, Any] = {
        "SavedModel": saved_model_pb2.SavedModel,
        "VariableDef": variable_pb2.VariableDef,
        "AssetFileDef": meta_graph_pb2.AssetFileDef,
        "GraphDef": graph_pb2.GraphDef,
        "FunctionDef": function_pb2.FunctionDef,
        "FunctionDefLibrary": function_pb2.FunctionDefLibrary,
    }
    try:
        return classes[kind].FromString(content)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def quote_name(name: str | bytes) -> str:
    """A stranger's name for a message: quoted, without control characters, cut."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")


def dtype_name(number: int) -> str:
    """The name of a type by its number in a message; `unknown` for one that TensorFlow does not have."""
    try:
        return str(tf.dtypes.as_dtype(number).name)
    except TypeError:
        return "unknown"


def dtype_bytes(number: int) -> int:
    """The bytes of one element of a type by its number; 0 for text, resources and what is unknown."""
    try:
        return int(tf.dtypes.as_dtype(number).size or 0)
    except (TypeError, KeyError):
        return 0


def declared_bytes(tensor: Any) -> int | None:
    """The bytes that a `TensorProto` message takes once it is made; None when its shape is not proper."""
    dims = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in dims):
        return None
    return prod(dims) * (dtype_bytes(tensor.dtype) or _TEXT_BYTES)


def tensor_names(information: Any) -> Iterator[str]:
    """The names of all tensors that a `TensorInfo` message stands for: one, or the parts of a composite one."""
    kind = information.WhichOneof("encoding")
    if kind == "name":
        yield information.name
    elif kind == "coo_sparse":
        sparse = information.coo_sparse
        yield from (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
    elif kind == "composite_tensor":
        for part in information.composite_tensor.components:
            yield from tensor_names(part)


def source(name: str) -> str:
    """The node or argument that a tensor's or control input's name begins with."""
    return name.removeprefix("^").split(":")[0]
