"""Outputs that the cache lacks are computed shard by shard, by one worker or by several."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.errors import Interrupted
from kdcli.teacher.fill_cache import Filling, Slice, fill_cache, fill_memory
from kdcli.teacher.storage_dtype import Overflow

COMPONENTS = {"split": "train", "teacher.weights": "a"}


@pytest.fixture
def layout(monkeypatch) -> Layout:
    """Two views of 25 examples in shards of 10."""
    monkeypatch.setattr(Layout, "examples_per_shard", 10)
    return Layout(25, 2, (ArraySpec("logits", "float32", (3,)), ArraySpec("features", "float16", (2, 2))))


class Teacher:
    """Outputs depend on view and position; records the calls."""

    def __init__(self, scale: float = 1.0) -> None:
        self.calls: list[tuple[int, int]] = []
        self.scale = scale

    def __call__(self, view, start, stop, *, on_batch=None):
        self.calls.append((view, start))
        if on_batch is not None:
            on_batch(stop - start)
        values = 100.0 * view + np.arange(start, stop, dtype=np.float32)
        shaped = values[:, None, None] * np.ones((1, 2, 2), np.float32)
        return {"logits": np.repeat(values[:, None], 3, 1), "features": shaped * self.scale}


def filling(part=None, *, progress=None, notes=None) -> Filling:
    note = (lambda text, warning: notes.append(text)) if notes is not None else (lambda text, warning: None)
    report = progress.append if progress is not None else lambda done: None
    return Filling(report, note, lambda: None, part or Slice())


def fill(folder, layout, teacher, **report):
    options = {"layout": layout, "described": {}, "choices": {}, "filling": filling(**report)}
    return fill_cache(folder, COMPONENTS, lambda: nullcontext(teacher), **options)


EVERY = [(view, start) for view in (0, 1) for start in (0, 10, 20)]


def test_every_shard_is_computed_once_and_then_read(tmp_path, layout):
    teacher = Teacher()
    reader, hit = fill(tmp_path, layout, teacher)
    assert (hit, teacher.calls) == (False, EVERY)
    again, hit = fill(tmp_path, layout, teacher)
    assert (hit, teacher.calls) == (True, EVERY)
    for found in (reader, again):
        np.testing.assert_array_equal(found.take("logits", 1, np.array([24, 0, 7]))[:, 0], [124, 100, 107])
        assert found.take("features", 0, np.array([3])).dtype == np.float16


def test_memory_holds_the_same_outputs_as_the_cache(tmp_path, layout):
    arrays = fill_memory(lambda: nullcontext(Teacher()), layout, filling())
    reader, _ = fill(tmp_path, layout, Teacher())
    for name in ("logits", "features"):
        np.testing.assert_array_equal(arrays[name], reader.read_all(name))
        assert arrays[name].dtype == reader.read_all(name).dtype


def test_progress_counts_all_views_and_cached_outputs(tmp_path, layout):
    progress: list[int] = []
    fill(tmp_path, layout, Teacher(), progress=progress)
    assert progress == [10, 20, 25, 35, 45, 50]
    entry = Entry.find(tmp_path, COMPONENTS)
    for shard in layout.shards[2:4]:
        (entry.path / shard.file_name).unlink()
    progress.clear()
    teacher = Teacher()
    fill(tmp_path, layout, teacher, progress=progress)
    assert (teacher.calls, progress) == ([(0, 20), (1, 0)], [40, 50])


def test_only_missing_shards_are_computed_after_a_stop(tmp_path, layout):
    def stop(done):
        if done >= 20:
            raise Interrupted("stopped", exit_code=143)

    stopping = Filling(stop, lambda text, warning: None, lambda: None)
    options = {"layout": layout, "described": {}, "choices": {}, "filling": stopping}
    with pytest.raises(Interrupted):
        fill_cache(tmp_path, COMPONENTS, lambda: nullcontext(Teacher()), **options)
    teacher = Teacher()
    _, hit = fill(tmp_path, layout, teacher)
    assert (hit, teacher.calls) == (False, EVERY[1:])


def test_two_workers_on_one_disk_compute_no_shard_twice(tmp_path, layout):
    other = Teacher()

    class First(Teacher):
        def __call__(self, view, start, stop, **options):
            if len(self.calls) == 2:
                # The other worker computes its slice now, and nothing that the first one has done.
                fill(tmp_path, layout, other, part=Slice(1, 2))
            return super().__call__(view, start, stop, **options)

    first = First()
    _, hit = fill(tmp_path, layout, first, part=Slice(0, 2))
    assert not hit
    assert first.calls == [(0, 0), (0, 20), (1, 10)]
    assert other.calls == [(0, 10), (1, 0), (1, 20), (1, 10)]


def test_a_worker_with_its_own_disk_computes_everything(tmp_path, layout):
    teacher = Teacher()
    reader, _ = fill(tmp_path, layout, teacher, part=Slice(1, 2))
    assert teacher.calls == [(0, 10), (1, 0), (1, 20), (1, 10), (0, 20), (0, 0)]
    assert len(reader.read_all("logits")) == 50


def test_a_damaged_shard_is_reported_and_computed_again(tmp_path, layout):
    fill(tmp_path, layout, Teacher())
    shard = Entry.find(tmp_path, COMPONENTS).path / layout.shards[4].file_name
    shard.write_bytes(shard.read_bytes()[:-1])
    notes: list[str] = []
    teacher = Teacher()
    fill(tmp_path, layout, teacher, notes=notes)
    assert teacher.calls == [(1, 10)]
    assert len(notes) == 1 and shard.name in notes[0] and notes[0].endswith("; its outputs are computed again")


def test_a_value_that_overflows_its_dtype_is_not_stored(tmp_path, layout):
    with pytest.raises(Overflow) as caught:
        fill(tmp_path, layout, Teacher(scale=1000.0))
    assert caught.value.spec == layout.arrays[1]
    # Only the values of the second view, 100,000 and more, overflow.
    found = Entry.find(tmp_path, COMPONENTS)
    assert [shard.view for shard in found.missing()] == [1, 1, 1]
