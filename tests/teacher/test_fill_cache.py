"""What the cache lacks is answered shard by shard, by one process or by several."""

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
    monkeypatch.setattr(Layout, "shard", property(lambda self: 10))
    return Layout(25, 2, (ArraySpec("logits", "float32", (3,)), ArraySpec("features", "float16", (2, 2))))


class Teacher:
    """Answers with the view and the position; counts what it is asked."""

    def __init__(self, scale: float = 1.0) -> None:
        self.request: list[tuple[int, int]] = []
        self.scale = scale

    def __call__(self, view, start, stop, *, on_batch=None):
        self.request.append((view, start))
        if on_batch is not None:
            on_batch(stop - start)
        values = 100.0 * view + np.arange(start, stop, dtype=np.float32)
        shaped = values[:, None, None] * np.ones((1, 2, 2), np.float32)
        return {"logits": np.repeat(values[:, None], 3, 1), "features": shaped * self.scale}


def filling(share=None, *, told=None, notes=None, stop=lambda: None) -> Filling:
    note = (lambda text, warning: notes.append(text)) if notes is not None else (lambda text, warning: None)
    return Filling(told.append if told is not None else lambda done: None, note, stop, share or Slice())


def fill(folder, layout, teacher, **options):
    given = {"layout": layout, "described": {}, "choices": {}, "filling": filling(**options)}
    return fill_cache(folder, COMPONENTS, lambda: nullcontext(teacher), **given)


EVERY = [(view, start) for view in (0, 1) for start in (0, 10, 20)]


def test_every_shard_is_answered_once_and_read_again(tmp_path, layout):
    teacher = Teacher()
    reader, hit = fill(tmp_path, layout, teacher)
    assert (hit, teacher.request) == (False, EVERY)
    again, hit = fill(tmp_path, layout, teacher)
    assert (hit, teacher.request) == (True, EVERY)
    for found in (reader, again):
        np.testing.assert_array_equal(found.take("logits", 1, np.array([24, 0, 7]))[:, 0], [124, 100, 107])
        assert found.take("features", 0, np.array([3])).dtype == np.float16


def test_memory_holds_what_the_cache_would(tmp_path, layout):
    kept = fill_memory(lambda: nullcontext(Teacher()), layout, filling())
    reader, _ = fill(tmp_path, layout, Teacher())
    for name in ("logits", "features"):
        np.testing.assert_array_equal(kept[name], reader.read_all(name))
        assert kept[name].dtype == reader.read_all(name).dtype


def test_progress_counts_the_answers_of_all_views_and_what_was_there(tmp_path, layout):
    told: list[int] = []
    fill(tmp_path, layout, Teacher(), told=told)
    assert told == [10, 20, 25, 35, 45, 50]
    entry = Entry.find(tmp_path, COMPONENTS)
    for shard in layout.shards[2:4]:
        (entry.path / shard.file_name).unlink()
    told.clear()
    teacher = Teacher()
    fill(tmp_path, layout, teacher, told=told)
    assert (teacher.request, told) == ([(0, 20), (1, 0)], [40, 50])


def test_after_a_stop_only_the_rest_is_answered(tmp_path, layout):
    def told(done):
        if done >= 20:
            raise Interrupted("stopped", exit_code=143)

    options = Filling(told, lambda text, warning: None, lambda: None)
    given = {"layout": layout, "described": {}, "choices": {}, "filling": options}
    with pytest.raises(Interrupted):
        fill_cache(tmp_path, COMPONENTS, lambda: nullcontext(Teacher()), **given)
    teacher = Teacher()
    _, hit = fill(tmp_path, layout, teacher)
    assert (hit, teacher.request) == (False, EVERY[1:])


def test_two_workers_begin_with_their_shares_and_ask_for_nothing_twice_where_they_share_a_disk(tmp_path, layout):
    other = Teacher()

    class First(Teacher):
        def __call__(self, view, start, stop, **options):
            if len(self.request) == 2:
                # Meanwhile the other worker answers its own share, and nothing of the first that is done.
                fill(tmp_path, layout, other, share=Slice(1, 2))
            return super().__call__(view, start, stop, **options)

    first = First()
    _, hit = fill(tmp_path, layout, first, share=Slice(0, 2))
    assert not hit
    assert first.request == [(0, 0), (0, 20), (1, 10)]
    assert other.request == [(0, 10), (1, 0), (1, 20), (1, 10)]


def test_a_worker_with_a_disk_of_its_own_answers_everything(tmp_path, layout):
    teacher = Teacher()
    reader, _ = fill(tmp_path, layout, teacher, share=Slice(1, 2))
    assert teacher.request == [(0, 10), (1, 0), (1, 20), (1, 10), (0, 20), (0, 0)]
    assert len(reader.read_all("logits")) == 50


def test_a_damaged_shard_is_told_and_answered_again(tmp_path, layout):
    fill(tmp_path, layout, Teacher())
    shard = Entry.find(tmp_path, COMPONENTS).path / layout.shards[4].file_name
    shard.write_bytes(shard.read_bytes()[:-1])
    notes: list[str] = []
    teacher = Teacher()
    fill(tmp_path, layout, teacher, notes=notes)
    assert teacher.request == [(1, 10)]
    assert len(notes) == 1 and shard.name in notes[0] and notes[0].endswith("; it is answered again")


def test_a_value_that_its_type_cannot_hold_is_never_kept(tmp_path, layout):
    with pytest.raises(Overflow) as caught:
        fill(tmp_path, layout, Teacher(scale=1000.0))
    assert caught.value.spec == layout.arrays[1]
    # 100,000 and more are the values of the second view.
    found = Entry.find(tmp_path, COMPONENTS)
    assert [shard.view for shard in found.missing()] == [1, 1, 1]
