"""Targets and options of `kd compress`, and the request that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.evaluation.gates import choose_gates
from kdcli.evaluation.latency.command import check_latency_command
from kdcli.events import Note
from kdcli.exports.format_choice import choose_formats
from kdcli.extras import require_extra
from kdcli.recipe.gates import METRICS, Gate, parse_gate
from kdcli.recipe.model_sections import StudentSection
from kdcli.setup.request import Request, RunOptions
from kdcli.spec import ExportFormat

# The metrics that a search can hold, by task; the first is the default.
METRICS_OF_TASK: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "macro_f1", "agreement"),
    "multilabel": ("mean_average_precision", "macro_f1", "micro_f1", "accuracy", "agreement"),
    "segmentation": ("mean_iou", "accuracy", "agreement"),
    "regression": ("mae", "rmse", "r2", "psnr"),
}
# Quantizations of a format from the smallest file to the largest.
_LADDER = ("int8", "dynamic", "float16", "none")
# The recipe where none is named, and the bound on the drop.
SEARCH_RECIPE = "compress"
DEFAULT_DROP = 0.01
BUDGET_SECONDS = 20 * 60.0


class CompressOptions(RunOptions, total=False):
    """Options of `kdcli.compress` in addition to `RunOptions`.

    Args:
        max_size_mb: largest file that ships, in 10^6 bytes.
        max_latency_ms: largest median latency of that file on this machine, at batch 1.
        max_latency_ratio: largest ratio of that latency to the teacher's in the same runtime.
        max_mflops: maximum MFLOPs for one example; a multiply-add counts as 2.
        max_ram_kb: largest tensor arena of a `micro` file, in 1,024 bytes.
        max_flash_kb: largest model data of a `micro` file, in 1,024 bytes.
        max_drop: largest drop of the metric from the teacher. Without any target or gate 0.01, or 5% of the
            teacher's value for mae, rmse and psnr; otherwise unbounded.
        metric: that metric; by default that of the task: accuracy, mean_average_precision, mean_iou, mae, or
            agreement without labels.
        format: format of the file; `litert` by default.
        latency_command: command that prints the milliseconds of a file, with `{file}` for its path; it replaces
            timing on this machine.
        budget: seconds that the search plans for, from the teacher's outputs to the measured file; 20 minutes by
            default.
        repeats: number of seeds with which the chosen candidate is trained to the end.
    """

    max_size_mb: float | None
    max_latency_ms: float | None
    max_latency_ratio: float | None
    max_mflops: float | None
    max_ram_kb: float | None
    max_flash_kb: float | None
    max_drop: float | None
    metric: str | None
    format: str
    latency_command: str | None
    budget: float | None
    repeats: int


@dataclass(frozen=True, kw_only=True)
class CompressTargets:
    """Bounds that the file must meet; None for those that are not set.

    Args:
        max_size_mb: bytes of the file, in 10^6.
        max_latency_ms: median latency at batch 1.
        max_latency_ratio: its ratio to the teacher's.
        max_mflops: millions of floating point operations for one example.
        max_ram_kb, max_flash_kb: tensor arena and model data of a `micro` file, in 1,024 bytes.
        max_drop: of the metric, against the teacher.
    """

    max_size_mb: float | None = None
    max_latency_ms: float | None = None
    max_latency_ratio: float | None = None
    max_mflops: float | None = None
    max_ram_kb: float | None = None
    max_flash_kb: float | None = None
    max_drop: float | None = None

    @property
    def on_cost(self) -> bool:
        """Whether size, latency or work has a bound; without one, the smallest file is searched for."""
        return any(value is not None for name, value in vars(self).items() if name != "max_drop")

    @property
    def largest_mb(self) -> float | None:
        """The bound on the file in 10^6 bytes, whichever option sets it."""
        flash = None if self.max_flash_kb is None else self.max_flash_kb * 1024 / 1e6
        return min((one for one in (self.max_size_mb, flash) if one is not None), default=None)

    @property
    def timed(self) -> bool:
        """Whether latency has a bound."""
        return self.max_latency_ms is not None or self.max_latency_ratio is not None

    def to_json(self) -> dict[str, float]:
        """The bounds that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class CompressRequest:
    """What `kd compress` should do.

    Args:
        request: recipe, teacher and data.
        targets: bounds that the file must meet.
        metric: of the quality; None takes that of the task.
        gates: further bounds on the quality of the file.
        strict: whether the drop must be shown by its interval, not only measured.
        forms: the format in its quantizations, from the smallest file to the largest.
        students: files and runs that are candidates too.
        latency_command: measures the latency of a file; None for this machine.
        budget: seconds for everything; None for the default.
        repeats: number of seeds of the chosen candidate.
    """

    request: Request
    targets: CompressTargets
    metric: str | None
    gates: tuple[Gate, ...]
    strict: bool
    forms: tuple[ExportFormat, ...]
    students: tuple[Path, ...]
    latency_command: str | None
    budget: float | None
    repeats: int

    @property
    def smallest_form(self) -> ExportFormat:
        """The format in the quantization with the smallest file."""
        return self.forms[0]

    def describe(self) -> dict[str, Any]:
        """The settings that must match to resume a search."""
        recipe = self.request.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
        recipe["data"].pop("source", None)
        recipe.pop("teacher", None)
        return {
            "targets": self.targets.to_json(),
            "metric": self.metric,
            "gates": [f"{gate.metric} {gate.text}" for gate in self.gates],
            "strict": self.strict,
            "format": self.smallest_form.kind,
            "students": [path.name for path in self.students],
            "latency_command": self.latency_command,
            "budget": self.budget,
            "repeats": self.repeats,
            "recipe": recipe,
        }


def split_options(options: CompressOptions) -> tuple[dict[str, Any], RunOptions]:
    """Separate the options of the search from those of a training.

    Raises:
        TypeError: an option is unknown.
    """
    unknown = sorted(options.keys() - CompressOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"unexpected option: {', '.join(unknown)}")
    run: RunOptions = {}
    own: dict[str, Any] = {}
    for name, value in options.items():
        if name in RunOptions.__annotations__:
            run[name] = value  # type: ignore[literal-required]
        else:
            own[name] = value
    return own, run


def make_compress_request(
    request: Request,
    options: dict[str, Any],
    *,
    students: Sequence[str | Path],
    gates: Sequence[str | Gate],
    strict: bool,
) -> CompressRequest:
    """Check the targets and the options.

    Raises:
        UsageError: an invalid value, or targets that contradict each other.
    """
    requested = [parse_gate(gate) if isinstance(gate, str) else gate for gate in gates]
    _refuse_cost_gates(requested)
    _refuse_student_settings(request)
    section, on_event = request.recipe.gates, request.context.on_event
    parsed = list(choose_gates("compress", requested, section, on_event=on_event))
    targets = CompressTargets(**{name: options.get(name) for name in CompressTargets.__annotations__})
    metric = options.get("metric")
    parsed, targets, metric = _merge_drop(parsed, targets, metric)
    _check_targets(targets, metric)
    if request.recipe.train.devices == "workers":
        raise UsageError(
            "train.devices=workers: kd compress does not support it (expected auto or one)",
            hint="start several processes with the same --out --resume and --devices auto: they share its runs",
        )
    if request.recipe.train.quantize is not None:
        raise UsageError(
            "train.quantize has no effect: kd compress decides itself whether to train for 8 bits",
            hint="--set train.quantize=null",
        )
    if request.recipe.stages:
        raise UsageError(
            f"stages: kd compress does not support them (got {len(request.recipe.stages)})",
            hint="use a recipe without stages",
        )
    repeats, budget = options.get("repeats", 1), options.get("budget")
    if repeats < 1:
        raise UsageError(f"--repeats must be 1 or more (got {repeats})", hint="--repeats 3")
    if budget is not None and not budget > 0:
        raise UsageError(f"--budget must be above 0 (got {budget:g})", hint="--budget 30m")
    command = options.get("latency_command")
    if command is not None:
        check_latency_command(command)
    forms = _choose_forms(options.get("format", "litert"))
    _check_device(targets, forms[0], command)
    return CompressRequest(
        request=request,
        targets=targets,
        metric=metric,
        gates=tuple(parsed),
        strict=strict,
        forms=forms,
        students=tuple(Path(student) for student in students),
        latency_command=command,
        budget=budget,
        repeats=repeats,
    )


def _check_device(targets: CompressTargets, form: ExportFormat, command: str | None) -> None:
    """Refuse targets that cannot be measured for a format.

    Raises:
        UsageError: naming the option.
    """
    for name in ("max_ram_kb", "max_flash_kb"):
        if getattr(targets, name) is not None and form.kind != "micro":
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} applies to --format micro, got {form.kind}", hint=f"--format micro {option} N"
            )
    if targets.timed and not form.is_timed and command is None:
        raise UsageError(
            f"--format {form.kind}: its latency is not that of this machine",
            hint="--latency-command './on_device.sh {file}' measures it",
        )


def _choose_forms(kind: str) -> tuple[ExportFormat, ...]:
    (form,) = choose_formats([kind])
    if form.extra is not None:
        require_extra(form.extra, subject=f"--format {form.kind}")
    return choose_formats([kind], quantize=_LADDER) if form.variant is not None else (form,)


def _merge_drop(
    gates: list[Gate], targets: CompressTargets, metric: str | None
) -> tuple[list[Gate], CompressTargets, str | None]:
    """Take `accuracy_drop` from the gates: it is the target `max_drop` on the accuracy.

    Raises:
        UsageError: two different bounds, or another metric.
    """
    drops = [gate.bound for gate in gates if gate.metric == "accuracy_drop"]
    others = [gate for gate in gates if gate.metric != "accuracy_drop"]
    if not drops:
        return others, targets, metric
    if metric not in (None, "accuracy"):
        raise UsageError(
            f"--max-accuracy-drop bounds the accuracy, but --metric is {metric}",
            hint=f"--metric {metric} --max-drop {drops[0]:g}",
        )
    bounds = {*drops, *([targets.max_drop] if targets.max_drop is not None else [])}
    if len(bounds) > 1:
        raise UsageError(
            f"--max-drop and --max-accuracy-drop are the same target, with {len(bounds)} different bounds",
            hint=f"--max-accuracy-drop {min(bounds):g}",
        )
    merged = CompressTargets(**{**vars(targets), "max_drop": drops[0]})
    return others, merged, "accuracy"


def check_fraction(drop: float | None, metric: str) -> None:
    """Refuse a drop in percent.

    Raises:
        UsageError: the metric is a fraction, and the drop is 1 or more.
    """
    if drop is not None and drop >= 1 and METRICS[metric].fraction:
        raise UsageError(
            f"--max-drop must be a fraction, not a percentage: write {drop / 100:.10g}",
            hint=f"--max-drop {drop / 100:.10g}",
        )


def _check_targets(targets: CompressTargets, metric: str | None) -> None:
    known = sorted({name for names in METRICS_OF_TASK.values() for name in names})
    if metric is not None and metric not in known:
        raise UsageError(f"--metric must be one of {', '.join(known)} (got {metric!r})", hint="--metric accuracy")
    for name, value in targets.to_json().items():
        option = f"--{name.replace('_', '-')}"
        if name != "max_drop" and not value > 0:
            raise UsageError(f"{option} must be above 0 (got {value:g})")
        if name == "max_drop" and value < 0:
            raise UsageError(f"{option} must be 0 or more (got {value:g})", hint=f"{option} {-value:g}")
    if metric is not None:
        check_fraction(targets.max_drop, metric)


def _refuse_student_settings(request: Request) -> None:
    """Refuse options that set the student, which the search makes.

    Raises:
        UsageError: naming the option.
    """
    option = next((one for path, one in request.origins.overrides.items() if path[:1] == ("student",)), None)
    if option is not None:
        raise UsageError(
            f"{option} has no effect: kd compress makes the students", hint="--student FILE adds a candidate"
        )
    if request.recipe.student != StudentSection():
        request.context.on_event(Note("the recipe's student is not used: kd compress makes the students"))


def _refuse_cost_gates(gates: Sequence[Gate]) -> None:
    """Refuse gates on the cost of the file, for which there are targets.

    Raises:
        UsageError: naming the target.
    """
    for gate in gates:
        if gate.metric in ("size_mb", "latency_ms", "latency_ratio", "flops", "parameters"):
            name = {"flops": "mflops", "parameters": "size_mb"}.get(gate.metric, gate.metric)
            raise UsageError(
                f"gate {gate.metric}: the cost of the file is a target of kd compress, not a gate",
                hint=f"--max-{name.replace('_', '-')} N",
            )
