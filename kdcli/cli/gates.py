"""Gates on the command line: options, result table, job summary, exit code 7."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kdcli.cli import options as o

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.gate_results import GateResult

_EXIT_CODE = 7
# Options that are short forms of `--gate`: metric and sign by parameter name.
_SHORT_FORMS = {
    "min_accuracy": ("accuracy", ">="),
    "max_accuracy_drop": ("accuracy_drop", "<="),
    "max_export_drop": ("export_drop", "<="),
    "min_gain": ("gain", ">="),
    "min_agreement": ("agreement", ">="),
    "max_latency_ms": ("latency_ms", "<="),
    "max_latency_ratio": ("latency_ratio", "<="),
    "max_size_mb": ("size_mb", "<="),
    "max_ram_kb": ("ram_kb", "<="),
    "max_flash_kb": ("flash_kb", "<="),
}


class GateReader:
    """Reads the gates of a group of options."""

    gate: list[str] | None

    def read(self) -> tuple[Gate, ...]:
        """Read the gates.

        Raises:
            kdcli.errors.UsageError: a gate has a syntax error, or a bound in percent.
        """
        from kdcli.recipe.gates import make_gate, parse_gate

        gates = [parse_gate(text) for text in self.gate or ()]
        for parameter, (metric, sign) in _SHORT_FORMS.items():
            value = getattr(self, parameter, None)
            if value is not None:
                where = f"--{parameter.replace('_', '-')} {value:g}"
                gates.append(make_gate(metric, f"{sign} {value!r}", where=where))
        return tuple(gates)


@dataclass(frozen=True, kw_only=True)
class QualityGateGroup(GateReader):
    """Options for gates on quality, of a command for which size and latency are targets."""

    gate: o.GateOption = None
    min_accuracy: o.MinAccuracy = None
    max_accuracy_drop: o.MaxAccuracyDrop = None
    min_agreement: o.MinAgreement = None
    strict_gates: o.StrictGates = False


@dataclass(frozen=True, kw_only=True)
class GateGroup(QualityGateGroup):
    """Options for gates."""

    min_gain: o.MinGain = None
    max_latency_ms: o.MaxLatencyMs = None
    max_latency_ratio: o.MaxLatencyRatio = None
    max_size_mb: o.MaxSizeMb = None


def make_gate_rows(results: Sequence[GateResult]) -> list[list[str]]:
    """One row of cells for each gate: name, model, value, bound, state."""
    return [[gate.name, _describe_model(gate), _format_value(gate), gate.bound, gate.state] for gate in results]


def _describe_model(gate: GateResult) -> str:
    """The measured file, or the files of a mean."""
    return gate.model if len(gate.files) < 2 else f"{gate.model}: mean of {', '.join(gate.files)}"


def make_gate_tables(results: Sequence[GateResult]) -> list[Any]:
    """The table of gates; an empty list without gates."""
    from kdcli.cli.console import make_table

    return (
        [make_table("gates", ("gate", "model", "value", "bound", "state"), make_gate_rows(results))]
        if results
        else []
    )


def enforce_gates(results: Sequence[GateResult], *, strict: bool) -> None:
    """Report gates that did not pass on stderr, extend the summary of a GitHub job, and exit with code 7.

    Call it after the document of the command is printed.

    Args:
        results: results of all gates.
        strict: whether inconclusive gates fail too.

    Raises:
        typer.Exit: with code 7, if a gate failed.
    """
    for gate in results:
        if gate.state != "passed":
            reason = f" ({gate.reason})" if gate.reason else ""
            level = "error" if gate.state == "failed" or strict else "warning"
            text = f"{gate.name} is {_format_value(gate)}, bound {gate.bound}{reason}"
            print(f"{level}: gate {gate.state}: {gate.model}: {text}", file=sys.stderr)
    _extend_job_summary(results)
    failing = ("failed", "inconclusive") if strict else ("failed",)
    if any(gate.state in failing for gate in results):
        raise typer.Exit(_EXIT_CODE)


def _format_value(gate: GateResult) -> str:
    return "not measured" if gate.value is None else f"{gate.value:.6g}"


def _extend_job_summary(results: Sequence[GateResult]) -> None:
    """Append a Markdown table to `$GITHUB_STEP_SUMMARY`."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not results or not path or not os.environ.get("GITHUB_ACTIONS"):
        return
    lines = ["### kd gates", "", "| gate | model | value | bound | state |", "|---|---|---|---|---|"]
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in make_gate_rows(results)
    ]
    try:
        # The file belongs to the job, and other steps write to it too: append, never replace.
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        print(f"warning: cannot write the job summary {path}: {error.strerror}", file=sys.stderr)
