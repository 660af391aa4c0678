"""Reusing the latencies of an earlier report."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.comparison.latency import TEACHER_NAME, read_earlier_latency
from kdcli.runs.comparison_results import ComparedRun, ComparedStudent

MODEL = Path("compared/scratch/seed-0/student.keras")


def student(model=MODEL):
    run = ComparedRun(seed=0, model=model, score=0.9, accuracy=0.9, validation=None, validation_loss=None)
    return ComparedStudent("scratch", "finished", baseline=None, runs=(run,))


def report(*, teacher=None, scratch=None, model=MODEL):
    return {
        "teacher": {"latency": teacher},
        "students": [{"name": "scratch", "latency": scratch, "accuracy": {"runs": [{"model": str(model)}]}}],
        "latency_noise_floor": {"value": 1.0, "low": 0.9, "high": 1.1},
        "latency_doubts": ["the machine was busy"],
    }


def test_latencies_of_the_same_files_are_reused():
    earlier = read_earlier_latency(report(teacher={"p50_ms": 1.0}, scratch={"p50_ms": 0.5}), [student()])
    assert earlier.latency == {TEACHER_NAME: {"p50_ms": 1.0}, "scratch": {"p50_ms": 0.5}}
    assert (earlier.floor["value"], earlier.doubts) == (1.0, ("the machine was busy",))


@pytest.mark.parametrize(
    "document",
    [
        None,
        report(scratch={"p50_ms": 0.5}),
        report(teacher={"p50_ms": 1.0}),
        report(teacher={"p50_ms": 1.0}, scratch={"p50_ms": 0.5}, model="another.keras"),
    ],
    ids=["no report", "teacher not timed", "student not timed", "another file"],
)
def test_other_latencies_are_not_reused(document):
    assert read_earlier_latency(document, [student()]) is None


def test_an_arm_without_runs_needs_no_latency():
    failed = ComparedStudent("failed", "failed: no memory", baseline="scratch")
    document = report(teacher={"p50_ms": 1.0}, scratch={"p50_ms": 0.5})
    assert set(read_earlier_latency(document, [student(), failed]).latency) == {TEACHER_NAME, "scratch"}
