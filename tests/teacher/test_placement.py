"""Where answers are kept, and to how many views."""

from __future__ import annotations

import pytest

from kdcli.errors import StorageError, UsageError
from kdcli.teacher.placement import FreeSpace, Placement, choose_placement

LARGE = FreeSpace(cache=10**9, memory=10**9)


def chosen(wanted="auto", views="auto", *, augmented=True, epochs=24, view_bytes=100, room=LARGE) -> Placement:
    return choose_placement(wanted, views, augmented=augmented, epochs=epochs, view_bytes=view_bytes, room=room)


@pytest.mark.parametrize("views", ["auto", "all", 5])
def test_without_augmentation_there_is_one_view(views):
    found = chosen(views=views, augmented=False)
    assert (found.mode, found.views, found.reason) == ("disk", 1, "they fit into the cache")


@pytest.mark.parametrize(("epochs", "count"), [(1, 1), (3, 3), (8, 8), (9, 8), (1000, 8)])
def test_auto_keeps_a_view_for_each_epoch_and_eight_at_most(epochs, count):
    found = chosen(epochs=epochs)
    assert (found.mode, found.views) == ("disk", count)
    assert ("every epoch has a view of its own" in found.reason) == (epochs <= 8)


@pytest.mark.parametrize(("cache", "count"), [(800, 8), (799, 7), (400, 4), (399, None)])
def test_auto_keeps_as_many_views_as_fit_and_four_at_least(cache, count):
    found = chosen(room=FreeSpace(cache=cache, memory=10**9))
    assert (found.mode, found.views) == ("live" if count is None else "disk", count)
    if count is None:
        assert found.reason == (
            "400 bytes of answers are too many: the cache may take 399 (--cache-limit); "
            "teacher.targets=memory would hold them"
        )
    else:
        assert ("as many as fit (8 are usual)" in found.reason) == (count < 8)


def test_views_that_are_asked_for_are_kept_or_asked_live():
    assert chosen(views=3) == Placement("disk", 3, "they fit into the cache")
    assert chosen(views=3, room=FreeSpace(cache=299, memory=10**9)).mode == "live"
    assert chosen(views=3, room=FreeSpace(cache=299, memory=10**9)).views == 3


def test_no_more_views_are_answered_than_there_are_epochs():
    assert chosen(views=16, epochs=5).views == 5


def test_answers_that_lie_in_the_cache_already_are_said():
    found = chosen(augmented=False, room=FreeSpace(cache=100, memory=10**9, there=True))
    assert found.reason == "all of them lie in the cache already"


def test_all_views_are_asked_live():
    found = chosen(views="all")
    assert (found.mode, found.views) == ("live", None)
    assert "nothing to keep" in found.reason


@pytest.mark.parametrize("wanted", ["memory", "disk"])
def test_all_views_cannot_be_kept(wanted):
    with pytest.raises(UsageError, match=f"teacher.targets: {wanted} cannot be") as caught:
        chosen(wanted, "all")
    assert "teacher.views=8" in caught.value.hint


def test_live_is_obeyed():
    assert chosen("live") == Placement("live", None, "as asked")
    assert chosen("live", 3) == Placement("live", 3, "as asked")
    assert chosen("live", augmented=False) == Placement("live", 1, "as asked")


def test_memory_is_obeyed_whatever_there_is():
    assert chosen("memory", 3, room=FreeSpace(cache=0, memory=0)) == Placement("memory", 3, "as asked")


def test_without_a_cache_answers_go_to_memory_where_they_fit_twice():
    unusable = "the cache cannot be used (/c: it cannot be written)"
    kept = chosen(augmented=False, room=FreeSpace(cache=None, memory=400, unusable=unusable))
    assert kept == Placement("memory", 1, f"they fit in memory; {unusable}")
    live = chosen(augmented=False, room=FreeSpace(cache=None, memory=399, unusable=unusable))
    assert (live.mode, live.reason) == (
        "live",
        "100 bytes of answers are too many: 399 bytes are free",
    )


def test_a_disk_that_is_asked_for_and_too_small_is_refused():
    with pytest.raises(StorageError) as caught:
        chosen("disk", 8, room=FreeSpace(cache=799, memory=10**9))
    assert caught.value.exit_code == 5
    assert "800 bytes of answers are needed, the cache may take 799" in caught.value.message
    assert "--cache-limit" in caught.value.hint
