"""Which file is dominated, and which one a wish picks."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.artifacts.file_selection import check_pick, mark_dominated, pick_file
from kdcli.errors import UsageError
from kdcli.runs.export_results import Artifact


def make(name, size, time, quality, *, written=True):
    return Artifact(
        name=name, format="litert", quantize="none", path=Path(name) if written else None, bytes=size, input=None,
        max_abs_diff=0.0, p50_ms=time, quality=quality,
    )  # fmt: skip


def test_a_file_is_dominated_by_one_that_is_as_good_in_everything_and_better_in_one():
    files = [
        make("large", 100, 1.0, 0.9),
        make("small", 50, 1.0, 0.9),
        make("fast", 100, 0.5, 0.8),
        make("deleted", 1, 0.1, 1.0, written=False),
        make("untimed", 1000, None, 0.1),
        make("same", 50, 1.0, 0.9),
    ]
    found = {one.name: one.dominated_by for one in mark_dominated(files, passed={one.name for one in files})}
    assert found == {
        "large": "small", "small": None, "fast": None, "deleted": None, "untimed": None, "same": None
    }  # fmt: skip


@pytest.mark.parametrize(("wish", "name"), [("smallest", "small"), ("fastest", "fast"), ("best", "good")])
def test_a_wish_picks_among_the_written_files(wish, name):
    files = [
        make("good", 100, 1.0, 0.95),
        make("small", 50, 1.0, 0.9),
        make("fast", 100, 0.5, 0.8),
        make("deleted", 1, 0.1, 1.0, written=False),
    ]
    assert pick_file(files, wish).name == name
    assert pick_file(files, None) is None


def test_of_equally_good_files_the_smaller_one_is_picked():
    assert pick_file([make("large", 100, 1.0, 0.9), make("small", 50, 2.0, 0.9)], "best").name == "small"


def test_nothing_is_picked_where_nothing_was_written():
    assert pick_file([make("deleted", 1, 0.1, 1.0, written=False)], "smallest") is None


def test_unknown_wishes_and_those_that_are_not_measured_are_refused():
    with pytest.raises(UsageError, match="--pick must be one of smallest, fastest, best, got 'tiny'"):
        check_pick("tiny", latency=True, with_data=True)
    with pytest.raises(UsageError, match="no effect with --no-latency"):
        check_pick("fastest", latency=False, with_data=True)
    with pytest.raises(UsageError, match="--pick best has no effect without data"):
        check_pick("best", latency=True, with_data=False)


def test_a_file_that_fails_a_gate_is_neither_picked_nor_dominates():
    files = mark_dominated([make("small", 1, 0.1, 1.0), make("large", 100, 1.0, 0.9)], passed={"large"})
    assert [one.dominated_by for one in files] == [None, None]
    assert pick_file(files, "smallest").name == "large"
