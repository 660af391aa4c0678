"""The features of a network that may be paired: the last of each kind, and where its stages end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.loss import FeatureLoss, Shape
from kdcli.models.network import Network

# Sequences whose lengths differ less belong to one stage: a class token makes one step more.
SHORTER = 1.5


@dataclass(frozen=True)
class Feature:
    """A tap that ends a stage of a network, its shape, and the share of the taps up to it."""

    tap: str
    shape: Shape
    depth: float


def find_last_features(network: Network, loss: FeatureLoss | None = None) -> dict[int, Feature]:
    """The last feature by its number of axes: maps (3) or sequences (2) before pooling, vectors (1) of any kind.

    What makes the output is left out, the logits before a softmax too. Of maps and sequences only what comes
    later counts: a transformer begins with a map of its patches.
    """
    return {rank: _preferred(found, network, loss)[-1] for rank, found in _features(network, loss).items()}


def find_stage_ends(network: Network, loss: FeatureLoss | None = None) -> dict[int, tuple[Feature, ...]]:
    """Where the stages of a network end, by the number of axes.

    Maps: the last tap of each size. Sequences: the last of each block, or of each length where the length falls.
    Vectors: all.

    Args:
        network: whose taps they are.
        loss: a kind that takes attention scores, or features from before an activation.
    """
    found: dict[int, tuple[Feature, ...]] = {}
    for rank, features in _features(network, loss).items():
        if rank == 1 or (loss is not None and loss.attention_scores):
            found[rank] = tuple(features)
        elif rank == 2:
            found[rank] = tuple(_sequences(features, network, loss))
        else:
            groups: dict[Any, list[Feature]] = {}
            for stage in features:
                groups.setdefault(stage.shape[:-1], []).append(stage)
            ends = [_preferred(group, network, loss)[-1] for group in groups.values()]
            found[rank] = tuple(sorted(ends, key=lambda stage: stage.depth))
    return found


def _sequences(features: list[Feature], network: Network, loss: FeatureLoss | None) -> list[Feature]:
    blocks = [stage for stage in features if stage.tap in network.roles.blocks]
    if blocks:
        return blocks
    lengths = [stage.shape[0] or 1 for stage in features]
    if max(lengths) < SHORTER * min(lengths):
        last = features[-1].shape
        return _preferred([stage for stage in features if stage.shape == last], network, loss)
    groups: dict[Any, list[Feature]] = {}
    for stage in features:
        groups.setdefault(stage.shape[0], []).append(stage)
    return [_preferred(group, network, loss)[-1] for group in groups.values()]


def _features(network: Network, loss: FeatureLoss | None) -> dict[int, list[Feature]]:
    """Every tap that may be paired, by its number of axes, in the order in which they are computed."""
    scores = loss is not None and loss.attention_scores
    found: dict[int, list[Feature]] = {}
    for place, (name, shape) in enumerate(network.taps.items(), start=1):
        if name in network.roles.scores if scores else _is_feature(network, name):
            found.setdefault(len(shape), []).append(Feature(name, shape, place / len(network.taps)))
    known = {rank: [one for one in all_ if None not in one.shape] or all_ for rank, all_ in found.items()}
    if 3 in known and 2 in known:
        del known[2 if known[3][-1].depth > known[2][-1].depth else 3]
    return known


def _is_feature(network: Network, name: str) -> bool:
    shape = network.taps[name]
    point = len(shape) > 1 and all(side == 1 for side in shape[:-1])
    logits = len(shape) == 1 and shape == (network.outputs,)
    return not (name in network.secondary or point or logits)


def _preferred(group: list[Feature], network: Network, loss: FeatureLoss | None) -> list[Feature]:
    """Those from before an activation where the kind wants such and there are any, else all of the same size."""
    if loss is None or not loss.before_activation:
        return group
    wanted = network.roles.linear
    if loss.needs_normalization and network.roles.normalized:
        wanted = network.roles.normalized
    size = group[-1].shape[:-1]
    return [one for one in group if one.tap in wanted and one.shape[:-1] == size] or group


def align_stages(
    ours: Sequence[Feature], theirs: Sequence[Feature], fits: Any
) -> tuple[tuple[Feature, Feature], ...]:
    """As many pairs as fit, in order on both sides, of sizes and depths as near as can be.

    Args:
        ours, theirs: stages in order.
        fits: of two stages: whether they can be a pair at all.
    """
    # For every beginning of both: how many pairs, how near, and the pairs; deeper ones win where all is equal.
    best: dict[tuple[int, int], tuple[int, float, tuple[tuple[Feature, Feature], ...]]] = {}
    nothing: tuple[int, float, tuple[tuple[Feature, Feature], ...]] = (0, 0.0, ())
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            options = [best.get((i - 1, j), nothing), best.get((i, j - 1), nothing)]
            if fits(one, other):
                count, near, pairs = best.get((i - 1, j - 1), nothing)
                options.append((count + 1, near - _distance(one, other), (*pairs, (one, other))))
            best[i, j] = max(reversed(options), key=lambda option: (option[0], round(option[1], 9)))
    return best[len(ours) - 1, len(theirs) - 1][2] if ours and theirs else ()


def _distance(one: Feature, other: Feature) -> float:
    """Octaves between the sizes, and the difference in depth."""
    sides = [math.prod(side or 1 for side in stage.shape[:-1]) for stage in (one, other)]
    return abs(math.log2(sides[0] / sides[1])) + abs(one.depth - other.depth)


def pair_evenly(
    ours: Sequence[Feature], theirs: Sequence[Feature], count: int
) -> tuple[tuple[Feature, Feature], ...]:
    """Blocks at equal relative depth: of n blocks those that end the parts of n / count blocks."""
    count = min(count, len(ours), len(theirs))

    def parts(side: Sequence[Feature]) -> list[Feature]:
        return [side[round(part * len(side) / count) - 1] for part in range(1, count + 1)]

    return tuple(zip(parts(ours), parts(theirs), strict=True))
