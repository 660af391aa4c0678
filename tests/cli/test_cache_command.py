"""kd cache: dir, ls, show, rm."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from kdcli.cache.decisions import load_decision, store_decision
from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.runs.packed_file import parse_dtype

COMPONENTS = {
    "teacher.weights": "abc",
    "teacher.precision": "mixed_bfloat16",
    "split": "train",
    "data.content": "d",
}
LAYOUT = Layout(4_000, 2, (ArraySpec("logits", "float32", (3,)), ArraySpec("block3", "bfloat16", (2, 2))))


def add(folder, split="train", *, shards=4, used=86_400):
    """An entry with so many shards."""
    described = {"teacher": "teacher.keras", "data": "digits", "split": split}
    components = {**COMPONENTS, "split": split}
    entry = Entry.create(
        folder, components, layout=LAYOUT, described=described, choices={"measured": ["as float32: equal"]}
    )
    for shard in LAYOUT.shards[:shards]:
        zeros = {
            spec.name: np.zeros((shard.stop - shard.start, *spec.shape), parse_dtype(spec.dtype))
            for spec in LAYOUT.arrays
        }
        entry.write(shard, zeros)
    (entry.path / "used").touch()
    os.utime(entry.path / "used", (used, used))
    return entry


def size_of(entry):
    return sum(file.stat().st_size for file in entry.path.iterdir())


def test_dir_prints_the_folder_and_creates_nothing(kd, own_cache):
    ran = kd("cache", "dir")
    assert (ran.code, ran.out, ran.err) == (0, f"{own_cache}\n", "")
    assert not own_cache.exists()


def test_ls_of_an_empty_cache_creates_nothing(kd, own_cache):
    ran = kd("cache", "ls")
    assert (ran.code, ran.out, ran.err) == (0, "0 entries, 0 bytes in own-cache\n", "")
    document = {"schema": "kd.cache/1", "folder": "own-cache", "bytes": 0, "entries": []}
    assert kd("cache", "ls", "--json").document == document
    assert not own_cache.exists()


def test_ls_prints_a_table_with_the_most_recently_used_first_and_a_total(kd, own_cache):
    old, new = add(own_cache), add(own_cache, "validation", shards=3, used=172_800)
    ran = kd("cache", "ls")
    assert (ran.code, ran.err) == (0, "")
    heading, first, second, total = (line.split() for line in ran.out.splitlines())
    assert heading == "key outputs of views examples precision shards bytes last used".split()
    words = ["teacher.keras,", "digits,"]
    assert first == [
        new.fingerprint[:12], *words, "validation", "2", "4,000", "mixed_bfloat16", "3", "of", "4",
        f"{size_of(new):,}", "1970-01-03T00:00:00Z",
    ]  # fmt: skip
    assert second == [
        old.fingerprint[:12], *words, "train", "2", "4,000", "mixed_bfloat16", "4",
        f"{size_of(old):,}", "1970-01-02T00:00:00Z",
    ]  # fmt: skip
    assert " ".join(total) == f"2 entries, {size_of(old) + size_of(new):,} bytes in own-cache"


def test_ls_as_json(kd, own_cache):
    entry = add(own_cache, shards=3)
    document = kd("cache", "ls", "--json").document
    assert document == {
        "schema": "kd.cache/1",
        "folder": "own-cache",
        "bytes": size_of(entry),
        "entries": [
            {
                "key": entry.fingerprint[:12],
                "described": {"teacher": "teacher.keras", "data": "digits", "split": "train"},
                "views": 2,
                "examples": 4_000,
                "precision": "mixed_bfloat16",
                "bytes": size_of(entry),
                "shards": 3,
                "of_shards": 4,
                "complete": False,
                "used": "1970-01-02T00:00:00Z",
            }
        ],
    }


def test_a_damaged_entry_is_listed_refused_and_removed(kd, own_cache):
    entry = add(own_cache)
    (entry.path / "about.json").write_text("{")
    assert kd("cache", "ls").out.splitlines()[1].split()[:2] == [entry.fingerprint[:12], "damaged"]
    (listed,) = kd("cache", "ls", "--json").document["entries"]
    assert (listed["described"], listed["shards"], listed["of_shards"], listed["complete"]) == (
        None,
        4,
        None,
        False,
    )
    shown = kd("cache", "show", entry.fingerprint[:4])
    assert (shown.code, shown.out) == (5, "")
    assert "the metadata of the entry is damaged" in shown.err
    assert f"hint: kd cache rm {entry.fingerprint[:4]}" in shown.err
    assert kd("cache", "rm", entry.fingerprint[:4]).code == 0
    assert not entry.path.exists()


def test_show_prints_everything_about_an_entry(kd, own_cache):
    entry = add(own_cache)
    ran = kd("cache", "show", entry.fingerprint[:6])
    assert (ran.code, ran.err) == (0, "")
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    for expected in (
        f"path own-cache/answers/{entry.path.name}",
        f"fingerprint {entry.fingerprint}",
        "described teacher: teacher.keras",
        "components teacher.weights: abc",
        "stored logits float32 [3], block3 bfloat16 [2, 2] per example",
        "choices measured: as float32: equal",
        f"versions numpy: {np.__version__}",
    ):
        assert expected in lines
    document = kd("cache", "show", entry.fingerprint[:6], "--json").document
    assert document["schema"] == "kd.cache-show/1"
    assert document["components"] == COMPONENTS
    assert Layout.from_json(document["layout"]) == LAYOUT
    (listed,) = kd("cache", "ls", "--json").document["entries"]
    assert {name: document[name] for name in listed} == listed


def test_rm_removes_the_named_entries_and_prints_the_bytes_freed(kd, own_cache):
    first, second = add(own_cache), add(own_cache, "validation")
    freed = size_of(first)
    ran = kd("cache", "rm", first.fingerprint[:8], first.fingerprint[:12])
    assert (ran.code, ran.out, ran.err) == (0, f"removed 1 entry, freed {freed:,} bytes\n", "")
    assert not first.path.exists() and second.path.exists()
    quiet = kd("cache", "rm", "--quiet", second.fingerprint)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert not second.path.exists()


def test_rm_all_removes_every_entry_and_decision_and_nothing_else(kd, own_cache):
    entries = [add(own_cache), add(own_cache, "validation")]
    store_decision(own_cache, COMPONENTS, {"precision": "float32"})
    (own_cache / "remote").mkdir()
    (own_cache / "remote" / "model.keras").write_text("mine")
    freed = sum(map(size_of, entries)) + sum(file.stat().st_size for file in (own_cache / "choices").iterdir())
    ran = kd("cache", "rm", "--all")
    assert (ran.code, ran.out) == (0, f"removed 2 entries, freed {freed:,} bytes\n")
    assert not any(entry.path.exists() for entry in entries)
    assert load_decision(own_cache, COMPONENTS) is None
    assert (own_cache / "remote" / "model.keras").read_text() == "mine"
    assert kd("cache", "rm", "--all").out == "removed 0 entries, freed 0 bytes\n"


@pytest.mark.parametrize("words", [[], ["abc", "--all"]])
def test_rm_needs_either_keys_or_all(kd, own_cache, words):
    entry = add(own_cache)
    ran = kd("cache", "rm", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "error: expected either KEY ... or --all",
        "hint: kd cache ls",
    ]
    assert entry.path.exists()


@pytest.mark.parametrize("command", ["show", "rm"])
def test_an_unknown_key_suggests_the_closest_and_removes_nothing(kd, own_cache, command):
    entry = add(own_cache)
    key = entry.fingerprint[:12]
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    ran = kd("cache", command, wrong)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: no cache entry has the key '{wrong}'; did you mean '{key}'?\nhint: kd cache ls\n"
    assert kd("cache", "rm", key, "zzz").code == 2
    assert entry.path.exists()


def test_rm_of_an_entry_in_use_names_the_process_and_removes_nothing(kd, own_cache):
    entry, other = add(own_cache), add(own_cache, "validation")
    with entry.lock(on_wait=print, stop=lambda: None):
        ran = kd("cache", "rm", "--all")
    assert (ran.code, ran.out) == (5, "")
    assert f"is in use by process {os.getpid()} on " in ran.err
    assert ran.err.splitlines()[-1] == "hint: wait until it is done"
    assert entry.path.exists() and other.path.exists()


def test_no_command_imports_tensorflow_or_keras(own_cache, tmp_path):
    key = add(own_cache).fingerprint[:12]
    code = (
        "import sys\n"
        "from kdcli.cli.app import run\n"
        f"for words in (['dir'], ['ls'], ['ls', '--json'], ['show', '{key}'], ['rm', '{key}']):\n"
        "    assert run(['cache', *words]) == 0\n"
        "    assert not {'tensorflow', 'keras'} & set(sys.modules), words\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_help_imports_neither_pydantic_nor_numpy(tmp_path):
    code = (
        "import sys\n"
        "from kdcli.cli.app import run\n"
        "assert run(['--help']) == 0\n"
        "assert not {'pydantic', 'numpy', 'tensorflow'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_file_in_place_of_the_cache_is_refused(kd, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "file"))
    ran = kd("cache", "ls")
    assert (ran.code, ran.out) == (5, "")
    assert "it is a file" in ran.err and "KD_CACHE_DIR" in ran.err
