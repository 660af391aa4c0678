"""The convention of all losses: at least float32, both sides in one float type, one value per example."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.formulas.vectors import limit_size
from kdcli.lazy import keras, ops
from kdcli.loss import NO_PARTS, Loss, Parts
from kdcli.tensors import Tensor

_NARROW = ("float16", "bfloat16")


def wide(tensor: Tensor) -> Tensor:
    """Cast a tensor to float32 unless it is wider: no loss is computed in half precision."""
    tensor = ops.convert_to_tensor(tensor)
    name = keras.backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if name in _NARROW or not name.startswith("float") else tensor


def promote(*tensors: Tensor) -> list[Tensor]:
    """Cast tensors to the widest of their float types, at least float32."""
    widened = [wide(tensor) for tensor in tensors]
    double = any(keras.backend.standardize_dtype(tensor.dtype) == "float64" for tensor in widened)
    return [ops.cast(tensor, "float64") for tensor in widened] if double else widened


def match_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Cast the logits of both sides to one float type and stop the teacher's gradient."""
    student, teacher = promote(student, teacher)
    return student, ops.stop_gradient(teacher)


def per_example(values: Tensor) -> Tensor:
    """Mean over every axis but the first: (batch, ...) → (batch,)."""
    axes = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=axes) if axes else values


def require_parts(parts: Parts, loss: Loss) -> Parts:
    """Return the parts of a loss that cannot be called without them.

    Raises:
        ValueError: the loss was called without parts.
    """
    if parts is NO_PARTS:
        raise ValueError(
            f"{loss.kind} needs its parts: parts=loss.build(kdcli.loss.Given(student=[...], teacher=[...]))"
        )
    return parts


def features(tensor: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A feature, or a list of features, as a list in at least float32."""
    return [wide(feature) for feature in _as_list(tensor)]


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """The cosine over the last axis; 0, with a gradient of 0, where a feature is zero."""
    # The cosine is independent of the scale, so large features are scaled down until their squares fit.
    student, teacher = limit_size(student, (-1,)), limit_size(teacher, (-1,))
    ours, theirs = (ops.sum(feature * feature, axis=-1) for feature in (student, teacher))
    known = (ours > 0) & (theirs > 0)
    # 1e-12 inside the square root, as in the published losses.
    norms = ops.sqrt((ours + 1e-12) * (theirs + 1e-12))
    return ops.where(known, ops.sum(student * teacher, axis=-1) / norms, ops.zeros_like(norms))


def _as_list(features: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A list of tensors unchanged; one tensor, or nested lists of numbers, as a list of one."""
    several = isinstance(features, list | tuple) and all(hasattr(item, "shape") for item in features)
    return list(features) if several else [features]
