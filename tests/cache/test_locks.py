"""Locks: one process fills an entry at a time, and the others learn which one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cached_outputs import COMPONENTS, made, no_stop

from kdcli.cache.entry import Entry
from kdcli.cache.locks import acquire_entry_lock, describe_holder, hold_entry, remove_leftovers
from kdcli.errors import Interrupted, LockedError, StorageError
from kdcli.runs import writer

SUPPORT = Path(__file__).parents[1] / "support"
HOLDING = """
import sys, time
from pathlib import Path
from cached_outputs import *
with made(Path(sys.argv[1])).lock(on_wait=print, stop=no_stop):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


class Holder:
    """Another process that locks the entry for some seconds."""

    def __init__(self, folder, seconds):
        words = [sys.executable, "-c", HOLDING, str(folder), str(seconds)]
        self.process = subprocess.Popen(words, cwd=SUPPORT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"
        self.name = f"process {self.process.pid} on {socket.gethostname()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def nobody(text):
    pytest.fail(f"nobody is there: {text}")


def test_a_free_entry_is_locked_without_waiting(tmp_path):
    entry = made(tmp_path)
    for _ in range(2):
        with entry.lock(on_wait=nobody, stop=no_stop):
            assert describe_holder(entry.path) == f"process {os.getpid()} on {socket.gethostname()}"
        assert not (entry.path / "holder.json").exists()


def test_another_process_is_waited_for_and_reported_once(tmp_path):
    told = []
    with Holder(tmp_path, 1.0) as holder:
        with Entry.find(tmp_path, COMPONENTS).lock(on_wait=told.append, stop=no_stop):
            assert holder.process.wait(10) == 0
    assert told == [f"waiting for {holder.name}, which is computing the same outputs"]


def test_an_entry_removed_while_waiting_is_created_again(tmp_path):
    with Holder(tmp_path, 60):
        entry = Entry.find(tmp_path, COMPONENTS)
        with entry.lock(on_wait=lambda text: shutil.rmtree(entry.path), stop=no_stop):
            assert Entry.find(tmp_path, COMPONENTS) is not None


def test_waiting_stops_on_request(tmp_path):
    answers = iter([None, None, 143])
    with Holder(tmp_path, 60) as holder:
        with pytest.raises(Interrupted, match=f"stopped while waiting for {holder.name}") as caught:
            with Entry.find(tmp_path, COMPONENTS).lock(on_wait=lambda text: None, stop=lambda: next(answers)):
                pytest.fail("somebody else holds it")
    assert caught.value.exit_code == 143


def test_the_lock_of_a_killed_process_is_free_and_its_leftovers_are_removed(tmp_path):
    with Holder(tmp_path, 60) as holder:
        pass
    path = Entry.find(tmp_path, COMPONENTS).path
    left = path / f"{writer.TEMPORARY_PREFIX}{holder.process.pid}-0000-000000.answers"
    other = path / f"{writer.TEMPORARY_PREFIX}{os.getpid()}-0000-000001.answers"
    for file in (left, other):
        file.write_bytes(b"half")
    assert (path / "holder.json").exists()
    with Entry.find(tmp_path, COMPONENTS).lock(on_wait=nobody, stop=no_stop):
        assert not left.exists() and other.exists()


def test_leftovers_of_another_machine_are_removed_only_if_they_are_old(tmp_path):
    path = made(tmp_path).path
    (path / "holder.json").write_text(json.dumps({"process": 17, "host": "elsewhere"}))
    young, old = path / f"{writer.TEMPORARY_PREFIX}17-a", path / f"{writer.TEMPORARY_PREFIX}17-b"
    for file in (young, old):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 700, time.time() - 700))
    with hold_entry(path, on_wait=nobody, stop=no_stop):
        assert young.exists() and not old.exists()


def test_leftovers_that_cannot_be_removed_stay(tmp_path, monkeypatch):
    def refusing(step, path):
        raise OSError(errno.EACCES, "")

    left = tmp_path / f"{writer.TEMPORARY_PREFIX}1-a"
    left.write_bytes(b"half")
    monkeypatch.setattr(writer, "hook", refusing)
    remove_leftovers(tmp_path, dead=1)
    assert left.exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"process": "x", "host": "h"}', b'{"process": 1}', b"\xff"]
)
def test_an_unreadable_holder_is_another_process(tmp_path, content):
    (tmp_path / "holder.json").write_bytes(content)
    assert describe_holder(tmp_path) == "another process"
    with hold_entry(tmp_path, on_wait=nobody, stop=no_stop):
        pass


def test_a_lock_without_waiting_names_the_process(tmp_path):
    with Holder(tmp_path, 60) as holder:
        with pytest.raises(LockedError, match=f"is in use by {holder.name}") as caught:
            acquire_entry_lock(Entry.find(tmp_path, COMPONENTS).path)
    assert caught.value.exit_code == 5


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), hold_entry(tmp_path, on_wait=nobody, stop=no_stop):
        raise KeyError
    acquire_entry_lock(tmp_path).release()
    assert not (tmp_path / "holder.json").exists()


def test_a_full_disk_is_reported_and_releases_the_lock(tmp_path, monkeypatch):
    def full(step, path):
        if step == "write":
            raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(writer, "hook", full)
    with pytest.raises(StorageError, match="disk full"), hold_entry(tmp_path, on_wait=nobody, stop=no_stop):
        pytest.fail("there was no room to say who holds it")
    monkeypatch.undo()
    with hold_entry(tmp_path, on_wait=nobody, stop=no_stop):
        pass


def test_a_folder_in_place_of_the_lock_is_a_storage_error(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StorageError, match="Is a directory"), hold_entry(tmp_path, on_wait=nobody, stop=no_stop):
        pytest.fail("it cannot be held")
