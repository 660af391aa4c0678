"""The convention that every loss keeps: at least float32, both sides in one type, one value for each example."""

from __future__ import annotations

from typing import Any

from kdcli.formulas.rows import limit_size
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, Loss, Parts

NARROW = ("float16", "bfloat16")


def wide(tensor: Any) -> Any:
    """The tensor in float32, or as it is when it is wider: a loss is never computed in half precision."""
    tensor = ops.convert_to_tensor(tensor)
    name = keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if name in NARROW or not name.startswith("float") else tensor


def promote(*tensors: Any) -> list[Any]:
    """The tensors in the widest of their float types, at least float32."""
    widened = [wide(tensor) for tensor in tensors]
    double = any(keras.backend.standardize_dtype(tensor.dtype) == "float64" for tensor in widened)
    return [ops.cast(tensor, "float64") for tensor in widened] if double else widened


def match_logits(student: Any, teacher: Any) -> tuple[Any, Any]:
    """Logits of both sides in one float type, at least float32; no gradient reaches the teacher."""
    student, teacher = promote(student, teacher)
    return student, ops.stop_gradient(teacher)


def per_example(values: Any) -> Any:
    """Mean over every axis but the first: (batch, ...) → (batch,)."""
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def require_parts(parts: Parts, loss: Loss) -> Parts:
    """The parts of a loss that cannot do without.

    Raises:
        ValueError: it was called without them.
    """
    if parts is NO_PARTS:
        raise ValueError(
            f"{loss.kind} has parts of its own: parts=loss.build(kdcli.loss.Given(student=[...], teacher=[...]))"
        )
    return parts


def features(tensor: Any) -> list[Any]:
    """A feature, or a list of them, as a list in at least float32."""
    return [wide(feature) for feature in _as_list(tensor)]


def cosine(student: Any, teacher: Any) -> Any:
    """The cosine over the last axis; that of a zero feature is 0, with no gradient."""
    # A direction has no scale: large features are brought into a range whose squares fit.
    student, teacher = limit_size(student, (-1,)), limit_size(teacher, (-1,))
    ours, theirs = (ops.sum(feature * feature, axis=-1) for feature in (student, teacher))
    known = (ours > 0) & (theirs > 0)
    # 1e-12 under the root, as the published losses have it.
    norms = ops.sqrt((ours + 1e-12) * (theirs + 1e-12))
    return ops.where(known, ops.sum(student * teacher, axis=-1) / norms, ops.zeros_like(norms))


def _as_list(features: Any) -> list[Any]:
    """A list of tensors as it is; one tensor, or one written as nested lists of numbers, as a list of one."""
    several = isinstance(features, list | tuple) and all(hasattr(item, "shape") for item in features)
    return list(features) if several else [features]
