"""What a SavedModel says of itself: who wrote it, and what its signatures take and give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.screening.saved_model.allowed_operations import TABLE_OPERATIONS
from kdcli.screening.saved_model.files import MODEL_FILE
from kdcli.screening.saved_model.proto import dtype_name, parse_saved_model
from kdcli.screening.saved_model.reachable import has_objects, signature_names
from kdcli.screening.saved_model.sizes import check_density

_KERAS_2 = "_tf_keras_"
# What `keras.Model.export` of Keras 3 puts beside the signatures.
_KERAS_3 = frozenset({"non_trainable_variables", "trainable_variables"})


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a signature.

    Args:
        name: its name in the signature.
        dtype: such as `float32`.
        shape: with None where it is open; None as a whole when not even the number of axes is known.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class SignatureFacts:
    """A signature of a SavedModel.

    Args:
        name: such as `serving_default`.
        inputs, outputs: sorted by name.
    """

    name: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]


@dataclass(frozen=True)
class SavedModelFacts:
    """What a SavedModel says of itself; nothing of it is proven.

    Args:
        producer: `Keras 3`, `Keras 2`, `tf.Module` or `TensorFlow 1`.
        tensorflow: the version that wrote it; None where it does not say.
        signatures: sorted by name.
        tables: whether it has lookup tables.
    """

    producer: str
    tensorflow: str | None
    signatures: tuple[SignatureFacts, ...]
    tables: bool


def describe_saved_model(folder: Path) -> SavedModelFacts | None:
    """Read what a SavedModel says of itself, also where screening refuses it.

    Args:
        folder: the one that was screened.

    Returns:
        None where it cannot be read, or would take too much memory.
    """
    try:
        content = (folder / MODEL_FILE).read_bytes()
        if any(check_density(content)):
            return None
        meta = parse_saved_model(content).meta_graphs[0]
        names = signature_names(meta)
    # The same that screening meets in a damaged message.
    except (OSError, ValueError, IndexError, KeyError, RecursionError):
        return None
    signatures = tuple(_signature(name, meta.signature_def[name]) for name in names if name in meta.signature_def)
    library = (function.node_def for function in meta.graph_def.library.function)
    operations = {node.op for nodes in (meta.graph_def.node, *library) for node in nodes}
    version = meta.meta_info_def.tensorflow_version or None
    return SavedModelFacts(_producer(meta), version, signatures, bool(operations & TABLE_OPERATIONS))


def _signature(name: str, signature: Any) -> SignatureFacts:
    return SignatureFacts(name, _tensors(signature.inputs), _tensors(signature.outputs))


def _tensors(tensors: Any) -> tuple[TensorFacts, ...]:
    return tuple(
        TensorFacts(name, dtype_name(tensors[name].dtype), _shape(tensors[name].tensor_shape))
        for name in sorted(tensors)
    )


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in shape.dim)


def _producer(meta: Any) -> str:
    if not has_objects(meta):
        return "TensorFlow 1"
    nodes = meta.object_graph_def.nodes
    if any(node.user_object.identifier.startswith(_KERAS_2) for node in nodes):
        return "Keras 2"
    children = {child.local_name for child in nodes[0].children} if nodes else set()
    return "Keras 3" if children >= _KERAS_3 else "tf.Module"
