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
    # A model that was shrunk before has fewer channels than those that `keep` counts.
    bases = [len(group.roots) * (widths or {}).get(group.name, group.total) / group.total for group in groups]
    threshold = _find_threshold(importance, round(keep * sum(bases))) if allocation == "global" else None
    removed: set[int] = set()
    for group, scores, base in zip(groups, importance, bases, strict=True):
        wanted = keep * base if threshold is None else float(np.sum(scores >= threshold))
        kept = round_count(wanted, group, round_to, least=0 if threshold is None else _FLOOR)
        # A stable order: among equal scores, the first channels stay.
        order = np.argsort(-scores, kind="stable")
        removed.update(group.roots[order[kept:]].tolist())
    return removed


def _find_threshold(importance: Sequence[np.ndarray], count: int) -> float:
    """The lowest importance among the most important channels, `count` of them."""
    scores = np.sort(np.concatenate(importance))[::-1] if importance else np.zeros(1)
    return float(scores[min(max(count, 1), len(scores)) - 1])


def round_count(wanted: float, group: Group, round_to: int, *, least: float = 0.0) -> int:
    """Round the number of kept roots so that the width of the layer is a multiple of `round_to`."""
    size = len(group.roots)
    step = max(1, round_to // math.gcd(round_to, group.width)) if group.rounded else 1
    wanted = max(wanted, least * size)
    multiple = max(step, step * math.floor(wanted / step + 0.5))
    return size if wanted >= size else min(multiple, size)
