"""What a Keras model takes: each of its inputs by name, the structure they come in, and a fixed batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras
from kdcli.models.network import TensorSpec, UnusableModel


def get_fixed_batch_size(model: Any) -> int | None:
    """The batch size that a model's inputs are declared with."""
    return next((tensor.shape[0] for tensor in _declared(model)), None)


def _declared(model: Any) -> list[Any]:
    """The symbolic inputs, if any."""
    try:
        return list(model.inputs or ())
    except (AttributeError, ValueError):
        return []


def describe_inputs(model: Any, name: str) -> tuple[Any, tuple[TensorSpec, ...]]:
    """The structure in which a model takes its inputs, and each of them.

    Args:
        model: a `keras.Model`.
        name: of it, for messages.

    Raises:
        ModelError: it was never called, so that nothing is known.
    """
    tensors = _declared(model)
    if tensors:
        # A sequential model that was never called as a part of another has no `input`.
        structure = getattr(model, "input", tensors if len(tensors) > 1 else tensors[0])
        names = name_leaves(structure, [tensor.name for tensor in tensors])
        return structure, tuple(_spec(*one) for one in zip(names, tensors, strict=True))
    shapes: Any = (model.get_build_config() or {}).get("input_shape")
    dtype = getattr(model, "input_dtype", "float32")
    if isinstance(shapes, dict) and all(_is_shape(shape) for shape in shapes.values()):
        # In the order in which structures are flattened.
        specs = tuple(TensorSpec(key, tuple(shapes[key][1:]), dtype) for key in sorted(shapes))
        return dict.fromkeys(sorted(shapes), 0), specs
    if not _is_shape(shapes):
        raise UnusableModel(
            f"{name}: the shape of the model's input is unknown", hint="call the model once before saving it"
        )
    return 0, (TensorSpec("x", tuple(shapes[1:]), dtype),)


def _is_shape(given: Any) -> bool:
    return bool(given) and isinstance(given, list | tuple) and all(s is None or isinstance(s, int) for s in given)


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))


def name_leaves(structure: Any, own: Sequence[str]) -> tuple[str, ...]:
    """A name for each leaf: its key in a dictionary, else its own; the whole path where two are alike.

    Args:
        structure: tensors in lists, tuples and dictionaries, or one tensor.
        own: what each leaf is called by itself, in the order of `keras.tree.flatten`.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    names = [
        path[-1] if path and isinstance(path[-1], str) else name for path, name in zip(paths, own, strict=True)
    ]
    return tuple(
        "/".join(str(part) for part in path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    )


def flatten_structure(structure: Any) -> list[Any]:
    """Every leaf, in the order of `leaf_names`."""
    return keras.tree.flatten(structure)


def fill_structure(structure: Any, values: Sequence[Any]) -> Any:
    """The same structure with other leaves."""
    return keras.tree.pack_sequence_as(structure, list(values))
