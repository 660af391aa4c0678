"""The layout of an entry on disk: its arrays, cut into shards of examples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdcli.runs.packed_file import parse_dtype

# A process that dies loses one shard, so shards are small.
_MAX_EXAMPLES, _MAX_BYTES = 2_048, 32_000_000
_SUFFIX = ".answers"


@dataclass(frozen=True)
class ArraySpec:
    """One array of teacher outputs.

    Args:
        name: `logits`, or the name of a tap.
        dtype: `float32`, `float16` or `bfloat16`.
        shape: shape for one example.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes for one example."""
        return parse_dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Shard:
    """The outputs for examples `start` to `stop - 1` in one view."""

    view: int
    number: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """File name in the folder of the entry."""
        return f"{self.view:04d}-{self.number:06d}{_SUFFIX}"


@dataclass(frozen=True)
class Layout:
    """The arrays and shards of an entry.

    Args:
        examples: number of examples in one view.
        views: number of views.
        arrays: arrays for each example.
    """

    examples: int
    views: int
    arrays: tuple[ArraySpec, ...]

    @cached_property
    def bytes_per_example(self) -> int:
        """Bytes for one example in one view."""
        return sum(spec.bytes for spec in self.arrays)

    @property
    def bytes(self) -> int:
        """Bytes for all examples in all views."""
        return self.bytes_per_example * self.examples * self.views

    @cached_property
    def examples_per_shard(self) -> int:
        """Number of examples in a shard."""
        return max(1, min(_MAX_EXAMPLES, _MAX_BYTES // max(1, self.bytes_per_example)))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, ordered by view."""
        numbers = range(-(-self.examples // self.examples_per_shard))
        return tuple(self.shard_at(view, number) for view in range(self.views) for number in numbers)

    def shard_at(self, view: int, number: int) -> Shard:
        """Return a shard by view and number."""
        start = number * self.examples_per_shard
        return Shard(view, number, start, min(start + self.examples_per_shard, self.examples))

    def to_json(self) -> dict[str, Any]:
        """The layout in `about.json`."""
        arrays = [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in self.arrays]
        return {"examples": self.examples, "views": self.views, "arrays": arrays}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Layout:
        """Restore a layout from its JSON."""
        arrays = [ArraySpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in document["arrays"]]
        return cls(document["examples"], document["views"], tuple(arrays))


def is_shard_name(file_name: str) -> bool:
    """Whether a file name is that of a shard."""
    return re.fullmatch(rf"\d{{4,}}-\d{{6,}}{re.escape(_SUFFIX)}", file_name) is not None
