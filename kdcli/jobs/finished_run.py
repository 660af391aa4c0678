"""The gates of a run, and their results for a run that has already finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdcli.evaluation.gates import choose_gates, collect_metrics, describe_export_gates, judge_gates
from kdcli.events import Note, OnEvent
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import RECIPE_FILE
from kdcli.runs.results import FinishedRun, relativize_path
from kdcli.setup.run_location import RunLocation


def choose_run_gates(location: RunLocation) -> tuple[Gate, ...]:
    """Choose the gates of the request, or those of the run itself if it is resumed without a recipe."""
    request = location.request
    section = request.recipe.gates
    if location.earlier is not None and not request.recipe_given and not section.gates():
        section = read_run_recipe(location.path / RECIPE_FILE).gates
    return choose_gates("distill", request.gates, section, on_event=request.context.on_event)


def judge_finished(finished: FinishedRun, gates: Sequence[Gate], on_event: OnEvent) -> FinishedRun:
    """Judge the gates on the stored metrics of a finished run."""
    document, test = finished.document, finished.test
    for text in describe_export_gates(gates, relativize_path(finished.run)):
        on_event(Note(text))
    gates = [gate for gate in gates if gate.metric != "size_mb"]
    if not gates or test is None:
        return replace(finished, gates=())
    teacher = document.get("teacher") or {}
    metrics = collect_metrics(
        replace(test, agreement=teacher.get("agreement")),
        size=document["bytes"],
        parameters=document["parameters"],
        teacher_accuracy=teacher.get("accuracy"),
    )
    return replace(finished, gates=judge_gates(gates, {relativize_path(finished.model_path): metrics}))
