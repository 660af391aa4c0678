"""A small cache entry for tests: six shards of random outputs, the same in every process."""

from __future__ import annotations

import time

import numpy as np

from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.runs.packed_file import parse_dtype

LAYOUT = Layout(5_000, 2, (ArraySpec("logits", "float16", (3,)), ArraySpec("hint", "bfloat16", (1, 2))))
COMPONENTS = {"teacher.weights": "abc", "teacher.precision": "float32", "split": "train", "data.content": "def"}
DESCRIBED = {"teacher": "teacher.keras", "data": "digits", "split": "train"}


def answers(layout=LAYOUT, seed=0):
    """(views, examples, ...) by name."""
    random = np.random.default_rng(seed)
    return {
        spec.name: random.normal(size=(layout.views, layout.examples, *spec.shape)).astype(parse_dtype(spec.dtype))
        for spec in layout.arrays
    }


def part(arrays, shard):
    """The outputs of a shard."""
    return {name: array[shard.view, shard.start : shard.stop] for name, array in arrays.items()}


def made(folder, components=COMPONENTS, layout=LAYOUT, choices=None):
    """Create an empty entry, or open the existing one."""
    return Entry.create(folder, components, layout=layout, described=DESCRIBED, choices=choices or {})


def no_stop():
    """Never request a stop."""


def fill(folder, components=COMPONENTS, layout=LAYOUT, *, seed=0, on_wait=print, seconds=0.0):
    """Fill an entry as a run does; return it, and how many shards were written, in `seconds` each."""
    entry = Entry.find(folder, components)
    if entry is not None and not entry.missing():
        return entry, 0
    entry = entry or made(folder, components, layout)
    arrays = answers(layout, seed)
    with entry.lock(on_wait=on_wait, stop=no_stop):
        shards = entry.missing()
        for shard in shards:
            time.sleep(seconds)
            entry.write(shard, part(arrays, shard))
    return entry, len(shards)


def assert_whole(folder, components=COMPONENTS, layout=LAYOUT, *, seed=0):
    """Assert that all outputs exist and are correct."""
    reader = Entry.find(folder, components).open_reader()
    for name, array in answers(layout, seed).items():
        assert reader.read_all(name).tobytes() == array.tobytes()
