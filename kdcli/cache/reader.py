"""Reading kept answers where they lie: mapped shards, whose pages do not stay in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdcli.cache.layout import Layout, Shard
from kdcli.runs.mapped_arrays import READAHEAD_BYTES, RESIDENT_BYTES
from kdcli.runs.packed_file import MappedFile, parse_dtype

# That a process has open beside the shards.
_OTHER_FILES = 1_024


class EntryReader:
    """The answers of a complete entry, by view and example.

    Args:
        layout: of the entry.
        shards: every one, mapped.
    """

    def __init__(self, layout: Layout, shards: Mapping[Shard, MappedFile]) -> None:
        self.layout = layout
        self._specs = {spec.name: spec for spec in layout.arrays}
        self._mapped = {(shard.view, shard.number): mapped for shard, mapped in shards.items()}
        self._touched: dict[tuple[int, int], int] = {}
        self._resident = 0

    def take(self, name: str, view: int, positions: np.ndarray) -> np.ndarray:
        """The answers to examples in a view.

        Args:
            name: of the array.
            view: from 0.
            positions: (n,) of examples, in any order, also several times.

        Returns:
            (n, ...) in the type in which they are kept.

        Raises:
            IndexError: there is no such view or example.
        """
        layout, spec = self.layout, self._specs[name]
        positions = np.asarray(positions, np.int64)
        taken = np.empty((len(positions), *spec.shape), parse_dtype(spec.dtype))
        if not len(positions):
            return taken
        # In the order in which they lie on disk.
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        if ordered[0] < 0 or ordered[-1] >= layout.examples or not 0 <= view < layout.views:
            raise IndexError(f"view {view}, examples {ordered[0]} to {ordered[-1]}: {layout} has no such answer")
        numbers = ordered // layout.examples_per_shard
        first = np.flatnonzero(np.diff(numbers, prepend=-1))
        for begin, end in zip(first, [*first[1:], len(ordered)], strict=True):
            number = int(numbers[begin])
            array = self._mapped[view, number].arrays[name]
            taken[order[begin:end]] = array[ordered[begin:end] - number * layout.examples_per_shard]
            self._touch((view, number), int(end - begin) * max(READAHEAD_BYTES, spec.bytes))
        return taken

    def read_all(self, name: str) -> np.ndarray:
        """Every answer, (views · examples, ...), the first view first."""
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
        if self._resident > RESIDENT_BYTES:
            touched, self._touched, self._resident = self._touched, {}, 0
            for shard in touched:
                self._mapped[shard].drop_pages()


def raise_file_limit(count: int) -> None:
    """Let this process have so many more files open, as far as the system lets it."""
    try:
        import resource
    except ImportError:
        return
    # Python keeps a file open as long as it is mapped, and many systems allow 1,024 unless they are asked.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
