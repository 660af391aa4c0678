"""Reading cached outputs: rows in any order, from mapped shards whose pages are released."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cached_outputs import answers, fill

from kdcli.cache import reader as module
from kdcli.cache.reader import raise_file_limit
from kdcli.runs.packed_file import MappedFile

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("reader"))[0].open_reader()


@pytest.mark.parametrize("name", ["logits", "hint"])
@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize(
    "positions",
    [[0], [4_999], [2_047, 2_048], [4_096, 3, 3, 4_095, 2_048, 3], [], range(5_000), range(4_999, -1, -1)],
    ids=["first", "last", "two shards", "repeated", "none", "all", "backwards"],
)
def test_rows_are_returned_in_the_requested_order(reader, name, view, positions):
    positions = np.asarray(positions, np.int64)
    taken = reader.take(name, view, positions)
    expected = answers()[name][view][positions]
    assert (taken.dtype, taken.shape) == (expected.dtype, expected.shape)
    assert taken.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_positions_can_have_any_integer_dtype(reader, dtype):
    positions = np.random.default_rng(0).integers(0, 5_000, 300).astype(dtype)
    assert reader.take("logits", 0, positions).tobytes() == answers()["logits"][0][positions].tobytes()


@pytest.mark.parametrize(("view", "position"), [(0, 5_000), (0, -1), (2, 0), (-1, 0)])
def test_unknown_views_and_examples_are_refused(reader, view, position):
    with pytest.raises(IndexError, match="not in Layout"):
        reader.take("logits", view, np.asarray([5, position]))


def test_all_views_are_read_one_after_another(reader):
    for name, array in answers().items():
        whole = reader.read_all(name)
        assert whole.shape == (10_000, *array.shape[2:])
        assert whole.tobytes() == array.tobytes()


def test_only_the_required_shards_are_read(tmp_path):
    reader = fill(tmp_path)[0].open_reader()
    needed = {(1, 0), (1, 2)}
    reader._mapped = {key: mapped for key, mapped in reader._mapped.items() if key in needed}
    assert len(reader.take("logits", 1, np.asarray([4_999, 0, 4_500]))) == 3


def test_pages_are_released_after_a_number_of_bytes(tmp_path, monkeypatch):
    reader = fill(tmp_path)[0].open_reader()
    dropped = []
    monkeypatch.setattr(module, "MAX_RESIDENT_BYTES", 50_000)
    monkeypatch.setattr(MappedFile, "drop_pages", lambda mapped: dropped.append(mapped.document["number"]))
    # A row counts as 2 MB, but no shard (20 KB) counts more than its size.
    for start, expected in ((0, []), (2_048, []), (4_096, [0, 1, 2]), (0, [0, 1, 2])):
        reader.take("logits", 0, np.asarray([start, start + 1]))
        assert dropped == expected


RESIDENT = """
import sys
from pathlib import Path
import numpy as np
import psutil
from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout

folder, examples = Path(sys.argv[1]), 60_000
layout = Layout(examples, 1, (ArraySpec("hint", "float16", (2_000,)),))
entry = Entry.create(folder, {"a": 1}, layout=layout, described={}, choices={})
for shard in entry.missing():
    rows = np.arange(shard.start, shard.stop).astype(np.float16)[:, None]
    entry.write(shard, {"hint": np.broadcast_to(rows, (shard.stop - shard.start, 2_000))})
reader = Entry.find(folder, {"a": 1}).open_reader()
process, random = psutil.Process(), np.random.default_rng(0)
before, most = process.memory_info().rss, 0
for _ in range(400):
    positions = random.integers(0, examples, 256)
    taken = reader.take("hint", 0, positions)
    assert (taken[:, 7] == positions.astype(np.float16)).all()
    most = max(most, process.memory_info().rss - before)
print(layout.bytes, most)
"""


def test_memory_stays_flat_while_a_large_entry_is_read(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    size, grown = map(int, ran.stdout.split())
    assert size == 240_000_000
    assert grown < 120_000_000


def test_an_entry_with_more_shards_than_the_limit_of_open_files_is_read(tmp_path):
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from cached_outputs import *\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "layout = Layout(100, 2, (ArraySpec('logits', 'float32', (3,)),))\n"
        "Layout.examples_per_shard = 1\n"
        "fill(Path(sys.argv[1]), layout=layout)\n"
        "assert_whole(Path(sys.argv[1]), layout=layout)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=SUPPORT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_a_sufficient_limit_of_open_files_is_not_changed(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (20_000, 20_000))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: pytest.fail("it was changed"))
    raise_file_limit(1_000)


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 1_500))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    raise_file_limit(100)
    raise_file_limit(100_000)
    assert asked == [(1_124, 1_500), (1_500, 1_500)]
