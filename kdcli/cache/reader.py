"""Reads cached outputs from memory-mapped shards without keeping their pages in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdcli.cache.layout import Layout, Shard
from kdcli.runs.mapped_arrays import MAX_RESIDENT_BYTES, READAHEAD_BYTES
from kdcli.runs.packed_file import MappedFile, parse_dtype

# Files that a process has open besides the shards.
_OTHER_FILES = 1_024


class EntryReader:
    """The outputs of a complete entry, by view and example.

    Args:
        layout: layout of the entry.
        shards: all shards, memory-mapped.
    """

    def __init__(self, layout: Layout, shards: Mapping[Shard, MappedFile]) -> None:
        self.layout = layout
        self._specs = {spec.name: spec for spec in layout.arrays}
        self._mapped = {(shard.view, shard.number): mapped for shard, mapped in shards.items()}
        self._touched: dict[tuple[int, int], int] = {}
        self._resident = 0

    def take(self, name: str, view: int, positions: np.ndarray) -> np.ndarray:
        """Return the outputs for some examples in a view.

        Args:
            name: name of the array.
            view: view, from 0.
            positions: (n,) positions of the examples, in any order and with repetitions.

        Returns:
            (n, ...) in the dtype in which they are stored.

        Raises:
            IndexError: there is no such view or example.
        """
        layout, spec = self.layout, self._specs[name]
        positions = np.asarray(positions, np.int64)
        values = np.empty((len(positions), *spec.shape), parse_dtype(spec.dtype))
        if not len(positions):
            return values
        # Read in the order on disk.
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        if ordered[0] < 0 or ordered[-1] >= layout.examples or not 0 <= view < layout.views:
            raise IndexError(f"view {view}, examples {ordered[0]} to {ordered[-1]}: not in {layout}")
        numbers = ordered // layout.examples_per_shard
        first = np.flatnonzero(np.diff(numbers, prepend=-1))
        for begin, end in zip(first, [*first[1:], len(ordered)], strict=True):
            number = int(numbers[begin])
            array = self._mapped[view, number].arrays[name]
            values[order[begin:end]] = array[ordered[begin:end] - number * layout.examples_per_shard]
            self._touch((view, number), int(end - begin) * max(READAHEAD_BYTES, spec.bytes))
        return values

    def read_all(self, name: str) -> np.ndarray:
        """Return the outputs for all examples in all views, (views · examples, ...), ordered by view."""
        layout, spec = self.layout, self._specs[name]
        whole = np.empty((layout.views * layout.examples, *spec.shape), parse_dtype(spec.dtype))
        for shard in layout.shards:
            mapped = self._mapped[shard.view, shard.number]
            begin = shard.view * layout.examples
            whole[begin + shard.start : begin + shard.stop] = mapped.arrays[name]
            mapped.drop_pages()
        return whole

    def _touch(self, key: tuple[int, int], count: int) -> None:
        before = self._touched.get(key, 0)
        now = min(before + count, len(self._mapped[key].mapping))
        self._touched[key] = now
        self._resident += now - before
        if self._resident > MAX_RESIDENT_BYTES:
            touched, self._touched, self._resident = self._touched, {}, 0
            for shard in touched:
                self._mapped[shard].drop_pages()


def raise_file_limit(count: int) -> None:
    """Raise the limit of open files by `count`, as far as the system allows."""
    try:
        import resource
    except ImportError:
        return
    # Python keeps mapped files open, and many systems allow only 1,024 by default.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
