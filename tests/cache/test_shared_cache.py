"""Several processes share one entry, and some are killed while they fill it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cached_outputs import COMPONENTS, LAYOUT, assert_whole, fill

from kdcli.cache.entry import Entry
from kdcli.runs import writer

SUPPORT = Path(__file__).parents[1] / "support"
FILLING = """
import sys
from pathlib import Path
from cached_outputs import *
folder = Path(sys.argv[1])
told = []
print("ready", flush=True)
sys.stdin.readline()
entry, count = fill(folder, on_wait=told.append, seconds=0.02)
assert_whole(folder)
assert "tensorflow" not in sys.modules
print(count, len(told), len(entry.damaged))
"""
PROCESSES = 8


def share(folder):
    """Eight processes fill and read one entry at once; returns the output of each."""
    words = [sys.executable, "-c", FILLING, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(words, cwd=SUPPORT, text=True, **pipes) for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, ended
    return [tuple(map(int, out.split())) for out, _ in ended]


def check_sharing(folder):
    said = share(folder)
    # One process filled the entry, while the others waited and were notified once.
    assert sorted(count for count, _, _ in said) == [0] * (PROCESSES - 1) + [len(LAYOUT.shards)]
    assert all(told <= 1 for _, told, _ in said)
    assert sum(told for _, told, _ in said) >= 1
    assert all(damaged == 0 for _, _, damaged in said)
    assert_whole(folder)
    assert not list(folder.rglob(f"{writer.TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("number", range(3))
def test_eight_processes_fill_an_entry_once(tmp_path, number):
    check_sharing(tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(20))
def test_eight_processes_fill_an_entry_once_every_time(tmp_path, number):
    check_sharing(tmp_path)


# The process forks: each child fills its own entry and kills itself at the n-th step of a write.
DYING = """
import os, signal, sys
from pathlib import Path
from kdcli.runs import writer
from cached_outputs import *

folder, call = Path(sys.argv[1]), 0
while True:
    call += 1
    own = folder / str(call)
    child = os.fork()
    if child == 0:
        seen = []
        def hook(step, path):
            seen.append(step)
            if len(seen) == call:
                os.kill(os.getpid(), signal.SIGKILL)
        writer.hook = hook
        fill(own)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.waitstatus_to_exitcode(status) == 0
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
print(call - 1)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """For every step of every write, the folder of a process that was killed at this step."""
    folder = tmp_path_factory.mktemp("killed")
    words = [sys.executable, "-c", DYING, str(folder)]
    ran = subprocess.run(words, cwd=SUPPORT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    count = int(ran.stdout)
    # The folder twice; metadata, holder and six shards in five steps each.
    assert count == 2 + 5 * (1 + 1 + len(LAYOUT.shards))
    return [folder / str(number + 1) for number in range(count)]


def test_a_process_killed_at_any_step_leaves_valid_shards(killed):
    counts = []
    for folder in killed:
        entry = Entry.find(folder, COMPONENTS)
        missing = LAYOUT.shards if entry is None else entry.missing()
        assert entry is None or entry.damaged == []
        # The existing shards are the first ones, without gaps.
        assert missing == LAYOUT.shards[len(LAYOUT.shards) - len(missing) :]
        waited = []
        assert fill(folder, on_wait=waited.append)[1] == len(missing)
        assert waited == []
        assert_whole(folder)
        counts.append(len(missing))
    assert counts == sorted(counts, reverse=True)
    assert set(counts) == set(range(len(LAYOUT.shards) + 1))


def test_leftovers_of_a_killed_process_are_removed(killed):
    for folder in killed:
        entry, _ = fill(folder)
        for left in entry.path.glob(f"{writer.TEMPORARY_PREFIX}*"):
            # Only files written before the holder file are not removed until they are old.
            assert left.name.endswith(("about.json", "holder.json"))
            os.utime(left, (1, 1))
        entry.open_reader()
        assert not list(folder.rglob(f"{writer.TEMPORARY_PREFIX}*"))
