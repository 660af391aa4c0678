"""Choosing the gates of a command, and judging models by them."""

from __future__ import annotations

import json
import math

import pytest

from kdcli.errors import UsageError
from kdcli.evaluation.gates import (
    METRICS_OF_COMMAND,
    check_gate_metrics,
    choose_gates,
    collect_metrics,
    judge_gates,
)
from kdcli.recipe.gates import METRICS, GatesSection, parse_gate
from kdcli.runs.latency_results import Timing
from kdcli.runs.results import Quality

NONE = GatesSection()


def choose(command, *texts, section=NONE, **options):
    notes = []
    gates = choose_gates(command, texts, section, on_event=notes.append, **options)
    return [f"{gate.metric} {gate.text}" for gate in gates], [note.text for note in notes]


def test_every_metric_is_measured_by_a_command():
    assert {metric for known in METRICS_OF_COMMAND.values() for metric in known} == set(METRICS)


def test_requested_gates_replace_those_of_the_recipe():
    section = GatesSection(accuracy=">= 0.9", loss="<= 1")
    gates, notes = choose("evaluate", "accuracy>=0.95", section=section)
    assert gates == ["accuracy >= 0.95", "loss <= 1"]
    assert notes == []


@pytest.mark.parametrize(
    ("command", "text", "options", "message", "hint"),
    [
        (
            "evaluate",
            "gain>=0",
            {},
            "kd evaluate does not measure it",
            "kd compare --distilled RUN --gate 'gain>=0'",
        ),
        (
            "distill",
            "latency_ms<=1",
            {},
            "kd distill does not measure it",
            "kd evaluate MODEL --latency --gate 'latency_ms<=1'",
        ),
        (
            "distill",
            "max_abs_diff<=1",
            {},
            "kd distill does not measure it",
            "kd export MODEL --format litert --gate 'max_abs_diff<=1'",
        ),
        (
            "export",
            "gain>=0.005",
            {},
            "only kd compare trains the baseline",
            "kd compare --distilled RUN --gate 'gain>=0.005'",
        ),
        (
            "export",
            "accuracy_drop<=0.01",
            {"teacher": False},
            "there is no teacher",
            "--gate 'export_drop<=0.01' compares with the exported model itself",
        ),
        ("evaluate", "latency_ms<=1", {"latency": False}, "latency is not measured", "--latency"),
        ("evaluate", "agreement>=0.9", {"teacher": False}, "there is no teacher", "--teacher FILE"),
        ("evaluate", "accuracy_drop<=0", {"teacher": False}, "there is no teacher", "--teacher FILE"),
        ("evaluate", "latency_ratio<=1", {"teacher": False}, "there is no teacher", "--teacher FILE"),
    ],
)
def test_gate_that_cannot_be_measured_is_refused_with_the_command_that_can(command, text, options, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        choose(command, text, **options)
    assert caught.value.hint == hint


def test_gate_of_a_recipe_that_cannot_be_measured_is_noted():
    section = GatesSection(accuracy=">= 0.9", gain=">= 0.005", latency_ms="<= 1")
    gates, notes = choose("distill", section=section)
    assert gates == ["accuracy >= 0.9"]
    assert notes == [
        "gate gain >= 0.005 is not checked here, but by kd compare",
        "gate latency_ms <= 1 is not checked here, but by kd evaluate MODEL --latency",
    ]
    assert choose("compare", section=section)[1] == []


@pytest.mark.parametrize(
    ("text", "task", "labelled", "known"),
    [
        ("accuracy>=0.9", "regression", True, False),
        ("accuracy_drop<=0.1", "regression", True, False),
        ("mae<=1", "regression", True, True),
        ("mae<=1", "classification", True, False),
        ("accuracy>=0.9", "classification", False, False),
        ("agreement>=0.9", "classification", False, True),
        ("mean_iou>=0.5", "segmentation", True, True),
        ("size_mb<=1", "regression", True, True),
    ],
)
def test_gate_on_a_metric_that_the_task_does_not_have_is_refused(text, task, labelled, known):
    gates = [parse_gate(text)]
    if known:
        check_gate_metrics("distill", gates, task, labelled=labelled)
        return
    with pytest.raises(UsageError, match=f"not a metric of (unlabelled )?{task} data"):
        check_gate_metrics("distill", gates, task, labelled=labelled)


def test_every_model_is_judged_by_every_gate():
    gates = [parse_gate("accuracy>=0.9"), parse_gate("size_mb<=2")]
    models = {"a": {"accuracy": 0.9, "size_mb": 3.0}, "b": {"accuracy": 0.8, "size_mb": 1.0}}
    results = judge_gates(gates, models)
    assert [(one.name, one.model, one.state) for one in results] == [
        ("accuracy", "a", "passed"),
        ("accuracy", "b", "failed"),
        ("size_mb", "a", "failed"),
        ("size_mb", "b", "passed"),
    ]
    assert results[1].to_json() == {
        "name": "accuracy",
        "value": 0.8,
        "bound": ">= 0.9",
        "state": "failed",
        "model": "b",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_missing_and_infinite_values_fail_and_become_null(value):
    (result,) = judge_gates([parse_gate("loss<=0.5")], {"a": {"loss": value}})
    assert (result.state, result.value) == ("failed", None)
    assert "NaN" not in json.dumps(result.to_json())
    assert judge_gates([parse_gate("loss<=0.5")], {"a": {}})[0].state == "failed"


@pytest.mark.parametrize(
    ("value", "state"), [(0.6, "inconclusive"), (1.9, "inconclusive"), (0.4, "passed"), (5.0, "failed")]
)
def test_unstable_times_make_only_latency_gates_near_their_bound_inconclusive(value, state):
    gates = [parse_gate("latency_ms<=1"), parse_gate("accuracy>=0.9")]
    results = judge_gates(gates, {"a": {"latency_ms": value, "accuracy": 0.8}}, doubts=["busy"])
    assert [one.state for one in results] == [state, "failed"]
    assert results[0].value == value
    calm = judge_gates(gates, {"a": {"latency_ms": value, "accuracy": 0.8}})
    assert calm[0].state == ("passed" if value < 1 else "failed")


def test_latency_gates_skip_models_that_were_not_timed():
    gates = [parse_gate("latency_ms<=1")]
    assert [one.model for one in judge_gates(gates, {"a": {}, "b": {"latency_ms": 0.5}})] == ["b"]
    assert [one.state for one in judge_gates(gates, {"a": {}, "b": {}})] == ["failed", "failed"]


def test_metrics_have_the_names_of_gates():
    quality = Quality("classification", 10, accuracy=0.8, loss=0.5, agreement=0.9)
    timing = Timing("tensorflow", 2, 1, 0.5, 0.6, None, 900.0, 0.55, 0.1, 400, 1, 0, 8)
    metrics = collect_metrics(
        quality,
        size=2_500_000,
        parameters=7,
        teacher_accuracy=0.85,
        flops=9,
        latency=timing,
        latency_ratio=0.25,
    )
    assert set(metrics) == set(METRICS_OF_COMMAND["evaluate"])
    assert (metrics["accuracy"], metrics["size_mb"], metrics["flops"]) == (0.8, 2.5, 9)
    assert metrics["accuracy_drop"] == pytest.approx(0.05)
    assert (metrics["latency_ms"], metrics["latency_ratio"], metrics["examples_per_second"]) == (0.5, 0.25, 900.0)
    untimed = collect_metrics(quality, size=1, parameters=None)
    assert (untimed["accuracy_drop"], "latency_ms" in untimed) == (None, False)
