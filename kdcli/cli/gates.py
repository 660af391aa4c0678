"""Gates on the command line: from options to gates, from verdicts to words and exit code 7."""

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

FAILED = 7
# Short forms, by the name of their parameter.
SHORT = {
    "min_accuracy": ("accuracy", ">="),
    "max_accuracy_drop": ("accuracy_drop", "<="),
    "max_export_drop": ("export_drop", "<="),
    "min_gain": ("gain", ">="),
    "min_agreement": ("agreement", ">="),
    "max_latency_ms": ("latency_ms", "<="),
    "max_latency_ratio": ("latency_ratio", "<="),
    "max_size_mb": ("size_mb", "<="),
}


@dataclass(frozen=True, kw_only=True)
class GateGroup:
    """Bounds that a command checks, and whether inconclusive ones fail."""

    gate: o.GateOption = None
    min_accuracy: o.MinAccuracy = None
    max_accuracy_drop: o.MaxAccuracyDrop = None
    min_gain: o.MinGain = None
    min_agreement: o.MinAgreement = None
    max_latency_ms: o.MaxLatencyMs = None
    max_latency_ratio: o.MaxLatencyRatio = None
    max_size_mb: o.MaxSizeMb = None
    strict_gates: o.StrictGates = False

    def read(self) -> tuple[Gate, ...]:
        """The gates.

        Raises:
            kdcli.errors.UsageError: a gate that cannot be read, or percent.
        """
        from kdcli.recipe.gates import make_gate, parse_gate

        gates = [parse_gate(text) for text in self.gate or ()]
        for parameter, (metric, sign) in SHORT.items():
            value = getattr(self, parameter, None)
            if value is not None:
                where = f"--{parameter.replace('_', '-')} {value:g}"
                gates.append(make_gate(metric, f"{sign} {value!r}", where=where))
        return tuple(gates)


def gate_rows(results: Sequence[GateResult]) -> list[list[str]]:
    """Gate, model, value, bound and state of each, as cells."""
    return [[gate.name, _measured(gate), _value(gate), gate.bound, gate.state] for gate in results]


def _measured(gate: GateResult) -> str:
    """The file, or what it is the mean of."""
    return gate.model if len(gate.files) < 2 else f"{gate.model}: mean of {', '.join(gate.files)}"


def gate_tables(results: Sequence[GateResult]) -> list[Any]:
    """A table for people, or nothing where there are no gates."""
    from kdcli.cli.console import table

    return [table("gates", ("gate", "model", "value", "bound", "state"), gate_rows(results))] if results else []


def enforce(results: Sequence[GateResult], *, strict: bool) -> None:
    """Say on stderr which gates did not pass, add a table to a GitHub job's summary, and end with code 7.

    Called when the command's own document is printed.

    Args:
        results: of every gate.
        strict: whether inconclusive gates fail too.

    Raises:
        typer.Exit: with code 7, where a gate failed.
    """
    for gate in results:
        if gate.state != "passed":
            reason = f" ({gate.reason})" if gate.reason else ""
            word = "error" if gate.state == "failed" or strict else "warning"
            said = f"{gate.name} is {_value(gate)}, bound {gate.bound}{reason}"
            print(f"{word}: gate {gate.state}: {gate.model}: {said}", file=sys.stderr)
    _summarise(results)
    failing = ("failed", "inconclusive") if strict else ("failed",)
    if any(gate.state in failing for gate in results):
        raise typer.Exit(FAILED)


def _value(gate: GateResult) -> str:
    return "not measured" if gate.value is None else f"{gate.value:.6g}"


def _summarise(results: Sequence[GateResult]) -> None:
    """Append a Markdown table to `$GITHUB_STEP_SUMMARY`."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not results or not path or not os.environ.get("GITHUB_ACTIONS"):
        return
    lines = ["### kd gates", "", "| gate | model | value | bound | state |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in gate_rows(results)]
    try:
        # The file belongs to the job, and others have written to it: it is continued, never replaced.
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")
    except OSError as error:
        print(f"warning: the job summary {path} cannot be written: {error.strerror}", file=sys.stderr)
