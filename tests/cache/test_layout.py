"""The shards of a layout."""

from __future__ import annotations

import pytest

from kdcli.cache.layout import ArraySpec, Layout, Shard, is_shard_name


def test_the_size_covers_all_arrays_examples_and_views():
    layout = Layout(100, 3, (ArraySpec("logits", "float32", (10,)), ArraySpec("hint", "bfloat16", (2, 4))))
    assert layout.bytes_per_example == 10 * 4 + 8 * 2
    assert layout.bytes == 56 * 100 * 3


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((10,), "float32", 2_048),
        ((0,), "float32", 2_048),
        ((5_000,), "float32", 1_600),
        ((1_000,), "float16", 2_048),
        ((32_000_000,), "float16", 1),
    ],
)
def test_a_shard_holds_at_most_2048_examples_and_32_mb_and_at_least_one(shape, dtype, expected):
    assert Layout(5, 1, (ArraySpec("a", dtype, shape),)).examples_per_shard == expected


def test_shards_cover_every_view_and_example_once_in_order():
    layout = Layout(5_000, 2, (ArraySpec("logits", "float32", (3,)),))
    assert layout.shards == (
        Shard(0, 0, 0, 2_048),
        Shard(0, 1, 2_048, 4_096),
        Shard(0, 2, 4_096, 5_000),
        Shard(1, 0, 0, 2_048),
        Shard(1, 1, 2_048, 4_096),
        Shard(1, 2, 4_096, 5_000),
    )


@pytest.mark.parametrize(("examples", "count"), [(1, 1), (2_048, 1), (2_049, 2), (0, 0)])
def test_the_last_shard_contains_the_remaining_examples(examples, count):
    shards = Layout(examples, 1, (ArraySpec("logits", "float32", (3,)),)).shards
    assert len(shards) == count
    assert sum(shard.stop - shard.start for shard in shards) == examples


def test_a_layout_is_restored_from_json():
    layout = Layout(7, 2, (ArraySpec("logits", "float16", (10,)), ArraySpec("hint", "bfloat16", (2, 4))))
    assert Layout.from_json(layout.to_json()) == layout


def test_file_names_of_shards_are_recognized():
    shard = Shard(3, 12, 0, 1)
    assert shard.file_name == "0003-000012.answers"
    assert is_shard_name(shard.file_name)
    for name in ("0003-000012.answers.bak", "a0003-000012.answers", "about.json", "3-12.answers"):
        assert not is_shard_name(name)
