"""Where outputs are stored, and for how many views."""

from __future__ import annotations

import pytest

from kdcli.errors import StorageError, UsageError
from kdcli.teacher.targets_and_views import FreeSpace, Placement, choose_placement

LARGE = FreeSpace(cache=10**9, memory=10**9)


def choose(requested="auto", views="auto", *, augmented=True, epochs=24, view_bytes=100, space=LARGE) -> Placement:
    options = {"augmented": augmented, "epochs": epochs, "view_bytes": view_bytes, "space": space}
    return choose_placement(requested, views, **options)


@pytest.mark.parametrize("views", ["auto", "all", 5])
def test_without_augmentation_there_is_one_view(views):
    found = choose(views=views, augmented=False)
    assert (found.mode, found.views, found.reason) == ("disk", 1, "fits in the cache")


@pytest.mark.parametrize(("epochs", "count"), [(1, 1), (3, 3), (8, 8), (9, 8), (1000, 8)])
def test_auto_stores_a_view_for_each_epoch_and_at_most_eight(epochs, count):
    found = choose(epochs=epochs)
    assert (found.mode, found.views) == ("disk", count)
    assert ("one view for each epoch" in found.reason) == (epochs <= 8)


@pytest.mark.parametrize(("cache", "count"), [(800, 8), (799, 7), (400, 4), (399, None)])
def test_auto_stores_as_many_views_as_fit_and_at_least_four(cache, count):
    found = choose(space=FreeSpace(cache=cache, memory=10**9))
    assert (found.mode, found.views) == ("live" if count is None else "disk", count)
    if count is None:
        assert found.reason == (
            "the outputs need 400 bytes, the cache may take 399 bytes (--cache-limit); "
            "they fit in memory with teacher.targets=memory"
        )
    else:
        assert ("more views do not fit" in found.reason) == (count < 8)


def test_requested_views_are_stored_or_live():
    assert choose(views=3) == Placement("disk", 3, "fits in the cache")
    assert choose(views=3, space=FreeSpace(cache=299, memory=10**9)).mode == "live"
    assert choose(views=3, space=FreeSpace(cache=299, memory=10**9)).views == 3


def test_there_are_no_more_views_than_epochs():
    assert choose(views=16, epochs=5).views == 5


def test_outputs_that_are_cached_need_no_space():
    found = choose(augmented=False, space=FreeSpace(cache=100, memory=10**9, is_cached=True))
    assert found.reason == "already in the cache"


def test_all_views_are_live():
    found = choose(views="all")
    assert (found.mode, found.views) == ("live", None)
    assert "new outputs in every epoch" in found.reason


@pytest.mark.parametrize("requested", ["memory", "disk"])
def test_all_views_cannot_be_stored(requested):
    with pytest.raises(UsageError, match=f"teacher.targets={requested} needs a fixed number of views") as caught:
        choose(requested, "all")
    assert "teacher.views=8" in caught.value.hint


def test_live_is_used_on_request():
    assert choose("live") == Placement("live", None, "as requested")
    assert choose("live", 3) == Placement("live", 3, "as requested")
    assert choose("live", augmented=False) == Placement("live", 1, "as requested")


def test_memory_is_used_on_request_without_a_limit():
    assert choose("memory", 3, space=FreeSpace(cache=0, memory=0)) == Placement("memory", 3, "as requested")


def test_without_a_cache_outputs_may_take_a_quarter_of_the_free_memory():
    reason = "the cache cannot be used (/c: it cannot be written)"
    stored = choose(augmented=False, space=FreeSpace(cache=None, memory=400, no_cache_reason=reason))
    assert stored == Placement("memory", 1, f"fits in memory; {reason}")
    live = choose(augmented=False, space=FreeSpace(cache=None, memory=399, no_cache_reason=reason))
    assert (live.mode, live.reason) == (
        "live",
        "the outputs need 100 bytes, more than a quarter of the free memory (399 bytes)",
    )


def test_disk_is_refused_if_the_cache_is_too_small():
    with pytest.raises(StorageError) as caught:
        choose("disk", 8, space=FreeSpace(cache=799, memory=10**9))
    assert caught.value.exit_code == 5
    assert "the outputs need 800 bytes, the cache may take 799 bytes" in caught.value.message
    assert "--cache-limit" in caught.value.hint
