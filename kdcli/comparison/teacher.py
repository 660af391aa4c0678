"""The teacher of a comparison, or its teachers as one: how good they are, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.evaluation.footprint import count_flops, count_model_bytes
from kdcli.evaluation.quality import measure_quality
from kdcli.models.files.recorded import RecordedNetwork
from kdcli.models.network import Network
from kdcli.runs.results import Quality, relativize_path
from kdcli.setup.context import Context
from kdcli.setup.ensemble_members import member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_teachers
from kdcli.setup.request import Request
from kdcli.teacher.ensemble import make_ensemble, member_records
from kdcli.teacher.resolve import open_split_logits


@dataclass(frozen=True)
class ComparedTeacher:
    """Whom the students are compared with.

    Args:
        opened: the teacher or teachers.
        quality: on the test split: of several the mixture's at T 1; without figures where answers are recorded.
        logits: on the test split, in its order; None where outputs are recorded.
        several: of a list of teachers, each one's path, share, temperature and accuracy.
    """

    opened: tuple[OpenedModel, ...]
    quality: Quality
    logits: np.ndarray | None = None
    several: Sequence[dict[str, Any]] = ()

    @property
    def network(self) -> Network | None:
        """What is timed; several teachers and recorded answers are not."""
        first: Network = self.opened[0].network
        return None if len(self.opened) > 1 or isinstance(first, RecordedNetwork) else first

    def to_json(self) -> dict[str, Any]:
        """Path and size; of several teachers the sums."""
        paths = [one.path for one in self.opened]
        only = paths[0] if len(paths) == 1 else None
        document = {
            "path": relativize_path(only) if only else None,
            "parameters": _sum([one.network.parameters for one in self.opened]),
            "bytes": _sum([count_model_bytes(path) if path else None for path in paths]),
            "flops": _sum(
                [count_flops(one.network) if one.network.preprocessing else None for one in self.opened]
            ),
        }
        return {**document, "members": list(self.several)} if self.several else document


def open_compared_teacher(request: Request, dataset: Dataset, context: Context) -> ComparedTeacher:
    """The teacher of a recipe, or its teachers, with figures on the test split."""
    test, opened = dataset.test, open_teachers(request, dataset)
    assert test is not None
    labels = test.all_labels()
    answers = [
        None if isinstance(one.network, RecordedNetwork) else open_split_logits(own, dataset, one)("test", test)
        for own, one in zip(member_requests(request), opened, strict=True)
    ]
    each = [
        Quality(dataset.task, 0) if one is None else measure_quality(one, labels, task=dataset.task)
        for one in answers
    ]
    known = [one for one in answers if one is not None]
    if not request.recipe.is_ensemble:
        return ComparedTeacher(opened, each[0], answers[0])
    ensemble = make_ensemble(request.recipe, opened)
    # Recorded answers say nothing of the test split.
    whole = len(known) == len(answers)
    logits = ensemble.of(known) if whole else None
    quality = Quality(dataset.task, 0) if logits is None else measure_quality(logits, labels, task=dataset.task)
    return ComparedTeacher(
        opened, quality, logits, member_records(opened, ensemble, [its.accuracy for its in each])
    )


def _sum(figures: list[Any]) -> Any:
    """The sum; None where one is not known."""
    return None if None in figures else sum(figures)
