"""Options of `kd shrink`, and the request that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.artifacts.student_costs import MEASURE_AS, ShrinkTargets, choose_measured_format
from kdcli.errors import UsageError
from kdcli.evaluation.latency.command import check_latency_command
from kdcli.extras import require_extra
from kdcli.models.files.format import resolve_model_file
from kdcli.recipe.gates import Gate
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.named_models import check_limits, request_for_models
from kdcli.setup.request import RecipeLike, RecipeOptions, Request
from kdcli.spec import ExportFormat
from kdcli.zoo.shrunk import MEASURED_IMPORTANCES, Shrunk


class ShrinkOptions(RecipeOptions, total=False):
    """Options of `kdcli.shrink` in addition to `RecipeOptions`.

    Args:
        keep: fraction of the channels that stays, in (0, 1]; 0.5 without any other target.
        max_params: largest number of parameters.
        max_mflops: maximum MFLOPs for one example; a multiply-add counts as 2.
        max_size_mb: largest file in the format `measure_as`, in 10^6 bytes.
        max_latency_ms: largest median latency of that file on this machine, at batch 1.
        measure_as: format of that file; `litert/int8` by default.
        latency_command: command that prints the milliseconds of a file, with `{file}` for its path; it replaces
            timing on this machine.
        importance: criterion: `activation` (default with data), `taylor`, `bn_scale`, `l1`, `l2` (default without
            data), `fpgm`, `random`.
        allocation: `uniform` (default) keeps the same fraction of every layer; `global` ranks all together.
        round_to: channel counts are rounded to multiples of it; 8 by default.
        blocks: number of residual blocks to leave out.
        rank: rank of split Dense layers; only where it saves weights.
        side: fraction of the teacher's image sides that the student takes.
        free_normalized: also remove channels coupled by layer normalization or softmax.
        fresh: draw new weights from the seed, for the same architecture.
        seed: RNG seed for fresh weights, the examples and random criteria.
        limit: number of examples for the accuracy, or a fraction of them; 2,000 by default.
        dry_run: write and export nothing.
    """

    keep: float | None
    max_params: int | None
    max_mflops: float | None
    max_size_mb: float | None
    max_latency_ms: float | None
    measure_as: str
    latency_command: str | None
    importance: str | None
    allocation: str | None
    round_to: int | None
    blocks: int | None
    rank: int | None
    side: float | None
    free_normalized: bool | None
    fresh: bool
    seed: int | None
    limit: float | None
    dry_run: bool


@dataclass(frozen=True, kw_only=True)
class ShrinkRequest:
    """What `kd shrink` should do.

    Args:
        source: the teacher's file or run.
        settings: how to shrink it.
        targets: bounds that the student must meet.
        form: the format in which size and latency are measured.
        measured_as: its name on the command line.
        latency_command: measures latency in the place of this machine; None for this machine.
        out: the file to write.
        fresh: whether the weights are drawn from the seed.
        overwrite: whether a file in `out` may be replaced.
        limit: number of examples for the accuracy, or a fraction of them.
        batch_size: examples that are measured at a time; 256 if None.
        gates: bounds that set the exit code.
    """

    source: Path
    settings: Shrunk
    targets: ShrinkTargets
    form: ExportFormat
    measured_as: str
    out: Path
    latency_command: str | None = None
    fresh: bool = False
    overwrite: bool = False
    limit: float | None = None
    batch_size: int | None = None
    gates: Sequence[str | Gate] = ()


_SETTINGS = ("keep", "importance", "allocation", "round_to", "blocks", "rank", "side", "free_normalized")
_TARGETS = ("max_params", "max_mflops", "max_size_mb", "max_latency_ms")


def read_shrink_request(
    source: Path,
    recipe: RecipeLike | None,
    options: ShrinkOptions,
    out: Path | None,
    overwrite: bool,
    gates: Sequence[Any],
) -> tuple[ShrinkRequest, Request]:
    """Read the recipe and the options.

    Raises:
        ModelError: the model is missing, or an extra for the measured format.
        UsageError: an invalid value, or two options that exclude each other.
    """
    resolve_model_file(source, trust=options.get("trust", NO_TRUST))
    check_limits(limit=options.get("limit"), batch_size=options.get("batch_size"))
    names = RecipeOptions.__annotations__.keys() - {"batch_size"} | {"seed", "dry_run"}
    shared = {name: value for name, value in options.items() if name in names}
    request = request_for_models([source], recipe, role="teacher", **shared)  # type: ignore[arg-type]
    shrink_request = make_shrink_request(source, options, request, out=out, overwrite=overwrite, gates=gates)
    if shrink_request.form.extra is not None:
        require_extra(shrink_request.form.extra, subject=f"--measure-as {shrink_request.measured_as}")
    return shrink_request, request


def make_shrink_request(
    source: Path,
    options: ShrinkOptions,
    request: Request,
    *,
    out: Path | None,
    overwrite: bool,
    gates: Sequence[Any],
) -> ShrinkRequest:
    """Read the options; what they leave open comes from a shrunk student of the recipe.

    Raises:
        UsageError: an invalid value, or two options that exclude each other.
    """
    model = request.recipe.student.model
    base = model if isinstance(model, Shrunk) else Shrunk()
    measured_as = options.get("measure_as", MEASURE_AS)
    targets = ShrinkTargets(**{name: options.get(name) for name in _TARGETS})  # type: ignore[arg-type]
    _check_targets(options, targets)
    given = {name: options[name] for name in _SETTINGS if options.get(name) is not None}  # type: ignore[literal-required]
    if targets.are_set:
        # The targets take the place of the recipe's.
        given.update(keep=None, max_params=None)
    elif "keep" in given:
        given["max_params"] = None
    elif base.max_params is not None:
        targets = ShrinkTargets(max_params=base.max_params)
    if not request.has_data and "importance" not in given and base.importance in MEASURED_IMPORTANCES:
        given["importance"] = "l2"
    return ShrinkRequest(
        source=source,
        settings=base.with_options(given),
        targets=targets,
        form=choose_measured_format(measured_as),
        measured_as=measured_as,
        latency_command=_read_command(options),
        out=out if out is not None else Path(f"{source.stem}-shrunk.keras"),
        fresh=options.get("fresh", False),
        overwrite=overwrite,
        limit=options.get("limit"),
        batch_size=options.get("batch_size"),
        gates=gates,
    )


def _read_command(options: ShrinkOptions) -> str | None:
    command = options.get("latency_command")
    if command is not None:
        check_latency_command(command)
    return command


def _check_targets(options: ShrinkOptions, targets: ShrinkTargets) -> None:
    for name in _TARGETS:
        value = getattr(targets, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0 (got {value:g})")
    if targets.are_set and options.get("keep") is not None:
        option = next(name for name in _TARGETS if getattr(targets, name) is not None).replace("_", "-")
        raise UsageError(
            f"--keep and --{option} exclude each other: a target sets how many channels stay",
            hint="leave out --keep",
        )
