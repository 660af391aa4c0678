"""Gates: bounds on metrics, as an option or a recipe writes them, and the table of all metrics."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, create_model

from kdcli.errors import UsageError, did_you_mean
from kdcli.spec import Spec

_EVERYWHERE = ("distill", "evaluate", "compare", "export")
_TRAINED = ("distill", "evaluate", "compare")
_DECIDED = ("classification", "segmentation", "multilabel")


@dataclass(frozen=True)
class Metric:
    """What a gate can bound.

    Args:
        commands: that measure it; the first is named to who asks another command for it.
        tasks: that have it; empty for what every model has.
        labelled: whether it needs labels.
        fraction: whether it lies between -1 and 1, so that a bound such as 97.5 is a slip.
        of_teacher: whether it compares with a teacher.
        timed: whether it changes with the load of the machine.
    """

    commands: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    labelled: bool = True
    fraction: bool = False
    of_teacher: bool = False
    timed: bool = False


# Every metric that a gate knows. `size_mb` of a trained model is the file's before it is exported: kd distill
# checks the weights alone, before training.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(_EVERYWHERE, _DECIDED, fraction=True),
    "balanced_accuracy": Metric(_TRAINED, ("classification",), fraction=True),
    "top5": Metric(_TRAINED, ("classification",), fraction=True),
    "macro_f1": Metric(_TRAINED, ("classification", "multilabel"), fraction=True),
    "micro_f1": Metric(_TRAINED, ("multilabel",), fraction=True),
    "mean_average_precision": Metric(_TRAINED, ("multilabel",), fraction=True),
    "mean_iou": Metric(_TRAINED, ("segmentation",), fraction=True),
    "agreement": Metric(_EVERYWHERE, _DECIDED, labelled=False, of_teacher=True, fraction=True),
    "ece": Metric(_TRAINED, ("classification",), fraction=True),
    "accuracy_drop": Metric(_EVERYWHERE, _DECIDED, of_teacher=True, fraction=True),
    "gain": Metric(("compare",), _DECIDED, fraction=True),
    "export_drop": Metric(("export",), _DECIDED, labelled=False, fraction=True),
    "export_agreement": Metric(("export",), _DECIDED, labelled=False, fraction=True),
    "loss": Metric(_TRAINED, (*_DECIDED, "regression")),
    "mae": Metric(_TRAINED, ("regression",)),
    "rmse": Metric(_TRAINED, ("regression",)),
    "r2": Metric(_TRAINED, ("regression",)),
    "psnr": Metric(_TRAINED, ("regression",)),
    "size_mb": Metric(_EVERYWHERE),
    "parameters": Metric(_TRAINED),
    "flops": Metric(("evaluate", "compare")),
    "latency_ms": Metric(("evaluate", "compare", "export"), timed=True),
    "latency_ratio": Metric(("evaluate", "compare", "export"), of_teacher=True, timed=True),
    "examples_per_second": Metric(("evaluate", "compare"), timed=True),
    "max_abs_diff": Metric(("export",)),
    "unexplained": Metric(("export",), ("regression",), labelled=False),
}

_BOUND = re.compile(r"\s*(>=|<=|>|<)\s*(\S+)\s*")
_GATE = re.compile(r"\s*([A-Za-z]\w*)\s*(.*)")
# An inclusive bound is not missed by the rounding of a difference.
_SLACK = 1e-9


@dataclass(frozen=True)
class Gate:
    """A figure and the bound that it must keep.

    Args:
        metric: of `METRICS`.
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
        guess = did_you_mean(name, tuple(METRICS))
        raise UsageError(
            f"--gate {text!r}: unknown figure {name!r}; {guess}known: {', '.join(METRICS)}",
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


class Bounds(Spec):
    """Bounds such as `accuracy: '>= 0.975'`; a command ends with exit code 7 where one fails.

    Args:
        accuracy, balanced_accuracy, top5, macro_f1, micro_f1, mean_average_precision, mean_iou: on the test split.
        agreement, accuracy_drop: with and against the teacher.
        gain: over the same student alone; checked by kd compare.
        export_drop, export_agreement: of an exported file, against and with its own Keras model.
        ece, loss, mae, rmse, r2: on the test split.
        psnr: of images as targets, in dB; the mean over them.
        size_mb, parameters, flops: of the model; 10^6 bytes.
        latency_ms, latency_ratio, examples_per_second: the median, against the teacher, at the best batch.
        max_abs_diff, unexplained: of an exported file from its model; the second is a share of the variance.
    """

    def gates(self) -> tuple[Gate, ...]:
        """Every bound that is given."""
        given = {metric: getattr(self, metric, None) for metric in METRICS}
        return tuple(make_gate(name, text, where="gates") for name, text in given.items() if text is not None)


if TYPE_CHECKING:
    GatesSection = Bounds
else:
    # One field for each row of the table.
    GatesSection = create_model(
        "GatesSection", __base__=Bounds, __doc__=Bounds.__doc__, **dict.fromkeys(METRICS, (Bound, None))
    )
