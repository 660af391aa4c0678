"""What kd export refuses before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.artifacts.conversion import Conversion
from kdcli.errors import UsageError
from kdcli.recipe.gates import Gate
from kdcli.runs import writer
from kdcli.spec import ExportFormat

_PREPROCESSING_PLACES = ("inside", "outside")


# What files give; `teacher` is what the teacher's file gives.
_EXPORTED_OUTPUT_KINDS = ("teacher", "probabilities", "logits")


# What can be measured of a file on random inputs.
_METRICS_WITHOUT_DATA = ("max_abs_diff", "size_mb", "latency_ms")


def check_conversion(conversion: Conversion) -> None:
    """Refuse unknown values, and options that would have no effect.

    Raises:
        UsageError: naming the option.
    """
    prepare, batch, output_kind = conversion.prepare, conversion.batch, conversion.output_kind
    if prepare is not None and prepare not in _PREPROCESSING_PLACES:
        raise UsageError(f"--prepare must be one of {', '.join(_PREPROCESSING_PLACES)}, got {prepare!r}")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch must be at least 1, got {batch}")
    if output_kind not in _EXPORTED_OUTPUT_KINDS:
        raise UsageError(f"--output-kind must be one of {', '.join(_EXPORTED_OUTPUT_KINDS)}, got {output_kind!r}")
    if conversion.runtime is None:
        return
    if not conversion.latency:
        raise UsageError("--runtime has no effect without timing", hint="--latency times the files")
    known = sorted({form.runtime for form in conversion.formats})
    if conversion.runtime not in known:
        raise UsageError(f"--runtime {conversion.runtime}: none of the files uses it; they use {', '.join(known)}")


def check_empty(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UsageError: it is not empty.
        StorageError: it cannot be read.
    """
    try:
        held = out.is_file() or (out.is_dir() and any(out.iterdir()))
    except OSError as error:
        raise writer.storage_error(out, error) from error
    if held:
        what = "is a file, not a folder" if out.is_file() else "is not empty"
        raise UsageError(f"--out {out} {what}", hint="another --out; kd export replaces nothing")


def check_without_data(
    chosen: Sequence[ExportFormat], options: dict[str, bool], gates: Sequence[Gate], *, prepare: str | None
) -> None:
    """Refuse what needs examples.

    Raises:
        UsageError: naming the option.
    """
    seen = next((one for one in chosen if one.from_data), None)
    if seen is not None:
        raise UsageError(
            f"--quantize {seen.variant} is calibrated on training examples, and there is no data",
            hint="--data D, or --quantize dynamic",
        )
    if prepare == "inside":
        raise UsageError(
            "--prepare inside: without data nobody knows what a raw example is",
            hint="--data D, or --prepare outside",
        )
    for option, there in options.items():
        if there:
            raise UsageError(f"{option} is about the examples, and there is no data", hint="--data D")
    for gate in gates:
        if gate.metric not in _METRICS_WITHOUT_DATA:
            raise UsageError(f"gate {gate.metric} {gate.text}: there is no data to measure it on", hint="--data D")
