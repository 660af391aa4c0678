"""Gates: bounds on metrics in options and recipes, and the table of all metrics."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, create_model

from kdcli.errors import UsageError, did_you_mean
from kdcli.spec import Spec

_MEASURED = ("distill", "evaluate", "compare", "export", "shrink", "quantize")
# In kd compress, bounds on the cost are targets, not gates.
_EVERYWHERE = (*_MEASURED, "compress")
# kd quantize compares its file with the student in float32.
_WITH_TEACHER = tuple(command for command in _EVERYWHERE if command != "quantize")
_TRAINED = ("distill", "evaluate", "compare", "shrink", "compress", "quantize")
_DECIDED = ("classification", "segmentation", "multilabel")


@dataclass(frozen=True)
class Metric:
    """A metric that a gate can bound.

    Args:
        commands: commands that measure it; the first one is suggested if another command lacks the metric.
        tasks: tasks that have it; empty for metrics of every model.
        labelled: whether it needs labels.
        fraction: whether it lies between -1 and 1, so that a bound such as 97.5 is a mistake.
        of_teacher: whether it is a comparison with a teacher.
        timed: whether it depends on the load of the machine.
    """

    commands: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    labelled: bool = True
    fraction: bool = False
    of_teacher: bool = False
    timed: bool = False


# All metrics of gates. `size_mb` of a trained model is the size of its file before export; kd distill checks the
# size of the weights, before training.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(_EVERYWHERE, _DECIDED, fraction=True),
    "balanced_accuracy": Metric(_TRAINED, ("classification",), fraction=True),
    "top5": Metric(_TRAINED, ("classification",), fraction=True),
    "macro_f1": Metric(_TRAINED, ("classification", "multilabel"), fraction=True),
    "micro_f1": Metric(_TRAINED, ("multilabel",), fraction=True),
    "mean_average_precision": Metric(_TRAINED, ("multilabel",), fraction=True),
    "mean_iou": Metric(_TRAINED, ("segmentation",), fraction=True),
    "agreement": Metric(_WITH_TEACHER, _DECIDED, labelled=False, of_teacher=True, fraction=True),
    "ece": Metric(_TRAINED, ("classification",), fraction=True),
    "accuracy_drop": Metric(_WITH_TEACHER, _DECIDED, of_teacher=True, fraction=True),
    "gain": Metric(("compare",), _DECIDED, fraction=True),
    "export_drop": Metric(("export", "quantize"), _DECIDED, labelled=False, fraction=True),
    "export_agreement": Metric(("export",), _DECIDED, labelled=False, fraction=True),
    "loss": Metric(_TRAINED, (*_DECIDED, "regression")),
    "mae": Metric(_TRAINED, ("regression",)),
    "rmse": Metric(_TRAINED, ("regression",)),
    "r2": Metric(_TRAINED, ("regression",)),
    "psnr": Metric(_TRAINED, ("regression",)),
    "size_mb": Metric(_MEASURED),
    "parameters": Metric(tuple(command for command in _MEASURED if command not in ("export", "quantize"))),
    "flops": Metric(("evaluate", "compare", "shrink")),
    "latency_ms": Metric(("evaluate", "compare", "export"), timed=True),
    "latency_ratio": Metric(("evaluate", "compare", "export"), of_teacher=True, timed=True),
    "examples_per_second": Metric(("evaluate", "compare"), timed=True),
    "max_abs_diff": Metric(("export",)),
    "ram_kb": Metric(("export",)),
    "flash_kb": Metric(("export",)),
    "unexplained": Metric(("export",), ("regression",), labelled=False),
}

_BOUND = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*")
_GATE = re.compile(r"\s*([A-Za-z]\w*)\s*(.*)")
# Relative tolerance, so that the rounding of a difference never misses an inclusive bound.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Gate:
    """A bound on a metric.

    Args:
        metric: a key of `METRICS`.
        sign: `>=`, `<=` (inclusive), `>` or `<`.
        bound: the value; a fraction, never a percentage.
    """

    metric: str
    sign: str
    bound: float

    @property
    def text(self) -> str:
        """The bound as a recipe writes it: `>= 0.97`."""
        return f"{self.sign} {self.bound:.10g}"

    def holds(self, value: float) -> bool:
        """Whether a value meets the bound; NaN never does."""
        tolerance = _TOLERANCE * max(1.0, abs(self.bound)) * (1 if len(self.sign) == 2 else -1)
        return value >= self.bound - tolerance if self.sign[0] == ">" else value <= self.bound + tolerance


def parse_gate(text: str) -> Gate:
    """Parse a gate such as `accuracy>=0.97`.

    Raises:
        UsageError: the metric is unknown, or the bound is missing or a percentage.
    """
    match = _GATE.fullmatch(text)
    name, rest = (match[1], match[2]) if match else (text, "")
    if name not in METRICS:
        guess = did_you_mean(name, tuple(METRICS))
        raise UsageError(
            f"--gate {text!r}: unknown metric {name!r}; {guess}known: {', '.join(METRICS)}",
            hint="--gate 'accuracy>=0.97'",
        )
    return make_gate(name, rest, where=f"--gate {text!r}")


def make_gate(metric: str, bound: Any, *, where: str) -> Gate:
    """Make a gate from a metric and a bound such as `>= 0.97`.

    Args:
        metric: a key of `METRICS`.
        bound: the text of the bound.
        where: the option or setting, for messages.

    Raises:
        UsageError: the text is not a bound, or the metric cannot have that value.
    """
    match = _BOUND.fullmatch(bound) if isinstance(bound, str) else None
    number = match[2] if match else ""
    if METRICS[metric].fraction:
        number = number.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if match is None or not math.isfinite(value):
        raise UsageError(
            f"{where}: expected a bound such as '>= 0.97', got {str(bound)!r}", hint=f"--gate '{metric}>=0.97'"
        )
    if METRICS[metric].fraction and (abs(value) > 1 or match[2].endswith("%")):
        raise UsageError(
            f"{where}: must be a fraction, not a percentage: write {value / 100:.10g}",
            hint=f"--gate '{metric}{match[1]}{value / 100:.10g}'",
        )
    return Gate(metric, match[1], value)


def _check_bound(value: Any, info: ValidationInfo) -> Any:
    try:
        make_gate(str(info.field_name), value, where="gate")
    except UsageError as error:
        raise ValueError(error.message.removeprefix("gate: ")) from None
    return value


Bound = Annotated[str | None, BeforeValidator(_check_bound)]


class Bounds(Spec):
    """Bounds such as `accuracy: '>= 0.975'`; a command exits with code 7 if one fails.

    Args:
        accuracy, balanced_accuracy, top5, macro_f1, micro_f1, mean_average_precision, mean_iou: on the test split.
        agreement, accuracy_drop: compared with the teacher.
        gain: over the baseline, the same student trained without the teacher; checked by kd compare.
        export_drop, export_agreement: of an exported file, compared with its Keras model.
        ece, loss, mae, rmse, r2: on the test split.
        psnr: mean over images as targets, in dB.
        size_mb, parameters, flops: of the model; 1 MB is 10^6 bytes.
        latency_ms, latency_ratio, examples_per_second: the median, the ratio to the teacher, the rate at the best
            batch size.
        max_abs_diff, unexplained: difference between an exported file and its model; the second is a fraction of
            the variance.
    """

    def gates(self) -> tuple[Gate, ...]:
        """All gates that are set."""
        bounds = {metric: getattr(self, metric, None) for metric in METRICS}
        return tuple(make_gate(name, text, where="gates") for name, text in bounds.items() if text is not None)


if TYPE_CHECKING:
    GatesSection = Bounds
else:
    # One field for each metric.
    GatesSection = create_model(
        "GatesSection", __base__=Bounds, __doc__=Bounds.__doc__, **dict.fromkeys(METRICS, (Bound, None))
    )
