"""Gates on the command line: from options to gates, from verdicts to words and exit code 7."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

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


def take_gates(given: dict[str, Any]) -> tuple[Gate, ...]:
    """The gates among a command's parameters, which are taken out of them; `strict_gates` stays.

    Raises:
        kdcli.errors.UsageError: a gate that cannot be read, or percent.
    """
    from kdcli.recipe.gates import make_gate, parse_gate

    gates = [parse_gate(text) for text in given.pop("gate", None) or ()]
    for parameter, (metric, sign) in SHORT.items():
        value = given.pop(parameter, None)
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
