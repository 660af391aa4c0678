"""Channel groups: channels that can stand for each other, and the layers that share them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdcli.shrinking.channels import TracedChannels
from kdcli.shrinking.slots import FIXED


@dataclass(frozen=True)
class Group:
    """Channels that are ranked together: the same layers produce each of them.

    Args:
        makers: names of these layers, with their paths.
        roots: the representative of each channel, (channels,).
        width: channels of the first layer for each root; more than 1 if whole groups are removed.
        total: channels of the first layer.
        rounded: whether the number of channels is rounded to a multiple; that of heads is not.
    """

    makers: tuple[str, ...]
    roots: np.ndarray
    width: int
    total: int
    rounded: bool = True

    @property
    def name(self) -> str:
        """The first layer that makes the channels."""
        return self.makers[0]


def find_groups(channels: TracedChannels) -> list[Group]:
    """Find the groups of all channels that can be removed, in the order of their first makers."""
    found_makers = {maker.name: maker for maker in channels.makers.values()}
    makers = {name: channels.slots.find(maker.vector) for name, maker in found_makers.items()}
    made_by: dict[int, list[str]] = {}
    for name, roots in makers.items():
        for root in dict.fromkeys(roots.tolist()):
            if root != FIXED:
                made_by.setdefault(root, []).append(name)
    members: dict[tuple[str, ...], list[int]] = {}
    for root, layers in made_by.items():
        members.setdefault(tuple(layers), []).append(root)
    return [
        Group(
            names,
            np.array(found),
            width=int(np.sum(makers[names[0]] == found[0])),
            total=len(makers[names[0]]),
            rounded=all(found_makers[name].rounded for name in names),
        )
        for names, found in members.items()
    ]


class Kept:
    """Which channels stay.

    Args:
        channels: of the model.
        removed: the representatives of the slots that go.
    """

    def __init__(self, channels: TracedChannels, removed: set[int]) -> None:
        self._slots = channels.slots
        self.removed = frozenset(removed)

    def mask(self, vector: np.ndarray) -> np.ndarray:
        """Which positions of a vector stay, (length,) of bool."""
        return ~np.isin(self._slots.find(vector), list(self.removed))

    def count(self, vector: np.ndarray) -> int:
        """How many positions of a vector stay."""
        return int(self.mask(vector).sum())
