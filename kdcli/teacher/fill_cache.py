"""Fills the cache: outputs that it lacks are computed shard by shard, the others are read."""

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

# Uncached inference is not interrupted for this long, so that a job that is stopped often still makes progress.
PATIENCE_SECONDS = 5.0


class OutputSource(Protocol):
    """Gives outputs: a `TeacherPass`, or outputs that exist already."""

    def __call__(
        self, view: int, start: int, stop: int, *, on_batch: Callable[[int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the outputs for the examples at positions start .. stop - 1 in a view, by name."""
        ...


OpenSource = Callable[[], AbstractContextManager[OutputSource]]


@dataclass(frozen=True)
class Slice:
    """The slice of the missing shards that one of several workers computes first.

    Args:
        index: index of this worker.
        count: number of workers.
    """

    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Filling:
    """How a worker reports while it computes outputs, and when it stops.

    Args:
        on_examples: called with the number of (view, example) pairs done so far; it may raise to stop.
        on_note: called with a message, and whether it is a warning.
        stop: returns the exit code with which to stop, or None.
        slice: the shards that this worker computes first.
        writes: whether anything may be written; if not, not even the use of an entry is recorded.
    """

    on_examples: Callable[[int], None]
    on_note: Callable[[str, bool], None]
    stop: Callable[[], int | None]
    slice: Slice = field(default_factory=Slice)
    writes: bool = True


def fill_memory(open_source: OpenSource, layout: Layout, filling: Filling) -> dict[str, np.ndarray]:
    """Compute all outputs of a layout, (views · examples, ...) by name, in the dtypes of the layout.

    Raises:
        ModelError: an output is NaN or infinite.
        Overflow: a value does not fit into its dtype.
    """
    rows = layout.views * layout.examples
    arrays = {spec.name: np.empty((rows, *spec.shape), parse_dtype(spec.dtype)) for spec in layout.arrays}
    with open_source() as source:
        for shard in layout.shards:
            begin = shard.view * layout.examples + shard.start
            for name, values in _compute_shard(source, shard, layout, filling, done=begin).items():
                arrays[name][begin : begin + len(values)] = values
    return arrays


def fill_cache(
    folder: Path,
    components: Mapping[str, Any],
    open_source: OpenSource,
    *,
    layout: Layout,
    described: Mapping[str, str],
    choices: Mapping[str, Any],
    filling: Filling,
    entry: Entry | None = None,
) -> tuple[EntryReader, bool]:
    """Compute the outputs that the cache lacks, and open all of them.

    Waits if another process fills the entry. Each shard is written as soon as it is computed, so that a process
    that dies loses at most one.

    Args:
        folder: folder of the cache.
        components: what identifies the outputs.
        open_source: opens the source of outputs; called only if some are missing.
        layout, described, choices: layout and metadata of a new entry.
        filling: how to report and when to stop.
        entry: the entry, if it has been found before.

    Returns:
        The reader, and whether all outputs were in the cache before.

    Raises:
        ModelError: an output is NaN or infinite; its shard is not written.
        Overflow: a value does not fit into its dtype.
        StorageError: the cache cannot be written.
        Interrupted: `stop` returned an exit code.
    """
    entry = entry or Entry.find(folder, components)
    if entry is not None and not entry.missing():
        # If the entry has just been removed, it is filled again below.
        with suppress(StorageError):
            return entry.open_reader(touch=filling.writes), True
    if entry is None:
        entry = Entry.create(folder, components, layout=layout, described=described, choices=choices)
    # The first of several workers locks out other runs for all of them.
    lock = entry.lock(on_wait=lambda text: filling.on_note(text, False), stop=filling.stop)
    with lock if filling.slice.index == 0 else nullcontext():
        hit = _fill_entry(entry, open_source, filling)
    return entry.open_reader(), hit


def _fill_entry(entry: Entry, open_source: OpenSource, filling: Filling) -> bool:
    """Compute the missing shards; returns whether none was missing."""
    missing, shards = entry.missing(), entry.layout.shards
    for text in entry.damaged:
        filling.on_note(f"{text}; its outputs are computed again", True)
    if not missing:
        return True
    # Each worker computes its slice first. Then it takes over what is still missing, from the other end: the rest
    # of a slow worker, or everything if the workers do not share a disk.
    ours = set(shards[filling.slice.index :: filling.slice.count])
    order = [
        *(shard for shard in missing if shard in ours),
        *(shard for shard in missing[::-1] if shard not in ours),
    ]
    done = entry.layout.views * entry.layout.examples - sum(shard.stop - shard.start for shard in missing)
    with open_source() as source:
        for shard in order:
            if shard in ours or shard in entry.missing():
                entry.write(shard, _compute_shard(source, shard, entry.layout, filling, done=done))
            done += shard.stop - shard.start
    return False


def _compute_shard(
    source: OutputSource, shard: Shard, layout: Layout, filling: Filling, *, done: int
) -> dict[str, np.ndarray]:
    """Compute the outputs of a shard, in the dtypes in which they are stored."""

    def report(count: int) -> None:
        filling.on_examples(done + count)

    outputs = source(shard.view, shard.start, shard.stop, on_batch=report)
    return {spec.name: convert_stored(outputs[spec.name], spec) for spec in layout.arrays}


def make_filling(
    context: Context, total: int, examples: str, *, patience_seconds: float = 0.0, is_cached: bool = False
) -> Filling:
    """Make a `Filling` that reports to the listener of a command and stops with it.

    Args:
        context: listener, stop function and workers of the command.
        total: number of outputs to compute.
        examples: the examples, in words.
        patience_seconds: seconds during which it does not stop.
        is_cached: whether complete shards are written to the cache.
    """
    since = time.monotonic()

    def report(done: int) -> None:
        context.on_event(Progress("teacher", done, total, "examples"))
        code = context.stop()
        if code is not None and time.monotonic() - since >= patience_seconds:
            stored = "; complete shards are cached" if is_cached else ""
            text = f"stopped during teacher inference on {examples} ({done:,} of {total:,}{stored})"
            raise Interrupted(text, exit_code=code)

    def note(text: str, warning: bool) -> None:
        context.on_event(Note(text, warning=warning))

    workers = context.workers
    return Filling(report, note, context.stop, Slice(workers.index, workers.count), writes=not context.dry_run)
