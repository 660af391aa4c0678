"""Start of a training, and its result in text: shared by kd train-teacher, kd distill and kd compare."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.cli.file_tables import format_files
from kdcli.cli.gates import enforce_gates, make_gate_tables
from kdcli.cli.groups import OutputGroup, RecipeGroup, RunGroup, parse_time
from kdcli.cli.interrupts import catch_interrupts
from kdcli.events import Note

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.runs.results import FinishedRun, Plan, RunResult
    from kdcli.setup.request import RunOptions

# Rows of the table of results, in this order, as far as they are measured.
_METRICS = (
    "accuracy",
    "macro_f1",
    "mean_iou",
    "rmse",
    "mae",
    "psnr",
    "loss",
    "balanced_accuracy",
    "top5",
    "ece",
)


@contextmanager
def start_run(recipe: RecipeGroup, run: RunGroup, printing: OutputGroup) -> Iterator[tuple[Output, RunOptions]]:
    """Give a training command its output and options; signals are handled while the block runs."""
    output = printing.open()
    with catch_interrupts(parse_time(run.max_time), dry_run=run.dry_run) as stop:
        try:
            yield output, run.to_options(recipe, output, stop)
        finally:
            output.close()


def show_run(
    command: str,
    result: RunResult | FinishedRun | Plan,
    output: Output,
    *,
    code: Sequence[Path],
    strict: bool = False,
) -> None:
    """Print the result of a training, and the next command.

    Args:
        command: `train-teacher` or `distill`.
        result: the run, or the plan of a dry run.
        output: where to print.
        code: files with custom code, for the next command.
        strict: whether inconclusive gates fail.
    """
    from kdcli.cli.console import format_plan
    from kdcli.runs.results import FinishedRun, Plan, relativize_path

    if isinstance(result, Plan):
        parts = [*_describe_stages(result.stages), *format_plan(result, with_settings=output.verbose)]
        output.result(result.to_json(), human=[*parts, "nothing was written"])
        return
    if isinstance(result, FinishedRun) and result.followed:
        output.on_event(Note(f"this worker has finished; the chief wrote {relativize_path(result.run)}"))
        if output.json:
            output.result(result.to_json(), human=[])
        return
    document = result.to_json()
    parts = [*_format_summary(document), *make_gate_tables(result.gates)]
    if "quantized" in document:
        parts += format_files(document["quantized"])
    output.result(document, path=document["model"], human=parts)
    output.next_command(_make_next_command(command, document, code))
    enforce_gates(result.gates, strict=strict)


def _describe_stages(stages: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each stage; the plan below them is that of the first unfinished stage."""
    return [
        f"stage {stage['stage']}   {stage['run']}: teacher {stage['teacher']}, losses {', '.join(stage['losses'])}"
        + (", finished" if stage["finished"] else "")
        for stage in stages
    ]


def _format_summary(document: dict[str, Any]) -> list[Any]:
    from kdcli.cli.console import make_table

    test, validation, teacher = document["test"] or {}, document["validation"], document.get("teacher") or {}
    with_teacher = teacher.get("accuracy") is not None
    rows = []
    for name in _METRICS:
        if test.get(name) is not None or validation.get(name) is not None:
            cells = [test.get(name), validation.get(name)]
            cells += [teacher.get(name)] if with_teacher else []
            rows.append([name, *("" if cell is None else f"{cell:.4f}" for cell in cells)])
    if teacher.get("agreement") is not None:
        rows.append(["agreement with teacher", f"{teacher['agreement']:.4f}", *[""] * (1 + with_teacher)])
    counts = [f"{part.get('examples') or 0:,}" for part in (test, validation)] + [""] * with_teacher
    rows.append(["examples", *counts])
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in document["seconds"].items() if seconds)
    return [
        make_table("", ("metric", "test", "validation", *(["teacher, test"] if with_teacher else [])), rows),
        f"{document['model']}: {document['parameters']:,} parameters, {document['bytes']:,} bytes, "
        f"best epoch {document['best_epoch']} of {document['epochs']}",
        f"time: {times}",
    ]


def _make_next_command(command: str, document: dict[str, Any], code: Sequence[Path]) -> str:
    from kdcli.recipe.reader import read_run_recipe

    code_options = [word for file in code for word in ("--code", str(file))]
    if command == "distill":
        return shlex.join(["kd", "evaluate", document["run"], *code_options])
    recipe = f"{document['run']}/recipe.yaml"
    words = ["kd", "distill", "--teacher", document["run"], "--recipe", recipe, *code_options]
    needs_student = read_run_recipe(Path(recipe)).student.model is None
    return shlex.join(words) + (" --student FILE" if needs_student else "")
