"""Allocation: how many channels each layer keeps, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kdcli.shrinking.groups import Group
from kdcli.zoo.shrunk import Allocation

# With a global ranking, the fraction of its channels that every layer keeps.
_FLOOR = 0.1


def choose_removed(
    groups: Sequence[Group],
    importance: Sequence[np.ndarray],
    *,
    keep: float,
    allocation: Allocation = "uniform",
    round_to: int = 8,
    widths: Mapping[str, int] | None = None,
) -> set[int]:
    """Choose the channels to remove.

    Args:
        groups: from `find_groups`.
        importance: from `rank_channels`, one array for each group.
        keep: fraction of the channels that stay, in (0, 1].
        allocation: `uniform` keeps this fraction of every group; `global` ranks all channels together.
        widths: layer → number of channels against which `keep` counts; those of the groups by default.
        round_to: channel counts are rounded to a multiple of it, at least one multiple and at most the group.

    Returns:
        The representatives of the removed slots.
    """
    threshold = _find_threshold(importance, keep) if allocation == "global" else None
    removed: set[int] = set()
    for group, scores in zip(groups, importance, strict=True):
        # A model that was shrunk before has fewer channels than those that `keep` counts.
        first = group.makers[0]
        base = len(scores) if widths is None or first not in widths else widths[first] / group.width
        wanted = keep * base if threshold is None else float(np.sum(scores >= threshold))
        kept = round_count(wanted, group, round_to, least=0 if threshold is None else _FLOOR)
        # A stable order: among equal scores, the first channels stay.
        order = np.argsort(-scores, kind="stable")
        removed.update(group.roots[order[kept:]].tolist())
    return removed


def _find_threshold(importance: Sequence[np.ndarray], keep: float) -> float:
    """The lowest importance in the fraction that stays."""
    scores = np.sort(np.concatenate(importance))[::-1] if importance else np.zeros(1)
    return float(scores[max(math.ceil(keep * len(scores)) - 1, 0)])


def round_count(wanted: float, group: Group, round_to: int, *, least: float = 0.0) -> int:
    """Round the number of kept roots so that the width of the layer is a multiple of `round_to`."""
    size = len(group.roots)
    step = max(1, round_to // math.gcd(round_to, group.width))
    wanted = max(wanted, least * size)
    multiple = max(step, step * math.floor(wanted / step + 0.5))
    return size if wanted >= size else min(multiple, size)
