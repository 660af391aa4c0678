"""What a SavedModel states about itself: its producer, and the inputs and outputs of its signatures."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from kdcli.screening.saved_model.allowed_operations import TABLE_OPERATIONS
from kdcli.screening.saved_model.files import MODEL_FILE
from kdcli.screening.saved_model.proto import all_nodes, dtype_name, parse_message
from kdcli.screening.saved_model.reachability import has_objects, signature_names
from kdcli.screening.saved_model.sizes import check_density

_KERAS_2_PREFIX = "_tf_keras_"
# What `keras.Model.export` of Keras 3 stores next to the signatures.
_KERAS_3_CHILDREN = frozenset({"non_trainable_variables", "trainable_variables"})


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a signature.

    Args:
        name: its name in the signature.
        dtype: name of the data type, such as `float32`.
        shape: None for each axis of any length; None as a whole if the number of axes is unknown.
    """

    name: str
    dtype: str
    _: KW_ONLY
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class SignatureFacts:
    """A signature of a SavedModel.

    Args:
        name: name of the signature, such as `serving_default`.
        inputs, outputs: sorted by name.
    """

    name: str
    _: KW_ONLY
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


@dataclass(frozen=True)
class SavedModelFacts:
    """What a SavedModel states about itself; none of it is verified.

    Args:
        producer: `Keras 3`, `Keras 2`, `tf.Module` or `TensorFlow 1`.
        tensorflow: version that wrote the model; None if it is not stated.
        signatures: sorted by name.
        tables: whether the model has lookup tables.
    """

    producer: str
    _: KW_ONLY
    tensorflow: str | None
    signatures: tuple[SignatureFacts, ...]
    tables: bool


def describe_saved_model(folder: Path) -> SavedModelFacts | None:
    """Read what a SavedModel states about itself, even if screening refuses it.

    Args:
        folder: the folder that was screened.

    Returns:
        None if the model cannot be read, or would take too much memory.
    """
    try:
        content = (folder / MODEL_FILE).read_bytes()
        if any(check_density(content)):
            return None
        meta = parse_message("SavedModel", content).meta_graphs[0]
        names = signature_names(meta)
    # As in `screen_saved_model`: the errors of a damaged message.
    except (OSError, ValueError, IndexError, KeyError, RecursionError):
        return None
    signatures = tuple(_signature(name, meta.signature_def[name]) for name in names if name in meta.signature_def)
    tables = any(node.op in TABLE_OPERATIONS for node in all_nodes(meta.graph_def))
    version = meta.meta_info_def.tensorflow_version or None
    return SavedModelFacts(_producer(meta), tensorflow=version, signatures=signatures, tables=tables)


def _signature(name: str, signature: Any) -> SignatureFacts:
    return SignatureFacts(name, inputs=_tensors(signature.inputs), outputs=_tensors(signature.outputs))


def _tensors(tensors: Any) -> tuple[TensorFacts, ...]:
    return tuple(
        TensorFacts(name, dtype_name(tensors[name].dtype), shape=_shape(tensors[name].tensor_shape))
        for name in sorted(tensors)
    )


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)


def _producer(meta: Any) -> str:
    if not has_objects(meta):
        return "TensorFlow 1"
    nodes = meta.object_graph_def.nodes
    if any(node.user_object.identifier.startswith(_KERAS_2_PREFIX) for node in nodes):
        return "Keras 2"
    children = {child.local_name for child in nodes[0].children} if nodes else set()
    return "Keras 3" if children >= _KERAS_3_CHILDREN else "tf.Module"
