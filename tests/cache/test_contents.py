"""The contents of the cache, for users of the library."""

from __future__ import annotations

import pytest

from kdcli.cache.contents import list_cache, remove_entries, show_entry
from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.errors import UsageError


@pytest.fixture
def entries(own_cache):
    """Three empty entries."""
    layout = Layout(10, 1, (ArraySpec("logits", "float32", (3,)),))
    return [
        Entry.create(own_cache, {"split": split}, layout=layout, described={"split": split}, choices={})
        for split in ("train", "validation", "test")
    ]


def test_all_entries_are_listed_with_their_sizes(entries, own_cache):
    cache = list_cache()
    assert cache.folder == own_cache
    assert {entry.path for entry in cache.entries} == {entry.path for entry in entries}
    assert cache.bytes == sum(file.stat().st_size for entry in entries for file in entry.path.iterdir())
    assert cache.to_json()["bytes"] == cache.bytes > 0


def test_an_entry_is_shown_with_its_components(entries):
    shown = show_entry(entries[1].fingerprint[:12])
    assert shown["components"] == {"split": "validation"}
    assert (shown["shards"], shown["of_shards"], shown["complete"]) == (0, 1, False)


def test_removing_counts_each_entry_once(entries):
    first, _, third = entries
    freed = sum(file.stat().st_size for entry in (first, third) for file in entry.path.iterdir())
    keys = [first.fingerprint[:12], third.fingerprint[:12], first.fingerprint[:20]]
    assert remove_entries(keys) == (2, freed)
    assert [entry.path.exists() for entry in entries] == [False, True, False]


def test_one_wrong_key_removes_nothing(entries):
    with pytest.raises(UsageError, match="no cache entry has the key 'x'"):
        remove_entries([entries[0].fingerprint[:12], "x"])
    assert all(entry.path.exists() for entry in entries)


def test_everything_is_removed(entries):
    assert remove_entries(everything=True)[0] == 3
    assert not any(entry.path.exists() for entry in entries)
    assert remove_entries() == (0, 0)
