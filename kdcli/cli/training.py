"""What kd train-teacher and kd distill do alike: start, show the plan or the result, name the next command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.cli.gates import enforce, gate_tables
from kdcli.cli.groups import OutputGroup, RecipeGroup, RunGroup, parse_time
from kdcli.cli.interrupts import interruptible
from kdcli.events import Note

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.runs.results import FinishedRun, Plan, RunResult
    from kdcli.setup.request import RunOptions


@contextmanager
def start_run(recipe: RecipeGroup, run: RunGroup, printing: OutputGroup) -> Iterator[tuple[Output, RunOptions]]:
    """Where the command prints, and the options of a training that can be interrupted while the block runs."""
    output = printing.open()
    with interruptible(parse_time(run.max_time), dry_run=run.dry_run) as stop:
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
    """Print what came out, and the next command."""
    from kdcli.cli.console import plan_parts
    from kdcli.runs.results import FinishedRun, Plan, relativize_path

    if isinstance(result, Plan):
        shown = [*_stages(result.stages), *plan_parts(result, whole=output.verbose)]
        output.result(result.to_json(), human=[*shown, "nothing was written"])
        return
    if isinstance(result, FinishedRun) and result.followed:
        output.on_event(Note(f"this worker is done; the chief has written {relativize_path(result.run)}"))
        if output.json:
            output.result(result.to_json(), human=[])
        return
    document = result.to_json()
    shown = [*_summary(document), *gate_tables(result.gates)]
    output.result(document, path=document["model"], human=shown)
    output.next_command(_next(command, document, code))
    enforce(result.gates, strict=strict)


def _stages(stages: Sequence[dict[str, Any]]) -> list[str]:
    """Several distillations, one a line; the plan below is of the first one that is left."""
    return [
        f"stage {stage['stage']}   {stage['run']}: taught by {stage['teacher']}, {', '.join(stage['losses'])}"
        + (", finished" if stage["finished"] else "")
        for stage in stages
    ]


def _summary(document: dict[str, Any]) -> list[Any]:
    from kdcli.cli.console import table

    test, validation, teacher = document["test"] or {}, document["validation"], document.get("teacher") or {}
    shown = teacher.get("accuracy") is not None
    rows = []
    for name in (
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
    ):
        if test.get(name) is not None or validation.get(name) is not None:
            cells = [test.get(name), validation.get(name)]
            cells += [teacher.get(name)] if shown else []
            rows.append([name, *("" if cell is None else f"{cell:.4f}" for cell in cells)])
    if teacher.get("agreement") is not None:
        rows.append(["agreement with teacher", f"{teacher['agreement']:.4f}", *[""] * (1 + shown)])
    counts = [str(test.get("examples") or 0), str(validation["examples"]), *([""] if shown else [])]
    rows.append(["examples", *counts])
    seconds = document["seconds"]
    spent = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value)
    return [
        table("", ("figure", "test", "validation", *(["teacher, test"] if shown else [])), rows),
        f"{document['model']}: {document['parameters']} parameters, {document['bytes']} bytes, "
        f"best epoch {document['best_epoch']} of {document['epochs']}, seconds: {spent}",
    ]


def _next(command: str, document: dict[str, Any], code: Sequence[Path]) -> str:
    from kdcli.recipe.reader import read_run_recipe

    brought = [word for file in code for word in ("--code", str(file))]
    if command == "distill":
        return shlex.join(["kd", "evaluate", document["run"], *brought])
    recipe = f"{document['run']}/recipe.yaml"
    words = ["kd", "distill", "--teacher", document["run"], "--recipe", recipe, *brought]
    needs_student = read_run_recipe(Path(recipe)).student.model is None
    return shlex.join(words) + (" --student FILE" if needs_student else "")
