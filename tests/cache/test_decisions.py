"""Stored decisions, and the explanation of a cache miss."""

from __future__ import annotations

import errno
import os
import time

import pytest
from cached_outputs import COMPONENTS, fill, made

from kdcli.cache.checksummed_json import compute_fingerprint, read_checksummed, write_checksummed
from kdcli.cache.decisions import explain_miss, load_decision, remove_decisions, store_decision
from kdcli.runs import writer

DECIDED = {"precision": "mixed_bfloat16", "agreement": 0.9995, "texts": ["grün"], "nothing": None}


def test_a_fingerprint_does_not_depend_on_process_or_order():
    assert compute_fingerprint({"b": 1, "a": "x"}) == compute_fingerprint({"a": "x", "b": 1})
    assert compute_fingerprint({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    different = [{"a": 1}, {"a": "1"}, {"a": 1.5}, {"b": 1}, {"a": 1, "b": 1}, {}]
    assert len({compute_fingerprint(one) for one in different}) == len(different)


def test_a_decision_is_stored_and_loaded(tmp_path):
    assert load_decision(tmp_path, COMPONENTS) is None
    store_decision(tmp_path, COMPONENTS, DECIDED)
    assert load_decision(tmp_path, COMPONENTS) == DECIDED
    assert load_decision(tmp_path, {**COMPONENTS, "split": "test"}) is None
    store_decision(tmp_path, COMPONENTS, {"precision": "float32"})
    assert load_decision(tmp_path, COMPONENTS) == {"precision": "float32"}


def test_a_damaged_decision_is_ignored_and_made_again(tmp_path):
    store_decision(tmp_path, COMPONENTS, DECIDED)
    (path,) = (tmp_path / "choices").iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:-3], whole.replace(b"0.9995", b"0.9996"), b"[]", b"\xff"):
        path.write_bytes(content)
        assert load_decision(tmp_path, COMPONENTS) is None
    store_decision(tmp_path, COMPONENTS, DECIDED)
    assert load_decision(tmp_path, COMPONENTS) == DECIDED


def test_a_renamed_decision_is_ignored(tmp_path):
    store_decision(tmp_path, COMPONENTS, DECIDED)
    (path,) = (tmp_path / "choices").iterdir()
    other = {**COMPONENTS, "split": "test"}
    path.rename(path.with_name(f"{compute_fingerprint(other)[:32]}.json"))
    assert load_decision(tmp_path, other) is None


@pytest.mark.parametrize("step", ["mkdir", "open", "write", "rename"])
def test_nothing_is_stored_in_a_cache_that_cannot_be_written(tmp_path, monkeypatch, step):
    def failing(at, path):
        if at == step:
            raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(writer, "hook", failing)
    store_decision(tmp_path, COMPONENTS, DECIDED)
    assert load_decision(tmp_path, COMPONENTS) is None
    assert not list(tmp_path.rglob(f"{writer.TEMPORARY_PREFIX}*"))


def test_old_leftovers_of_killed_processes_are_removed(tmp_path):
    store_decision(tmp_path, COMPONENTS, DECIDED)
    left = tmp_path / "choices" / f"{writer.TEMPORARY_PREFIX}1-a.json"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 700, time.time() - 700))
    store_decision(tmp_path, COMPONENTS, DECIDED)
    assert not left.exists()


def test_all_decisions_are_removed_and_nothing_else(tmp_path):
    assert remove_decisions(tmp_path) == 0
    store_decision(tmp_path, COMPONENTS, DECIDED)
    (path,) = (tmp_path / "choices").iterdir()
    size = path.stat().st_size
    (tmp_path / "choices" / "mine.json").write_text("{}")
    assert remove_decisions(tmp_path) == size
    assert load_decision(tmp_path, COMPONENTS) is None
    assert os.listdir(tmp_path / "choices") == ["mine.json"]


def test_a_document_of_another_schema_is_not_read(tmp_path):
    write_checksummed(tmp_path / "a.json", {"schema": "one/1", "a": 1})
    assert read_checksummed(tmp_path / "a.json", "one/1") == {"schema": "one/1", "a": 1}
    assert read_checksummed(tmp_path / "a.json", "two/1") is None
    assert read_checksummed(tmp_path / "b.json", "one/1") is None
    assert read_checksummed(tmp_path, "one/1") is None


def test_the_most_similar_entry_explains_a_miss(tmp_path):
    key = fill(tmp_path)[0].fingerprint[:12]
    made(tmp_path, {**COMPONENTS, "teacher.weights": "other", "teacher.scale": "unit", "more": 1})
    wanted = {**COMPONENTS, "teacher.weights": "new", "teacher.precision": "mixed_bfloat16"}
    differ = f"cache entry {key} is not used: it differs in "
    expected = f"{differ}the teacher's weights, the teacher's precision"
    assert explain_miss(tmp_path, wanted) == explain_miss(tmp_path, wanted, teacher="teacher.keras") == expected
    # Another file is another teacher, as in each stage of a chain: there is nothing to explain.
    assert explain_miss(tmp_path, wanted, teacher="student.keras") is None
    more = {**COMPONENTS, "code.0": "a", "code.1": "b", "kept": "logits float32", "more": 1}
    assert explain_miss(tmp_path, more, teacher="student.keras") == (
        f"{differ}the custom code, the stored features and their dtypes, more"
    )


def test_a_component_of_only_one_entry_is_a_difference(tmp_path):
    key = fill(tmp_path)[0].fingerprint[:12]
    fewer = {name: value for name, value in COMPONENTS.items() if name != "teacher.precision"}
    differ = f"cache entry {key} is not used: it differs in "
    assert explain_miss(tmp_path, fewer) == f"{differ}the teacher's precision"
    more = {**COMPONENTS, "views.count": 8}
    assert explain_miss(tmp_path, more) == f"{differ}the number of views"


def test_a_miss_is_not_explained_by_entries_of_another_split(tmp_path):
    assert explain_miss(tmp_path, COMPONENTS) is None
    entry, _ = fill(tmp_path)
    assert explain_miss(tmp_path, COMPONENTS) is None
    assert explain_miss(tmp_path, {**COMPONENTS, "teacher.weights": "new", "split": "test"}) is None
    assert explain_miss(tmp_path, {**COMPONENTS, "teacher.weights": "new", "data.content": "new"}) is None
    (entry.path / "about.json").write_text("{")
    assert explain_miss(tmp_path, {**COMPONENTS, "teacher.weights": "new"}) is None
