"""In which types answers are kept: half the bytes where a loss does not notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdcli.cache.layout import ArraySpec
from kdcli.models.prediction import LOGITS
from kdcli.runs.packed_file import parse_dtype

# float16 ends at 65,504; answers to other examples may be larger than those of the sample.
LARGEST = 60_000
# What rounding may change of features, as a share of their norm.
FEATURE_ERROR = 1e-3
# Logits of an example up to so many bytes stay float32: there is little to save.
SMALL = 4096
# What narrower logits must keep.
LEAST_DECISION_AGREEMENT, LOSS_ERROR = 0.999, 1e-4


class Overflow(Exception):
    """An answer is too large for the type in which it is kept."""

    def __init__(self, spec: ArraySpec) -> None:
        super().__init__(f"{spec.name}: a value does not fit into {spec.dtype}")
        self.spec = spec


@dataclass(frozen=True)
class StorageChoice:
    """The types of kept answers, and what float16 would do to the logits.

    Args:
        specs: of the logits and of each tap, without the axis of the examples.
        agreement: the share of decisions that float16 logits keep; None for values.
        loss_error: what float16 logits change of the soft targets' loss, as a share of it.
        feature_error: tap → the norm of what rounding changes, as a share.
    """

    specs: tuple[ArraySpec, ...]
    agreement: float | None
    loss_error: float
    feature_error: Mapping[str, float]

    @property
    def text(self) -> str:
        """One sentence for the plan."""
        kept = ", ".join(f"{spec.name} {spec.dtype}" for spec in self.specs)
        same = "" if self.agreement is None else f"{self.agreement:.4f} of the decisions stay and "
        error = f"the loss changes by {self.loss_error:.1e} of it"
        features = [f"{name} changes by {error:.1e} of its norm" for name, error in self.feature_error.items()]
        return "; ".join([f"{kept}: with logits in float16 {same}{error}", *features])


def choose_storage(answers: Mapping[str, np.ndarray], *, output_kind: str) -> StorageChoice:
    """The types in which answers are kept, from some of them.

    Features are float16, or bfloat16 where a value is above 60,000 or float16 loses more than 0.001 of the norm
    and bfloat16 less. Logits are float32, or float16 where those of one example take more than 4 KB and float16
    keeps 99.9 % of the decisions and changes the soft targets' loss by 0.0001 of it at most.

    Args:
        answers: float32 `logits` (n, ..., outputs) and taps (m, ...) of a sample.
        output_kind: `logits`, `sigmoid` or `values`.
    """
    logits = answers[LOGITS]
    # What would be infinite counts as the largest number, so that the figures stay figures.
    narrow = _there_and_back(np.clip(logits, -LARGEST, LARGEST), "float16")
    same, error = (
        agreement(logits, narrow, output_kind=output_kind),
        soft_target_error(logits, narrow, output_kind=output_kind),
    )
    keeps = same is not None and same >= LEAST_DECISION_AGREEMENT and error <= LOSS_ERROR and _fits(logits)
    large = logits[:1].nbytes > SMALL
    specs = [ArraySpec(LOGITS, "float16" if large and keeps else "float32", logits.shape[1:])]
    errors = {}
    for name, values in answers.items():
        if name != LOGITS:
            dtype, errors[name] = _of_features(values)
            specs.append(ArraySpec(name, dtype, values.shape[1:]))
    return StorageChoice(tuple(specs), same, error, errors)


def convert_stored(array: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Float32 answers (n, ...) in the type in which they are kept.

    Raises:
        Overflow: a finite value became infinite.
    """
    if spec.dtype == "float32":
        return np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore"):
        narrow = array.astype(parse_dtype(spec.dtype))
    lost = ~np.isfinite(narrow)
    if lost.any() and bool(np.isfinite(array[lost]).any()):
        raise Overflow(spec)
    return narrow


def _of_features(values: np.ndarray) -> tuple[str, float]:
    """The type of a tap, and what it loses."""
    wide = relative_error(values, _there_and_back(values, "bfloat16"))
    if not _fits(values):
        return "bfloat16", wide
    narrow = relative_error(values, _there_and_back(values, "float16"))
    return ("bfloat16", wide) if narrow > FEATURE_ERROR and wide < narrow else ("float16", narrow)


def _fits(values: np.ndarray) -> bool:
    return bool(np.abs(values).max(initial=0.0) <= LARGEST)


def _there_and_back(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(parse_dtype(dtype)).astype(np.float32)


# Soft targets are compared at the temperature that is used for them where nothing else is said.
TEMPERATURE = 4.0


def agreement(exact: np.ndarray, other: np.ndarray, *, output_kind: str) -> float | None:
    """The share of decisions that are the same: the best class, or each yes and no; None for values.

    Args:
        exact, other: logits (n, ..., outputs).
        output_kind: `logits`, `sigmoid` or `values`.
    """
    if output_kind == "values":
        return None
    if output_kind == "sigmoid":
        return float(np.mean((exact > 0) == (other > 0)))
    return float(np.mean(exact.argmax(-1) == other.argmax(-1)))


def largest_change(exact: np.ndarray, other: np.ndarray, *, output_kind: str) -> float:
    """The largest change of a probability; of a value, in standard deviations of that output.

    Args:
        exact, other: logits (n, ..., outputs).
        output_kind: `logits`, `sigmoid` or `values`.
    """
    if output_kind == "values":
        spread = exact.reshape(-1, exact.shape[-1]).std(axis=0)
        return float(np.max(np.abs(exact - other) / np.maximum(spread, 1e-12)))
    return float(np.max(np.abs(_probabilities(exact, output_kind) - _probabilities(other, output_kind))))


def soft_target_error(exact: np.ndarray, other: np.ndarray, *, output_kind: str) -> float:
    """What answers in a narrower type do to the loss of soft targets, as a share of it.

    The divergence from the exact soft targets to the narrower ones at temperature 4, relative to the entropy of
    the exact ones; for values the size of the difference relative to that of the values.

    Args:
        exact, other: logits (n, ..., outputs).
        output_kind: `logits`, `sigmoid` or `values`.
    """
    if output_kind == "values":
        return relative_error(exact, other)
    p, q = (_probabilities(np.asarray(z, np.float64) / TEMPERATURE, output_kind) for z in (exact, other))
    parts = [(p, q), (1 - p, 1 - q)] if output_kind == "sigmoid" else [(p, q)]
    tiny = np.finfo(np.float64).tiny
    divergence = sum(float(np.sum(a * np.log(np.maximum(a, tiny) / np.maximum(b, tiny)))) for a, b in parts)
    entropy = -sum(float(np.sum(a * np.log(np.maximum(a, tiny)))) for a, _ in parts)
    return max(divergence, 0.0) / max(entropy, tiny)


def relative_error(exact: np.ndarray, other: np.ndarray) -> float:
    """The norm of the difference relative to the norm of what is exact."""
    difference = np.linalg.norm((np.asarray(other, np.float32) - exact).ravel().astype(np.float64))
    return float(difference / max(np.linalg.norm(exact.ravel().astype(np.float64)), np.finfo(np.float64).tiny))


def _probabilities(logits: np.ndarray, output_kind: str) -> np.ndarray:
    exact = np.asarray(logits, np.float64)
    if output_kind == "sigmoid":
        # exp of a positive number could overflow: tanh is the same curve.
        return 0.5 + 0.5 * np.tanh(exact / 2)
    raised = np.exp(exact - exact.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
