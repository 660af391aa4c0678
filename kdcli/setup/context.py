"""The context of a command: threads, stop function, listener, workers, and a memo of what was opened."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdcli.events import OnEvent, ignore_event

if TYPE_CHECKING:
    from kdcli.cache.entry import Entry
    from kdcli.training.workers import Workers

Value = TypeVar("Value")


def never_stop() -> int | None:
    """A stop function that never interrupts."""
    return None


def _single_worker() -> Workers:
    # Imported late: it loads NumPy, and a bad recipe is refused before that.
    from kdcli.training.workers import SINGLE_WORKER

    return SINGLE_WORKER


class Memo:
    """Values that are expensive to make, by key: the data, the teacher, the teacher's outputs."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def __call__(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; `make` is called only the first time."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all parts of a command share.

    Args:
        threads: number of threads TensorFlow uses; its own default when None.
        stop: called between steps; a returned exit code stops the run after saving.
        on_event: receives notes, plans and progress.
        cache_limit: maximum bytes of the cache of teacher outputs; a fifth of the free disk space when None.
        dry_run: whether nothing is written.
        workers: the processes that train the same run.
        memo: what an earlier training in the same command opened or computed.
    """

    threads: int | None = None
    stop: Callable[[], int | None] = never_stop
    on_event: OnEvent = ignore_event
    cache_limit: int | None = None
    dry_run: bool = False
    workers: Workers = field(default_factory=_single_worker)
    memo: Memo = field(default_factory=Memo)

    def find_entry(self, folder: Path, components: Mapping[str, Any]) -> Entry | None:
        """Return the cache entry of these key components, complete or not, or None; shards are verified once."""
        from kdcli.cache.entry import Entry

        found = Entry.find(folder, components)
        return found and self.memo(("entry", str(folder), found.fingerprint), lambda: found)
