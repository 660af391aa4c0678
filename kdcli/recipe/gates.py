"""Gates: bounds on measured figures, as an option or a recipe writes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from kdcli.errors import UsageError, did_you_mean
from kdcli.spec import Spec

# Figures that are shares: a bound such as 97.5 is a slip.
FRACTIONS = (
    "accuracy",
    "balanced_accuracy",
    "top5",
    "macro_f1",
    "micro_f1",
    "mean_average_precision",
    "mean_iou",
    "agreement",
    "ece",
    "accuracy_drop",
    "gain",
)
OTHERS = (
    "loss",
    "mae",
    "rmse",
    "r2",
    "psnr",
    "size_mb",
    "parameters",
    "flops",
    "latency_ms",
    "latency_ratio",
    "examples_per_second",
    "max_abs_diff",
)
METRICS = (*FRACTIONS, *OTHERS)
# Figures that change with the machine's mood.
TIMED = ("latency_ms", "latency_ratio", "examples_per_second")
# What only makes sense beside a teacher.
OF_TEACHER = ("accuracy_drop", "agreement", "latency_ratio")

_BOUND = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*")
_GATE = re.compile(r"\s*([A-Za-z]\w*)\s*(.*)")
# An inclusive bound is not missed by the rounding of a difference.
_SLACK = 1e-9


@dataclass(frozen=True)
class Gate:
    """A figure and the bound that it must keep.

    Args:
        metric: one of `METRICS`.
        sign: `>=`, `<=` (inclusive), `>` or `<`.
        bound: a fraction for shares, never percent.
    """

    metric: str
    sign: str
    bound: float

    @property
    def text(self) -> str:
        """The bound as a recipe writes it: `>= 0.97`."""
        return f"{self.sign} {self.bound:.10g}"

    def holds(self, value: float) -> bool:
        """Whether a figure keeps the bound; NaN never does."""
        slack = _SLACK * max(1.0, abs(self.bound)) * (1 if len(self.sign) == 2 else -1)
        return value >= self.bound - slack if self.sign[0] == ">" else value <= self.bound + slack


def parse_gate(text: str) -> Gate:
    """`accuracy>=0.97` as a gate.

    Raises:
        UsageError: an unknown figure, no bound, or percent.
    """
    match = _GATE.fullmatch(text)
    name, rest = (match[1], match[2]) if match else (text, "")
    if name not in METRICS:
        raise UsageError(
            f"--gate {text!r}: unknown figure {name!r}; {did_you_mean(name, METRICS)}known: {', '.join(METRICS)}",
            hint="--gate 'accuracy>=0.97'",
        )
    return make_gate(name, rest, where=f"--gate {text!r}")


def make_gate(metric: str, bound: Any, *, where: str) -> Gate:
    """A gate from a figure and a text such as `>= 0.97`.

    Raises:
        UsageError: no such text, or a bound that the figure cannot have.
    """
    match = _BOUND.fullmatch(bound) if isinstance(bound, str) else None
    number = match[2] if match else ""
    if metric in FRACTIONS:
        number = number.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if match is None or not math.isfinite(value):
        raise UsageError(
            f"{where}: expected a bound such as '>= 0.97', got {str(bound)!r}", hint=f"--gate '{metric}>=0.97'"
        )
    if metric in FRACTIONS and (abs(value) > 1 or match[2].endswith("%")):
        raise UsageError(
            f"{where}: a fraction, not percent: write {value / 100:.10g}",
            hint=f"--gate '{metric}{match[1]}{value / 100:.10g}'",
        )
    return Gate(metric, match[1], value)


def _checked(value: Any, info: ValidationInfo) -> Any:
    try:
        make_gate(str(info.field_name), value, where="gate")
    except UsageError as error:
        raise ValueError(error.message.removeprefix("gate: ")) from None
    return value


Bound = Annotated[str | None, BeforeValidator(_checked)]


class GatesSection(Spec):
    """Bounds such as `accuracy: '>= 0.975'`; a command ends with exit code 7 where one fails.

    Args:
        accuracy, balanced_accuracy, top5, macro_f1, micro_f1, mean_average_precision, mean_iou: on the test split.
        agreement, accuracy_drop: with and against the teacher.
        gain: over the same student alone; checked by kd compare.
        ece, loss, mae, rmse, r2: on the test split.
        psnr: of images as targets, in dB; the mean over them.
        size_mb, parameters, flops: of the model; 10^6 bytes.
        latency_ms, latency_ratio, examples_per_second: the median, against the teacher, at the best batch.
        max_abs_diff: of an exported file from its model.
    """

    accuracy: Bound = None
    balanced_accuracy: Bound = None
    top5: Bound = None
    macro_f1: Bound = None
    micro_f1: Bound = None
    mean_average_precision: Bound = None
    mean_iou: Bound = None
    agreement: Bound = None
    ece: Bound = None
    accuracy_drop: Bound = None
    gain: Bound = None
    loss: Bound = None
    mae: Bound = None
    rmse: Bound = None
    r2: Bound = None
    psnr: Bound = None
    size_mb: Bound = None
    parameters: Bound = None
    flops: Bound = None
    latency_ms: Bound = None
    latency_ratio: Bound = None
    examples_per_second: Bound = None
    max_abs_diff: Bound = None

    def gates(self) -> tuple[Gate, ...]:
        """Every bound that is given."""
        given = {metric: getattr(self, metric) for metric in METRICS}
        return tuple(make_gate(name, text, where="gates") for name, text in given.items() if text is not None)
