"""Which candidates go on after a rung, and in which order finished ones are preferred."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdcli.compression.metric import Metric
from kdcli.compression.schedule import count_survivors


@dataclass(frozen=True)
class Standing:
    """A candidate after a rung.

    Args:
        name: of the candidate.
        value: of the metric on the validation split.
        behind: by how much it is worse than the best candidate.
        error: standard error of that difference, on the same examples.
        drop: by how much it is worse than the teacher.
        admissible: whether a smaller file may win with it.
    """

    name: str
    value: float
    behind: float
    error: float
    drop: float
    admissible: bool


def rank(
    logits: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    metric: Metric,
    *,
    max_drop: float | None,
    smallest: bool,
    progress: float,
) -> list[Standing]:
    """Rank candidates by the same validation examples: the first is preferred.

    A smaller file is preferred only within one standard error of the best candidate and inside the allowed drop.
    Where the smallest file is searched, the allowed drop takes the place of the standard error; before the end of
    the training it is wider, by the square root of the part that is left out.

    Args:
        logits: outputs on the validation split, by candidate.
        sizes: bytes of the files, by candidate.
        metric: on the validation split.
        max_drop: the allowed drop against the teacher; None if there is none.
        smallest: whether the smallest file within the drop is searched.
        progress: fraction of a full training, in (0, 1].
    """
    values = {name: metric.measure(one) for name, one in logits.items()}
    sign = -1.0 if metric.lower_is_better else 1.0
    order = sorted(values, key=lambda name: (-sign * _finite(values[name], sign), sizes[name]))
    best = order[0]
    standings = []
    for name in order:
        behind = metric.drop(logits[name], reference=logits[best])
        error = metric.standard_error(logits[best], logits[name]) if name != best else 0.0
        drop = metric.drop(logits[name])
        allowed = error
        if smallest and max_drop is not None:
            allowed = max(error, max_drop / math.sqrt(progress))
        inside = max_drop is None or progress < 1 or drop <= max_drop
        standings.append(Standing(name, values[name], behind, error, drop, behind <= allowed and inside))
    admissible = sorted((one for one in standings if one.admissible), key=lambda one: sizes[one.name])
    return [*admissible, *(one for one in standings if not one.admissible)]


def choose_survivors(standings: list[Standing], *, smallest: bool) -> list[Standing]:
    """The candidates that go on; where the smallest file is searched, the most accurate one is among them.

    Args:
        standings: from `rank`.
        smallest: whether the smallest file within the drop is searched.
    """
    count = count_survivors(len(standings))
    chosen = standings[:count]
    best = min(standings, key=lambda one: one.behind)
    if smallest and count > 1 and best not in chosen:
        chosen = [*chosen[:-1], best]
    return chosen


def _finite(value: float, sign: float) -> float:
    """The value; the worst one in the place of NaN."""
    return -sign * math.inf if math.isnan(value) else value
