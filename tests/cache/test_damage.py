"""Damaged shards are never used: they are reported, and their outputs are computed again."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from cached_outputs import COMPONENTS, LAYOUT, assert_whole, fill, made

from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout

WAYS = ("truncate", "flip", "zero", "empty", "swap", "other entry", "other layout", "longer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A complete entry, and another one with different outputs in the same layout."""
    folder = tmp_path_factory.mktemp("damage")
    fill(folder)
    fill(folder, {**COMPONENTS, "teacher.weights": "other"}, seed=1)
    return folder


def damage(folder, way, chance):
    """Damage shards; return the damaged ones."""
    entry = Entry.find(folder, COMPONENTS)
    shard, second = chance.sample(LAYOUT.shards, 2)
    path = entry.path / shard.file_name
    content = bytearray(path.read_bytes())
    if way == "truncate":
        del content[chance.randrange(1, len(content)) :]
    elif way == "flip":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif way == "zero":
        start = chance.randrange(len(content) // 4096) * 4096
        content[start : start + 4096] = bytes(4096)
    elif way == "empty":
        content.clear()
    elif way == "longer":
        content += bytes(chance.randrange(1, 5000))
    elif way == "swap":
        other = entry.path / second.file_name
        content = other.read_bytes()
        other.write_bytes(path.read_bytes())
    elif way == "other entry":
        there = Entry.find(folder, {**COMPONENTS, "teacher.weights": "other"})
        content = (there.path / shard.file_name).read_bytes()
    elif way == "other layout":
        layout = Layout(5_000, 2, (ArraySpec("logits", "float16", (3,)), ArraySpec("hint", "float16", (1, 2))))
        wrong = fill(folder / "wrong", layout=layout)[0]
        content = (wrong.path / shard.file_name).read_bytes()
        shutil.rmtree(folder / "wrong")
    path.unlink()
    path.write_bytes(content)
    return {shard, second} if way == "swap" else {shard}


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_shard_is_never_used(folder, way):
    chance = random.Random(way)
    for _ in range(25):
        wrong = damage(folder, way, chance)
        entry = Entry.find(folder, COMPONENTS)
        assert set(entry.missing()) == wrong
        assert len(entry.damaged) == len(wrong)
        for shard in wrong:
            assert any(str(entry.path / shard.file_name) in text for text in entry.damaged)
        assert fill(folder)[1] == len(wrong)
        assert_whole(folder)


def test_the_kind_of_damage_is_described(folder):
    chance = random.Random(0)
    said = {}
    for way in ("flip", "swap", "other entry"):
        damage(folder, way, chance)
        entry = Entry.find(folder, COMPONENTS)
        entry.missing()
        said[way] = entry.damaged[0].split(": ", 1)[1]
        fill(folder)
    assert said == {
        "flip": "the file is damaged",
        "swap": "contains the outputs of another shard",
        "other entry": "contains outputs of another teacher or for other examples",
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\0" * 4096, b"[" * 100_000, b"null"])
def test_damaged_metadata_is_ignored_and_valid_shards_are_reused(tmp_path, content):
    entry, _ = fill(tmp_path)
    (entry.path / "about.json").write_bytes(content)
    assert Entry.find(tmp_path, COMPONENTS) is None
    again, count = fill(tmp_path)
    assert count == 0 and again.damaged == []
    assert_whole(tmp_path)


def test_changed_metadata_is_ignored(tmp_path):
    entry, _ = fill(tmp_path)
    path = entry.path / "about.json"
    whole = path.read_bytes()
    chance = random.Random(0)
    for at in chance.sample(range(len(whole)), 150):
        changed = bytearray(whole)
        changed[at] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        found = Entry.find(tmp_path, COMPONENTS)
        # A change of white space does not change the content.
        assert found is None or json.loads(changed) == json.loads(whole)


def test_a_renamed_or_copied_folder_is_another_entry(tmp_path):
    entry, _ = fill(tmp_path)
    other = made(tmp_path, {**COMPONENTS, "split": "test"})
    shutil.rmtree(other.path)
    shutil.copytree(entry.path, other.path)
    assert Entry.find(tmp_path, {**COMPONENTS, "split": "test"}) is None
    made(tmp_path, {**COMPONENTS, "split": "test"})
    found = Entry.find(tmp_path, {**COMPONENTS, "split": "test"})
    assert found.missing() == LAYOUT.shards
    assert "another teacher" in found.damaged[0]
