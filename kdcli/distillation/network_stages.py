"""The features of a network that can be paired: the last of each rank, and the ends of its stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdcli.loss import FeatureLoss
from kdcli.models.network import Network
from kdcli.tensors import Shape

# Sequences belong to one stage up to this ratio of lengths: a class token adds one step.
_LENGTH_RATIO = 1.5


@dataclass(frozen=True)
class Feature:
    """A tap at the end of a stage: its name, shape, and relative depth (0 to 1) among the taps."""

    tap: str
    shape: Shape
    depth: float


def find_last_features(network: Network, loss: FeatureLoss | None = None) -> dict[int, Feature]:
    """Find the last feature of each rank: maps (3) or sequences (2) before pooling, and vectors (1).

    Features that make the output are excluded, as are the logits before a softmax. Of maps and sequences, only the
    later rank counts, because a transformer begins with a map of its patches.
    """
    return {
        rank: _select_preferred(found, network, loss)[-1] for rank, found in _list_features(network, loss).items()
    }


def find_stage_ends(network: Network, loss: FeatureLoss | None = None) -> dict[int, tuple[Feature, ...]]:
    """Find the ends of a network's stages, by rank.

    For maps, the last tap of each size. For sequences, the last of each block, or of each length if the length
    decreases. For vectors, all taps.

    Args:
        network: the network with the taps.
        loss: a kind that compares attention scores or features from before an activation.
    """
    found: dict[int, tuple[Feature, ...]] = {}
    for rank, features in _list_features(network, loss).items():
        if rank == 1 or (loss is not None and loss.attention_scores):
            found[rank] = tuple(features)
        elif rank == 2:
            found[rank] = tuple(_find_sequence_ends(features, network, loss))
        else:
            groups: dict[Shape, list[Feature]] = {}
            for stage in features:
                groups.setdefault(stage.shape[:-1], []).append(stage)
            ends = [_select_preferred(group, network, loss)[-1] for group in groups.values()]
            found[rank] = tuple(sorted(ends, key=lambda stage: stage.depth))
    return found


def _find_sequence_ends(features: list[Feature], network: Network, loss: FeatureLoss | None) -> list[Feature]:
    blocks = [stage for stage in features if stage.tap in network.roles.blocks]
    if blocks:
        return blocks
    lengths = [stage.shape[0] or 1 for stage in features]
    if max(lengths) < _LENGTH_RATIO * min(lengths):
        last = features[-1].shape
        return _select_preferred([stage for stage in features if stage.shape == last], network, loss)
    groups: dict[int | None, list[Feature]] = {}
    for stage in features:
        groups.setdefault(stage.shape[0], []).append(stage)
    return [_select_preferred(group, network, loss)[-1] for group in groups.values()]


def _list_features(network: Network, loss: FeatureLoss | None) -> dict[int, list[Feature]]:
    """Every tap that can be paired, by rank, in the order of computation."""
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


def _select_preferred(group: list[Feature], network: Network, loss: FeatureLoss | None) -> list[Feature]:
    """The features from before an activation if the kind compares such and there are any, else the whole group."""
    if loss is None or not loss.before_activation:
        return group
    suitable = network.roles.linear
    if loss.needs_normalization and network.roles.normalized:
        suitable = network.roles.normalized
    size = group[-1].shape[:-1]
    return [one for one in group if one.tap in suitable and one.shape[:-1] == size] or group


def align_stages(
    ours: Sequence[Feature], theirs: Sequence[Feature], fits: Callable[[Feature, Feature], bool]
) -> tuple[tuple[Feature, Feature], ...]:
    """Pair as many stages as fit, in order on both sides, with sizes and depths as similar as possible.

    Args:
        ours, theirs: stages in order.
        fits: whether two stages can be paired.
    """
    # For all prefixes of both sides: number of pairs, similarity, and the pairs; deeper ones win ties.
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
    """The difference in size, in octaves, plus the difference in depth."""
    sides = [math.prod(side or 1 for side in stage.shape[:-1]) for stage in (one, other)]
    return abs(math.log2(sides[0] / sides[1])) + abs(one.depth - other.depth)


def pair_evenly(
    ours: Sequence[Feature], theirs: Sequence[Feature], count: int
) -> tuple[tuple[Feature, Feature], ...]:
    """Pair blocks of equal relative depth: the last block of each of `count` equal parts."""
    count = min(count, len(ours), len(theirs))

    def parts(side: Sequence[Feature]) -> list[Feature]:
        return [side[round(part * len(side) / count) - 1] for part in range(1, count + 1)]

    return tuple(zip(parts(ours), parts(theirs), strict=True))
