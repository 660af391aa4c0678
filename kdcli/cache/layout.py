"""How answers lie on disk: their arrays, cut into shards of examples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdcli.runs.packed_file import parse_dtype

# A shard is what is lost when a process dies: few examples, few bytes.
_MOST_EXAMPLES, _MOST_BYTES = 2_048, 32_000_000
_SUFFIX = ".answers"


@dataclass(frozen=True)
class ArraySpec:
    """One array of answers.

    Args:
        name: `logits`, or a tap.
        dtype: `float32`, `float16` or `bfloat16`.
        shape: of the answer to one example.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the answer to one example."""
        return parse_dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Shard:
    """The answers to examples `start` to `stop - 1` in a view."""

    view: int
    number: int
    start: int
    stop: int

    @property
    def file_name(self) -> str:
        """In the folder of the entry."""
        return f"{self.view:04d}-{self.number:06d}{_SUFFIX}"


@dataclass(frozen=True)
class Layout:
    """All answers of an entry.

    Args:
        examples: in one view.
        views: how many.
        arrays: of each answer.
    """

    examples: int
    views: int
    arrays: tuple[ArraySpec, ...]

    @cached_property
    def bytes_per_example(self) -> int:
        """Of the answer to one example in one view."""
        return sum(spec.bytes for spec in self.arrays)

    @property
    def bytes(self) -> int:
        """Of all answers in all views."""
        return self.bytes_per_example * self.examples * self.views

    @cached_property
    def examples_per_shard(self) -> int:
        """Examples in a shard."""
        return max(1, min(_MOST_EXAMPLES, _MOST_BYTES // max(1, self.bytes_per_example)))

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard, the first view first."""
        numbers = range(-(-self.examples // self.examples_per_shard))
        return tuple(self.shard_at(view, number) for view in range(self.views) for number in numbers)

    def shard_at(self, view: int, number: int) -> Shard:
        """A shard by its place."""
        start = number * self.examples_per_shard
        return Shard(view, number, start, min(start + self.examples_per_shard, self.examples))

    def to_json(self) -> dict[str, Any]:
        """As `about.json` holds it."""
        arrays = [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in self.arrays]
        return {"examples": self.examples, "views": self.views, "arrays": arrays}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Layout:
        """What `to_json` gave."""
        arrays = [ArraySpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in document["arrays"]]
        return cls(document["examples"], document["views"], tuple(arrays))


def is_shard_name(file_name: str) -> bool:
    """Whether a file is named like a shard."""
    return re.fullmatch(rf"\d{{4,}}-\d{{6,}}{re.escape(_SUFFIX)}", file_name) is not None
