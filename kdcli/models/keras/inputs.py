"""The inputs of a Keras model: names, shapes and types, their structure, and a fixed batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras
from kdcli.models.network import TensorSpec, UnusableModel
from kdcli.tensors import KerasModel, Tensor


def get_fixed_batch_size(model: KerasModel) -> int | None:
    """The batch size that a model's inputs declare; None where they declare none."""
    return next((tensor.shape[0] for tensor in _get_symbolic_inputs(model)), None)


def _get_symbolic_inputs(model: KerasModel) -> list[Tensor]:
    try:
        return list(model.inputs or ())
    except (AttributeError, ValueError):
        return []


def describe_inputs(model: KerasModel, name: str) -> tuple[Any, tuple[TensorSpec, ...]]:
    """Describe a model's inputs: the structure in which it takes them, and the spec of each leaf.

    Args:
        model: functional, sequential or subclassed.
        name: what messages call the model.

    Raises:
        ModelError: a model that was never called, so that its input shapes are unknown.
    """
    tensors = _get_symbolic_inputs(model)
    if tensors:
        # A sequential model that was never called as part of another model has no `input`.
        structure = getattr(model, "input", tensors if len(tensors) > 1 else tensors[0])
        names = name_leaves(structure, [tensor.name for tensor in tensors])
        return structure, tuple(make_spec(*one) for one in zip(names, tensors, strict=True))
    shapes: Any = (model.get_build_config() or {}).get("input_shape")
    dtype = getattr(model, "input_dtype", "float32")
    if isinstance(shapes, dict) and all(_is_shape(shape) for shape in shapes.values()):
        # The order in which `keras.tree` flattens a dictionary.
        specs = tuple(TensorSpec(key, tuple(shapes[key][1:]), dtype) for key in sorted(shapes))
        return dict.fromkeys(sorted(shapes), 0), specs
    if not _is_shape(shapes):
        raise UnusableModel(
            f"{name}: the shape of the model's input is unknown", hint="call the model once before saving it"
        )
    return 0, (TensorSpec("x", tuple(shapes[1:]), dtype),)


def _is_shape(value: Any) -> bool:
    return bool(value) and isinstance(value, list | tuple) and all(s is None or isinstance(s, int) for s in value)


def make_spec(name: str, tensor: Tensor) -> TensorSpec:
    """Describe a tensor (batch, ...)."""
    return TensorSpec(name, tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))


def name_leaves(structure: Any, defaults: Sequence[str]) -> tuple[str, ...]:
    """Name the leaves of a structure: by dictionary key, or else by default; by whole path where two are equal.

    Args:
        structure: tensors in lists, tuples and dictionaries, or one tensor.
        defaults: a name for each leaf, in the order of `keras.tree.flatten`.
    """
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    names = [
        path[-1] if path and isinstance(path[-1], str) else name
        for path, name in zip(paths, defaults, strict=True)
    ]
    return tuple(
        "/".join(str(part) for part in path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    )
