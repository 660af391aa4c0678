"""Dtypes in which outputs are stored: half the bytes where the loss hardly changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdcli.cache.layout import ArraySpec
from kdcli.evaluation.quality import measure_agreement
from kdcli.models.prediction import LOGITS
from kdcli.runs.packed_file import parse_dtype

# float16 ends at 65,504; outputs for other examples may be larger than those of the sample.
_MAX_FLOAT16 = 60_000
# Largest accepted rounding error of features, relative to their norm.
_MAX_FEATURE_ERROR = 1e-3
# Logits of at most this many bytes per example stay float32: there is little to save.
_SMALL_LOGITS_BYTES = 4096
# Requirements for float16 logits.
_MIN_LOGITS_AGREEMENT, _MAX_LOSS_ERROR = 0.999, 1e-4
# The default temperature of soft targets, at which their loss is compared.
_TEMPERATURE = 4.0
# Tasks that decide as an output kind does; other logits decide for the top class.
_TASKS = {"values": "regression", "sigmoid": "multilabel"}


class Overflow(Exception):
    """A value is too large for the dtype in which it would be stored."""

    def __init__(self, spec: ArraySpec) -> None:
        super().__init__(f"{spec.name}: a value does not fit into {spec.dtype}")
        self.spec = spec


@dataclass(frozen=True, kw_only=True)
class StorageChoice:
    """The dtypes of stored outputs, and the measurements behind them.

    Args:
        specs: logits and taps, with shapes without the example axis.
        agreement: fraction of decisions that float16 logits preserve; None for values.
        loss_error: relative change of the soft-target loss with float16 logits.
        feature_error: rounding error of each tap, relative to its norm.
    """

    specs: tuple[ArraySpec, ...]
    agreement: float | None
    loss_error: float
    feature_error: Mapping[str, float]

    @property
    def text(self) -> str:
        """A clause for the plan."""
        stored = ", ".join(f"{spec.name} {spec.dtype}" for spec in self.specs)
        decisions = "" if self.agreement is None else f"{self.agreement:.2%} of decisions unchanged, "
        logits = f"with float16 logits {decisions}relative change in loss {self.loss_error:.1e}"
        features = [f"relative rounding error of {name} {error:.1e}" for name, error in self.feature_error.items()]
        return f"{stored}: {'; '.join([logits, *features])}"


def choose_storage(outputs: Mapping[str, np.ndarray], *, output_kind: str) -> StorageChoice:
    """Choose the dtypes in which outputs are stored, based on the outputs for a sample.

    Features are float16, or bfloat16 if a value exceeds 60,000, or if float16 loses more than 0.001 of the norm
    and bfloat16 loses less. Logits are float32, or float16 if those of one example take more than 4 KB and float16
    preserves 99.9% of the decisions and changes the soft-target loss by at most 0.0001, relatively.

    Args:
        outputs: float32 `logits` (n, ..., outputs) and taps (m, ...) of a sample.
        output_kind: `logits`, `sigmoid` or `values`.
    """
    logits = outputs[LOGITS]
    # Clipped, so that the measurements stay finite where float16 would overflow.
    rounded = _round_to(np.clip(logits, -_MAX_FLOAT16, _MAX_FLOAT16), "float16")
    same = measure_decision_agreement(logits, rounded, output_kind=output_kind)
    loss_error = measure_loss_error(logits, rounded, output_kind=output_kind)
    is_accurate = same is not None and same >= _MIN_LOGITS_AGREEMENT and loss_error <= _MAX_LOSS_ERROR
    is_large = logits[:1].nbytes > _SMALL_LOGITS_BYTES
    dtype = "float16" if is_large and is_accurate and _fits_float16(logits) else "float32"
    specs = [ArraySpec(LOGITS, dtype, logits.shape[1:])]
    errors = {}
    for name, values in outputs.items():
        if name != LOGITS:
            dtype, errors[name] = _choose_feature_dtype(values)
            specs.append(ArraySpec(name, dtype, values.shape[1:]))
    return StorageChoice(specs=tuple(specs), agreement=same, loss_error=loss_error, feature_error=errors)


def convert_stored(array: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Convert float32 outputs (n, ...) to the dtype in which they are stored.

    Raises:
        Overflow: a finite value became infinite.
    """
    if spec.dtype == "float32":
        return np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore"):
        converted = array.astype(parse_dtype(spec.dtype))
    lost = ~np.isfinite(converted)
    if lost.any() and bool(np.isfinite(array[lost]).any()):
        raise Overflow(spec)
    return converted


def _choose_feature_dtype(values: np.ndarray) -> tuple[str, float]:
    """Choose the dtype of a tap; also returns its rounding error."""
    bfloat16_error = measure_relative_error(values, _round_to(values, "bfloat16"))
    if not _fits_float16(values):
        return "bfloat16", bfloat16_error
    float16_error = measure_relative_error(values, _round_to(values, "float16"))
    if float16_error > _MAX_FEATURE_ERROR and bfloat16_error < float16_error:
        return "bfloat16", bfloat16_error
    return "float16", float16_error


def _fits_float16(values: np.ndarray) -> bool:
    return bool(np.abs(values).max(initial=0.0) <= _MAX_FLOAT16)


def _round_to(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(parse_dtype(dtype)).astype(np.float32)


def measure_decision_agreement(exact: np.ndarray, other: np.ndarray, *, output_kind: str) -> float | None:
    """Measure the fraction of equal decisions: the top class, or each yes or no; None for values.

    Args:
        exact, other: logits (n, ..., outputs).
        output_kind: `logits`, `sigmoid` or `values`.
    """
    return measure_agreement(exact, other, task=_TASKS.get(output_kind, "classification"))


def measure_largest_change(exact: np.ndarray, other: np.ndarray, *, output_kind: str) -> float:
    """Measure the largest change of a probability; for values, in standard deviations of that output.

    Args:
        exact, other: logits (n, ..., outputs).
        output_kind: `logits`, `sigmoid` or `values`.
    """
    if output_kind == "values":
        spread = exact.reshape(-1, exact.shape[-1]).std(axis=0)
        return float(np.max(np.abs(exact - other) / np.maximum(spread, 1e-12)))
    return float(
        np.max(np.abs(_compute_probabilities(exact, output_kind) - _compute_probabilities(other, output_kind)))
    )


def measure_loss_error(exact: np.ndarray, other: np.ndarray, *, output_kind: str) -> float:
    """Measure the relative change of the soft-target loss when outputs are rounded.

    That is the KL divergence from the exact to the rounded soft targets at temperature 4, relative to the entropy
    of the exact ones; for values, the norm of the difference relative to the norm of the exact values.

    Args:
        exact, other: logits (n, ..., outputs).
        output_kind: `logits`, `sigmoid` or `values`.
    """
    if output_kind == "values":
        return measure_relative_error(exact, other)
    p, q = (_compute_probabilities(np.asarray(z, np.float64) / _TEMPERATURE, output_kind) for z in (exact, other))
    parts = [(p, q), (1 - p, 1 - q)] if output_kind == "sigmoid" else [(p, q)]
    tiny = np.finfo(np.float64).tiny
    divergence = sum(float(np.sum(a * np.log(np.maximum(a, tiny) / np.maximum(b, tiny)))) for a, b in parts)
    entropy = -sum(float(np.sum(a * np.log(np.maximum(a, tiny)))) for a, _ in parts)
    return max(divergence, 0.0) / max(entropy, tiny)


def measure_relative_error(exact: np.ndarray, other: np.ndarray) -> float:
    """Measure the norm of the difference relative to the norm of the exact values."""
    difference = np.linalg.norm((np.asarray(other, np.float32) - exact).ravel().astype(np.float64))
    return float(difference / max(np.linalg.norm(exact.ravel().astype(np.float64)), np.finfo(np.float64).tiny))


def _compute_probabilities(logits: np.ndarray, output_kind: str) -> np.ndarray:
    exact = np.asarray(logits, np.float64)
    if output_kind == "sigmoid":
        # The same curve as 1 / (1 + exp(-x)), without its overflow.
        return 0.5 + 0.5 * np.tanh(exact / 2)
    raised = np.exp(exact - exact.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
