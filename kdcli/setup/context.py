"""What a job works in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kdcli.cache.entry import Entry
from kdcli.events import OnEvent, ignore_event
from kdcli.setup.startup import never_stop
from kdcli.training.replicas import SINGLE_WORKER, Workers

Value = TypeVar("Value")


class Memo:
    """Remembers by key what was expensive to make: the data, the teacher, the teacher's answers."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def __call__(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What `make` gives, from the first call with this key on."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Context:
    """What a job works in.

    Args:
        threads: of TensorFlow, before it has started.
        stop: asked between steps; an exit code stops after saving.
        on_event: told of progress.
        once: what an earlier job of the same comparison opened.
        cache_limit: bytes that the cache of answers may hold; a fifth of the free disk when None.
        dry_run: whether nothing may be written.
        workers: who works on the same run.
    """

    threads: int | None = None
    stop: Callable[[], int | None] = never_stop
    on_event: OnEvent = ignore_event
    memo: Memo = field(default_factory=Memo)
    cache_limit: int | None = None
    dry_run: bool = False
    workers: Workers = SINGLE_WORKER

    def entry(self, folder: Path, components: Mapping[str, Any]) -> Entry | None:
        """The kept answers that follow from some components, complete or not; each shard is checked once."""
        found = Entry.find(folder, components)
        return found and self.memo(("entry", str(folder), found.fingerprint), lambda: found)
