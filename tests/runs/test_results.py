"""Results: the documents contain the keys that scripts rely on."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from kdcli.runs.evaluation_results import EvaluatedModel, Evaluation
from kdcli.runs.gate_results import GateResult
from kdcli.runs.latency_results import Ratio, Timing
from kdcli.runs.results import ClassQuality, FinishedRun, Plan, Quality, RunResult

# The documented keys, in order.
RUN = ["schema", "run", "model", "task", "parameters", "bytes", "epochs", "steps", "seed", "best_epoch"]
RUN += ["validation", "test", "teacher", "targets", "seconds", "examples_per_second", "gates"]
TEST = ["accuracy", "loss", "top5", "ece", "balanced_accuracy", "examples"]
MODEL = ["path", "format", "sha256", "parameters", "bytes", "flops", "examples", "task", "accuracy", "low"]
MODEL += ["high", "loss", "top5", "ece", "balanced_accuracy", "agreement", "latency"]
PLAN = ["schema", "settings", "teacher", "student", "pairs", "targets", "steps", "seconds", "memory_bytes"]
PLAN += ["student_bytes", "findings"]


def quality(**figures) -> Quality:
    known = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "loss": 0.3, "ece": 0.02, "balanced_accuracy": 0.88}
    return Quality("classification", 48, **{**known, **figures})


def run_result(**given) -> RunResult:
    values = {
        "run": Path("runs/a").absolute(),
        "model_path": Path("runs/a/student.keras").absolute(),
        "task": "classification",
        "parameters": 10,
        "bytes": 100,
        "epochs": 2,
        "steps": 8,
        "seed": 0,
        "best_epoch": 1,
        "validation": quality().to_validation(),
        "test": quality(agreement=0.7),
        "seconds": {"data": 0.0, "teacher": 0.0, "training": 1.0, "evaluation": 0.1, "total": 1.1},
        "examples_per_second": 50.0,
        "teacher": {"path": "t.keras", "accuracy": 0.95, "agreement": 0.7},
        "targets": {"mode": "memory", "hit": False, "bytes": 1, "views": 1, "precision": "float32"},
    }
    return RunResult(**{**values, **given})


def test_the_run_document_has_the_documented_keys():
    document = run_result().to_json()
    assert document["schema"] == "kd.run/1"
    assert list(document) == RUN
    assert set(document["validation"]) == {"accuracy", "loss", "examples"}
    assert document["gates"] == []


def test_test_metrics_have_the_documented_keys_and_null_if_not_measured():
    document = run_result().to_json()
    assert list(document["test"])[: len(TEST)] == TEST
    assert document["test"]["top5"] is None
    assert document["test"]["accuracy"] == 0.9
    # Agreement is in `teacher`; `kd evaluate` reports intervals.
    assert not {"agreement", "low", "high", "task"} & set(document["test"])


def test_trained_teacher_has_neither_teacher_nor_targets():
    document = run_result(teacher=None, targets=None).to_json()
    assert list(document) == [key for key in RUN if key not in ("teacher", "targets")]


def test_a_run_without_a_test_split_has_a_null_test():
    assert run_result(test=None).to_json()["test"] is None


def test_paths_in_documents_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "runs/a/student.keras"
    document = run_result(run=tmp_path / "runs" / "a", model_path=model).to_json()
    assert (document["run"], document["model"]) == ("runs/a", "runs/a/student.keras")


def test_documents_are_json_without_nan():
    text = json.dumps(run_result().to_json(), allow_nan=False)
    assert json.loads(text) == run_result().to_json()


def test_the_evaluation_document_has_the_documented_keys():
    model = EvaluatedModel(Path("a.keras"), "keras", "ab" * 32, 10, 100, quality(agreement=0.7))
    document = Evaluation("test", (model,)).to_json()
    assert list(document) == ["schema", "split", "models", "gates"]
    assert (document["schema"], document["split"], document["gates"]) == ("kd.evaluate/1", "test", [])
    assert set(document["models"][0]) == set(MODEL)
    assert document["models"][0]["agreement"] == 0.7
    assert document["models"][0]["flops"] is None
    assert document["models"][0]["latency"] is None


def test_latency_classes_and_gates_are_added_to_the_documented_keys():
    timing = Timing("tensorflow", 2, 1, 0.5, 0.6, None, 900.0, 0.55, 0.1, 400, 1, 2, 8)
    classes = (
        ClassQuality("cat", 24, 0.9, 0.8, 0.85),
        ClassQuality("dog", 24, None, 0.0, 0.0, -0.5),
        ClassQuality("owl", 0, None, None, None),
    )
    model = EvaluatedModel(
        Path("a.keras"), "keras", "ab", 10, 100, quality(), 42, timing, Ratio(0.5, 0.4, 0.6), classes=classes
    )
    gate = GateResult("accuracy", 0.9, ">= 0.97", "failed", "a.keras", "why")
    document = Evaluation("test", (model,), (gate,), Ratio(1.0, 0.99, 1.01), ("busy",)).to_json()
    (shown,) = document["models"]
    keys = {"runtime", "threads", "batch", "p50_ms", "p90_ms", "p99_ms", "examples_per_second"}
    assert keys < set(shown["latency"])
    assert (shown["flops"], shown["latency"]["p99_ms"]) == (42, None)
    assert shown["latency"]["ratio"] == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert shown["worst_class"] == "dog"
    assert shown["classes"][1]["change"] == -0.5
    assert document["latency_noise_floor"] == {"value": 1.0, "low": 0.99, "high": 1.01}
    assert document["latency_doubts"] == ["busy"]
    assert document["gates"] == [
        {"name": "accuracy", "value": 0.9, "bound": ">= 0.97", "state": "failed", "model": "a.keras"}
    ]


def test_metrics_of_other_tasks_are_added_to_the_documented_keys():
    shown = Quality("regression", 48, loss=0.1, mae=0.2, rmse=0.3, r2=0.9).to_json()
    assert set(shown) == {*TEST, "mae", "rmse", "r2"}
    assert shown["accuracy"] is None


@pytest.mark.parametrize("rmse", [0.3, 0.0])
def test_validation_contains_the_main_metric_of_a_task_without_accuracy(rmse):
    shown = Quality("regression", 9, loss=0.1, rmse=rmse).to_validation()
    assert shown == {"accuracy": None, "loss": 0.1, "examples": 9, "rmse": rmse}


def test_the_plan_document_has_the_documented_keys():
    weights = {"float32": 40, "float16": 20, "int8": 10}
    targets = {"views": 1, "bytes": 4, "fingerprint": None}
    plan = Plan(
        settings=({"path": "train.epochs", "value": 1, "origin": "--epochs"},),
        teacher={},
        student={},
        pairs=(),
        targets=targets,
        data={},
        steps=4,
        epochs=1,
        memory_bytes=1,
        student_bytes=weights,
    )
    document = plan.to_json()
    assert document["schema"] == "kd.plan/1"
    assert set(document) >= set(PLAN)
    assert document["student_bytes"] == weights
    assert list(document["settings"][0]) == ["path", "value", "origin"]


def test_a_finished_run_shows_its_summary_with_relative_paths(tmp_path, monkeypatch):
    summary = run_result().to_json()
    monkeypatch.chdir(tmp_path)
    again = FinishedRun(tmp_path / "moved", tmp_path / "moved" / "student.keras", summary)
    document = again.to_json()
    assert (document["run"], document["model"]) == ("moved", "moved/student.keras")
    assert {**document, "run": summary["run"], "model": summary["model"]} == summary
    assert again.test is not None
    assert again.test.accuracy == 0.9


def test_results_are_frozen():
    with pytest.raises(FrozenInstanceError):
        quality().accuracy = 1.0
