"""Letting the teacher answer once: what the cache lacks is answered shard by shard, the rest is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdcli.cache.entry import Entry
from kdcli.cache.layout import Layout, Shard
from kdcli.cache.reader import EntryReader
from kdcli.errors import Interrupted, StorageError
from kdcli.events import Note, Progress
from kdcli.runs.packed_file import parse_dtype
from kdcli.setup.context import Context
from kdcli.teacher.storage_dtype import convert_stored

# Seconds in which answers that nothing keeps are not stopped: a run that gets little time each time gets on.
PATIENCE = 5.0


class Answers(Protocol):
    """Who answers: a `TeacherPass`, or who has its answers already."""

    def __call__(
        self, view: int, start: int, stop: int, *, on_batch: Callable[[int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """The answers to the examples at positions start .. stop - 1 in a view, by name."""
        ...


Ask = Callable[[], AbstractContextManager[Answers]]


@dataclass(frozen=True)
class Slice:
    """Which part of the missing answers this process gives first, of several that work on the same run.

    Args:
        index, count: this process and how many there are.
    """

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Filling:
    """What a process does while it fills.

    Args:
        on_examples: told how many (view, example) pairs are answered so far; it may raise to stop.
        on_note: told in a sentence what was waited for or thrown away; the second argument is true for a warning.
        stop: gives the exit code to stop with, or None.
        share: of several processes.
        writes: whether anything may be written: a cache that is only read does not note its use either.
    """

    on_examples: Callable[[int], None]
    on_note: Callable[[str, bool], None]
    stop: Callable[[], int | None]
    share: Slice = field(default_factory=Slice)
    writes: bool = True


def fill_memory(ask: Ask, layout: Layout, filling: Filling) -> dict[str, np.ndarray]:
    """Every answer of a layout, (views · examples, ...) by name, in the types of the layout.

    Raises:
        ModelError: an answer that is not finite.
        Overflow: a value that its type cannot hold.
    """
    rows = layout.views * layout.examples
    kept = {spec.name: np.empty((rows, *spec.shape), parse_dtype(spec.dtype)) for spec in layout.arrays}
    with ask() as answers:
        for shard in layout.shards:
            begin = shard.view * layout.examples + shard.start
            for name, values in _answered(answers, shard, layout, filling, done=begin).items():
                kept[name][begin : begin + len(values)] = values
    return kept


def fill_cache(
    folder: Path,
    components: Mapping[str, Any],
    ask: Ask,
    *,
    layout: Layout,
    described: Mapping[str, str],
    choices: Mapping[str, Any],
    filling: Filling,
    entry: Entry | None = None,
) -> tuple[EntryReader, bool]:
    """The answers from the cache, and whether all of them were there before.

    What another process is answering is waited for. A shard is kept as soon as it is answered, so that a process
    that ends in between loses one at most.

    Args:
        folder: of the cache.
        components: what the answers follow from.
        ask: who answers; asked only where something is missing.
        layout, described, choices: of the entry, where it has to be made.
        filling: how to report and when to stop.
        entry: what was found before; looked for when left out.

    Raises:
        ModelError: an answer that is not finite; no such shard is kept.
        Overflow: a value that its type cannot hold.
        StorageError: the cache cannot be written.
        Interrupted: `stop` said so.
    """
    entry = entry or Entry.find(folder, components)
    if entry is not None and not entry.missing():
        with suppress(StorageError):
            # Removed meanwhile, it is filled again below.
            return entry.open_reader(touch=filling.writes), True
    if entry is None:
        entry = Entry.create(folder, components, layout=layout, described=described, choices=choices)
    # Of several workers the first one keeps others out.
    alone = entry.lock(on_wait=lambda text: filling.on_note(text, False), stop=filling.stop)
    with alone if filling.share.index == 0 else nullcontext():
        hit = _fill(entry, ask, filling)
    return entry.open_reader(), hit


def _fill(entry: Entry, ask: Ask, filling: Filling) -> bool:
    """Answer what is missing; whether nothing was."""
    missing, share, shards = entry.missing(), filling.share, entry.layout.shards
    _say_damaged(entry, filling)
    if not missing:
        return True
    # Of several processes each begins with its own share. What nobody has answered by then it answers too, from
    # the other end: the rest of a slow one, or everything where the others write to another disk.
    own = set(shards[share.index :: share.count])
    order = [
        *(shard for shard in missing if shard in own),
        *(shard for shard in missing[::-1] if shard not in own),
    ]
    done = entry.layout.views * entry.layout.examples - sum(shard.stop - shard.start for shard in missing)
    with ask() as answers:
        for shard in order:
            if shard in own or shard in entry.missing():
                entry.write(shard, _answered(answers, shard, entry.layout, filling, done=done))
            done += shard.stop - shard.start
    return False


def _answered(
    answers: Answers, shard: Shard, layout: Layout, filling: Filling, *, done: int
) -> dict[str, np.ndarray]:
    """The answers of a shard, in the types in which they are kept."""

    def told(count: int) -> None:
        filling.on_examples(done + count)

    found = answers(shard.view, shard.start, shard.stop, on_batch=told)
    return {spec.name: convert_stored(found[spec.name], spec) for spec in layout.arrays}


def _say_damaged(entry: Entry, filling: Filling) -> None:
    for text in entry.damaged:
        filling.on_note(f"{text}; it is answered again", True)


def make_filling(context: Context, total: int, what: str, *, patience: float = 0.0) -> Filling:
    """How filling reports, and stops when it is asked to.

    Args:
        around: listener and stop.
        total: answers that are wanted.
        what: they are to, in words.
        patience: seconds in which it is not stopped.
    """
    since = time.monotonic()

    def told(done: int) -> None:
        context.on_event(Progress("teacher", done, total, "examples"))
        code = context.stop()
        if code is not None and time.monotonic() - since >= patience:
            text = f"stopped while the teacher was answering {what} ({done} of {total}; whole shards are kept)"
            raise Interrupted(text, exit_code=code)

    def note(text: str, warning: bool) -> None:
        context.on_event(Note(text, warning=warning))

    share = Slice(context.workers.index, context.workers.count)
    return Filling(told, note, context.stop, share, writes=not context.dry_run)
