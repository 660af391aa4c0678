"""The latency of the models of a comparison, measured in turns or taken from an earlier report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.evaluation.latency.measure import time_at_batches
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, make_network_factory
from kdcli.events import OnEvent
from kdcli.models.network import Network
from kdcli.runs.comparison_results import ComparedStudent
from kdcli.runs.latency_results import Ratio, Timing
from kdcli.runs.results import relativize_path

TEACHER_NAME = "teacher"
# Approximate duration of the measurement for each model.
SECONDS_PER_MODEL = 3.0


@dataclass(frozen=True)
class ArmLatencies:
    """Latencies as in the document.

    Args:
        latency: `latency` by model name, each with its `ratio` to the teacher.
        floor: ratio of two models with the same graph.
        doubts: why the times may not be reliable.
    """

    latency: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    floor: dict[str, float] | None = None
    doubts: tuple[str, ...] = ()

    def summarize(self, name: str) -> Timing | None:
        """The timing of one model; None if it was not timed."""
        entry = self.latency.get(name)
        return None if entry is None else Timing(**{one.name: entry[one.name] for one in fields(Timing)})


def time_arms(
    networks: Mapping[str, Network],
    students: Sequence[ComparedStudent],
    dataset: Dataset,
    *,
    seed: int,
    on_event: OnEvent,
) -> ArmLatencies:
    """Time the teacher and one model of each arm on test examples.

    Args:
        networks: networks by name; without the teacher if it cannot be timed.
        students: results of the arms; the first pair of arm and baseline gives the noise floor.
        dataset: data with the test split.
        seed: RNG seed of the order.
        on_event: receives the progress.
    """
    test = dataset.test
    assert test is not None
    pool = test.take(np.arange(min(POOL_EXAMPLES, len(test))))
    session = time_at_batches(
        {name: make_network_factory(network, pool) for name, network in networks.items()},
        seed=seed,
        seconds=SECONDS_PER_MODEL * len(networks),
        on_event=on_event,
    )
    floor = _compute_noise_floor(session, students)
    untimed = (
        None if TEACHER_NAME in networks else "no latency ratio: an ensemble or recorded outputs cannot be timed"
    )
    latency = {name: _describe(session, name, untimed) for name in networks}
    return ArmLatencies(latency, floor.to_json() if floor else None, session.doubts(floor))


def read_earlier_latency(
    document: Mapping[str, Any] | None, students: Sequence[ComparedStudent]
) -> ArmLatencies | None:
    """The latencies of an earlier report; None if it has none, or timed other files."""
    if document is None or document["teacher"].get("latency") is None:
        return None
    students_before = {student["name"]: student for student in document["students"]}
    latency = {TEACHER_NAME: document["teacher"]["latency"]}
    for student in students:
        if not student.runs:
            continue
        before = students_before.get(student.name)
        if before is None or before["latency"] is None or not before["accuracy"]["runs"]:
            return None
        if before["accuracy"]["runs"][0]["model"] != relativize_path(student.runs[0].model):
            return None
        latency[student.name] = before["latency"]
    return ArmLatencies(latency, document["latency_noise_floor"], tuple(document["latency_doubts"]))


def _compute_noise_floor(session: Session, students: Sequence[ComparedStudent]) -> Ratio | None:
    """The ratio of the first arm to its baseline, which has the same graph."""
    for student in students:
        if student.baseline in session.subjects and student.name in session.subjects:
            return session.noise_floor(student.name, str(student.baseline))
    return None


def _describe(session: Session, name: str, untimed: str | None) -> dict[str, Any]:
    """The timing of a model, with its ratio to the teacher or the reason why there is none.

    Args:
        untimed: why the teacher was not timed; None if it was.
    """
    ratio, why = None, untimed
    if name != TEACHER_NAME and why is None:
        student, teacher = (session.subjects[one].runtime for one in (name, TEACHER_NAME))
        if student == teacher:
            ratio = session.ratio(name, TEACHER_NAME).to_json()
        else:
            why = f"no latency ratio: the teacher runs in {teacher}, the students in {student}"
    document = {**session.summarize(name).to_json(), "ratio": ratio}
    return document if why is None or name == TEACHER_NAME else {**document, "no_ratio": why}
