"""The teacher or ensemble of a comparison: its quality on the test split, and its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.evaluation.footprint import count_flops, count_model_bytes
from kdcli.evaluation.quality import measure_quality
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.network import Network
from kdcli.runs.results import Quality, relativize_path
from kdcli.setup.context import Context
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_teachers
from kdcli.setup.request import Request
from kdcli.teacher.ensemble import make_ensemble, member_records
from kdcli.teacher.teacher_logits import compute_member_logits, mix_logits


@dataclass(frozen=True)
class ComparedTeacher:
    """The teacher or ensemble that the students are compared with.

    Args:
        opened: the teacher, or the members of the ensemble.
        quality: quality on the test split, of an ensemble for its mixture at temperature 1; without metrics if the
            outputs are recorded.
        logits: logits for the test split, in its order; None if the outputs are recorded.
        members: path, weight, temperature and accuracy of each member of an ensemble.
    """

    opened: tuple[OpenedModel, ...]
    quality: Quality
    logits: np.ndarray | None = None
    members: Sequence[dict[str, Any]] = ()

    @property
    def network(self) -> Network | None:
        """The network to time; None for an ensemble and for recorded outputs."""
        first: Network = self.opened[0].network
        return None if len(self.opened) > 1 or isinstance(first, RecordedNetwork) else first

    def to_json(self) -> dict[str, Any]:
        """Path and size; for an ensemble the sums of the sizes."""
        paths = [one.path for one in self.opened]
        path = paths[0] if len(paths) == 1 else None
        document = {
            "path": relativize_path(path) if path else None,
            "parameters": _sum([one.network.parameters for one in self.opened]),
            "bytes": _sum([count_model_bytes(path) if path else None for path in paths]),
            "flops": _sum(
                [count_flops(one.network) if one.network.preprocessing else None for one in self.opened]
            ),
        }
        return {**document, "members": list(self.members)} if self.members else document


def open_compared_teacher(request: Request, dataset: Dataset, context: Context) -> ComparedTeacher:
    """Open the teacher or ensemble of a recipe, and measure it on the test split."""
    test, opened = dataset.test, open_teachers(request, dataset)
    assert test is not None
    labels = test.all_labels()
    member_logits = compute_member_logits(request, dataset, opened, test)
    qualities = [
        Quality(dataset.task, 0) if one is None else measure_quality(one, labels, task=dataset.task)
        for one in member_logits
    ]
    if not request.recipe.is_ensemble:
        return ComparedTeacher(opened, qualities[0], member_logits[0])
    ensemble, logits = make_ensemble(request.recipe, opened), mix_logits(request, opened, member_logits)
    quality = Quality(dataset.task, 0) if logits is None else measure_quality(logits, labels, task=dataset.task)
    return ComparedTeacher(
        opened, quality, logits, member_records(opened, ensemble, [one.accuracy for one in qualities])
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    """The sum; None if a count is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
