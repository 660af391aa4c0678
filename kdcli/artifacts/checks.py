"""Options that kd export refuses before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.artifacts.conversion import Conversion
from kdcli.errors import UsageError
from kdcli.evaluation.latency.command import check_latency_command
from kdcli.recipe.gates import Gate
from kdcli.runs import writer
from kdcli.spec import ExportFormat

_PREPROCESSING_PLACES = ("inside", "outside")
# `teacher` is the output kind of the teacher's file.
_EXPORTED_OUTPUT_KINDS = ("teacher", "probabilities", "logits")
# Metrics that can be measured on random inputs.
_METRICS_WITHOUT_DATA = ("max_abs_diff", "size_mb", "latency_ms")


def check_conversion(conversion: Conversion) -> None:
    """Refuse unknown values, and options without effect.

    Raises:
        UsageError: names the option.
    """
    prepare, batch, output_kind = conversion.prepare, conversion.batch, conversion.output_kind
    if prepare is not None and prepare not in _PREPROCESSING_PLACES:
        raise UsageError(f"--prepare must be one of {', '.join(_PREPROCESSING_PLACES)}, got {prepare!r}")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch must be at least 1, got {batch}")
    if output_kind not in _EXPORTED_OUTPUT_KINDS:
        raise UsageError(f"--output-kind must be one of {', '.join(_EXPORTED_OUTPUT_KINDS)}, got {output_kind!r}")
    if conversion.latency_command is not None:
        check_latency_command(conversion.latency_command)
        if not conversion.latency:
            raise UsageError("--latency-command has no effect with --no-latency", hint="leave out --no-latency")
    if conversion.runtime is None:
        return
    if not conversion.latency:
        raise UsageError("--runtime has no effect with --no-latency", hint="leave out --no-latency")
    runtimes = sorted({form.runtime for form in conversion.formats})
    if conversion.runtime not in runtimes:
        raise UsageError(
            f"--runtime {conversion.runtime}: no requested format uses this runtime "
            f"(expected {', '.join(runtimes)})"
        )


def check_empty(out: Path) -> None:
    """Refuse an output folder that is not empty.

    Raises:
        UsageError: the folder is not empty, or is a file.
        StorageError: the folder cannot be read.
    """
    try:
        occupied = out.is_file() or (out.is_dir() and any(out.iterdir()))
    except OSError as error:
        raise writer.storage_error(out, error) from error
    if occupied:
        what = "is a file, not a folder" if out.is_file() else "is not empty"
        raise UsageError(f"--out {out} {what}", hint="choose another --out; kd export overwrites nothing")


def _name_option(form: ExportFormat) -> str:
    return f"--format {form.kind}" if form.variant is None else f"--quantize {form.variant}"


def check_without_data(
    chosen: Sequence[ExportFormat], options: dict[str, bool], gates: Sequence[Gate], *, prepare: str | None
) -> None:
    """Refuse formats, options and gates that need examples.

    Args:
        chosen: the requested formats.
        options: whether each option that needs examples is set, by option.
        gates: gates on the exported files.
        prepare: `inside`, `outside` or None.

    Raises:
        UsageError: names the option or the gate.
    """
    calibrated = next((one for one in chosen if one.from_data), None)
    if calibrated is not None:
        raise UsageError(
            f"{_name_option(calibrated)} is calibrated on training examples, which need data",
            hint="--data D" if calibrated.variant is None else "--data D, or --quantize dynamic",
        )
    if prepare == "inside":
        raise UsageError(
            "--prepare inside: raw examples are defined by the data, and no data was given",
            hint="--data D, or --prepare outside",
        )
    for option, is_set in options.items():
        if is_set:
            raise UsageError(f"{option} has no effect without data", hint="--data D")
    for gate in gates:
        if gate.metric not in _METRICS_WITHOUT_DATA:
            raise UsageError(f"gate {gate.metric} {gate.text}: measuring it needs data", hint="--data D")
