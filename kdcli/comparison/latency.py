"""How fast the models of a comparison are: measured in turns, once for the files that lie there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.evaluation.latency.measure import time_at_batches
from kdcli.evaluation.latency.session import Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, make_network_factory
from kdcli.events import OnEvent
from kdcli.models.network import Network
from kdcli.runs.comparison_results import ComparedStudent
from kdcli.runs.latency_results import Ratio, Timing
from kdcli.runs.results import relativize_path

TEACHER_NAME = "teacher"
# About how long the models are timed, for each of them.
SECONDS_PER_MODEL = 3.0


@dataclass(frozen=True)
class ArmLatencies:
    """Latencies as documents show them.

    Args:
        latency: by the model's name, each with its `ratio` to the teacher.
        floor: the ratio of two models that share a graph.
        doubts: why the figures may not hold.
    """

    latency: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    floor: dict[str, float] | None = None
    doubts: tuple[str, ...] = ()

    def summarize(self, name: str) -> Timing | None:
        """The figures of one model, None when it was not timed."""
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
        networks: by name, the teacher's among them unless its answers are recorded.
        students: which of them are twins: the first pair gives the noise floor.
        seed: of the order.
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
    floor = _noise_floor(session, students)
    untimed = (
        None
        if TEACHER_NAME in networks
        else "no latency ratio: several teachers or recorded outputs are not timed"
    )
    latency = {name: _entry(session, name, untimed) for name in networks}
    return ArmLatencies(latency, floor.to_json() if floor else None, session.doubts(floor))


def read_earlier_latency(
    document: Mapping[str, Any] | None, students: Sequence[ComparedStudent]
) -> ArmLatencies | None:
    """What an earlier report of the same files says; None where it timed others, or nothing."""
    if document is None or document["teacher"].get("latency") is None:
        return None
    earlier = {student["name"]: student for student in document["students"]}
    latency = {TEACHER_NAME: document["teacher"]["latency"]}
    for student in students:
        if not student.runs:
            continue
        known = earlier.get(student.name)
        if known is None or known["latency"] is None or not known["accuracy"]["runs"]:
            return None
        if known["accuracy"]["runs"][0]["model"] != relativize_path(student.runs[0].model):
            return None
        latency[student.name] = known["latency"]
    return ArmLatencies(latency, document["latency_noise_floor"], tuple(document["latency_doubts"]))


def _noise_floor(session: Session, students: Sequence[ComparedStudent]) -> Ratio | None:
    """The first pair of twins: one graph, two names."""
    for student in students:
        if student.baseline in session.subjects and student.name in session.subjects:
            return session.noise_floor(student.name, str(student.baseline))
    return None


def _entry(session: Session, name: str, teacher: str | None) -> dict[str, Any]:
    """Its times, and the ratio to the teacher or why there is none.

    Args:
        teacher: why it is not timed; None where it is.
    """
    ratio, why = None, teacher
    if name != TEACHER_NAME and why is None:
        own, other = (session.subjects[one].runtime for one in (name, TEACHER_NAME))
        if own == other:
            ratio = session.ratio(name, TEACHER_NAME).to_json()
        else:
            why = f"no latency ratio: the teacher runs in {other}, the students in {own}"
    document = {**session.summarize(name).to_json(), "ratio": ratio}
    return document if why is None or name == TEACHER_NAME else {**document, "no_ratio": why}
