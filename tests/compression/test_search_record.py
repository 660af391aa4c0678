"""The record of a search: what its names mean."""

from __future__ import annotations

from kdcli.compression.record import SearchRecord, name_repeat


def test_the_name_of_a_repeat_is_read_back():
    names = ("cnn", "cnn-seed-1")
    unused = dict.fromkeys(("metric", "max_drop", "allowed_drop", "latency_bound_ms", "costs", "schedule"))
    record = SearchRecord(requested={}, inputs={}, candidates=dict.fromkeys(names), **unused)
    for name in names:
        assert record.split_repeat(name) == (name, None)
        assert record.split_repeat(name_repeat(name, 7)) == (name, 7)
