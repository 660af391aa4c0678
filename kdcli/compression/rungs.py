"""Which candidates go on after a rung, and in which order finished ones are preferred."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kdcli.compression.metric import PairedMetric
from kdcli.compression.schedule import count_survivors

# Differences of accuracies are inexact in the last digits.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Standing:
    """A candidate after a rung.

    Args:
        name: of the candidate.
        value: of the metric on the validation split.
        behind: by how much it is worse than the best candidate.
        error: standard error of that difference, on the same examples.
        drop: by how much it is worse than the teacher.
        admissible: whether it is close enough to the best to be preferred for its smaller file.
    """

    name: str
    value: float
    behind: float
    error: float
    drop: float
    admissible: bool


def rank(
    outputs: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    metric: PairedMetric,
    *,
    max_drop: float | None,
    smallest: bool,
    progress: float,
) -> list[Standing]:
    """Rank candidates by the same validation examples: the first is preferred.

    A smaller file is preferred only at the end, within one standard error of the best candidate and inside the
    allowed drop; before, the best go on.
    Where the smallest file is searched for, the allowed drop takes the place of a smaller standard error; before
    the end of training it is divided by the square root of the completed fraction.

    Args:
        outputs: on the validation split, by candidate.
        sizes: bytes of the files, by candidate.
        metric: on the validation split.
        max_drop: the allowed drop against the teacher; None if there is none.
        smallest: whether the smallest file within the drop is searched for.
        progress: fraction of a full training, in (0, 1].
    """
    values = {name: metric.measure(one) for name, one in outputs.items()}
    sign = -1.0 if metric.lower_is_better else 1.0
    order = sorted(values, key=lambda name: (-sign * _finite(values[name], sign), sizes[name]))
    best = order[0]
    standings = []
    for name in order:
        behind = metric.drop(outputs[name], reference=outputs[best])
        error = metric.standard_error(outputs[best], outputs[name]) if name != best else 0.0
        drop = metric.drop(outputs[name])
        allowed = error
        if smallest and max_drop is not None:
            allowed = max(error, max_drop / math.sqrt(progress))
        inside = max_drop is None or progress < 1 or drop <= max_drop + _ROUNDING
        standings.append(Standing(name, values[name], behind, error, drop, behind <= allowed and inside))
    if progress < 1 and not smallest:
        # Before the end the best go on, whatever their size.
        return standings
    admissible = sorted((one for one in standings if one.admissible), key=lambda one: sizes[one.name])
    return [*admissible, *(one for one in standings if not one.admissible)]


def choose_survivors(standings: list[Standing], *, smallest: bool) -> list[Standing]:
    """The candidates that go on; in a search for the smallest file, the one with the best metric is among them.

    Args:
        standings: from `rank`.
        smallest: whether the smallest file within the drop is searched for.
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
