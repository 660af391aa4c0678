"""The logits of a teacher or an ensemble for a whole split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.setup.ensemble_requests import member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.request import Request
from kdcli.teacher.ensemble import make_ensemble
from kdcli.teacher.split_logits import open_split_logits


def compute_member_logits(
    request: Request, dataset: Dataset, opened: Sequence[OpenedModel], examples: Examples
) -> list[np.ndarray | None]:
    """The logits of each teacher for the examples of a split; None for recorded outputs, which do not cover it.

    Args:
        request: its recipe names the teachers.
        dataset: the data.
        opened: the teachers, in order.
        examples: the `validation` or `test` split.

    Raises:
        ModelError: an output is NaN or infinite.
        Interrupted: the command was stopped.
    """
    return [
        None
        if isinstance(one.network, RecordedNetwork)
        else open_split_logits(member, dataset, one)(examples.split, examples)
        for member, one in zip(member_requests(request), opened, strict=True)
    ]


def mix_logits(
    request: Request, opened: Sequence[OpenedModel], members: Sequence[np.ndarray | None]
) -> np.ndarray | None:
    """The logits of the teacher, or of the mixture of an ensemble; None if a member's are missing."""
    known = [one for one in members if one is not None]
    if len(known) < len(members):
        return None
    return make_ensemble(request.recipe, opened).of(known) if request.recipe.is_ensemble else known[0]
