"""SavedModels that must be refused, each for its own reason, without any of it being run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

import pytest
from hostile_first import FIRST
from hostile_folders import FOLDERS
from hostile_graphs import GRAPHS, initializer
from hostile_messages import MESSAGES, edited, nodes, save_good

from kdcli.screening.saved_model.screen import screen_saved_model

ALL = (*GRAPHS, *FIRST, *MESSAGES, *FOLDERS)


def built(hostile, tmp_path):
    """A hostile model, and the path of the marker that it would write; building may write it as well."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    hostile.build(folder, marker)
    for written in tmp_path.glob("marker*"):
        shutil.rmtree(written) if written.is_dir() else written.unlink()
    return folder, marker


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own():
    assert len({hostile.name for hostile in ALL}) == len(ALL) >= 90


@pytest.mark.parametrize("hostile", ALL, ids=lambda hostile: hostile.name)
def test_a_hostile_model_is_refused_for_what_it_does(hostile, tmp_path):
    folder, _ = built(hostile, tmp_path)
    left = sorted(tmp_path.rglob("*"))
    started = time.process_time()
    verdict = screen_saved_model(folder, signature=hostile.signature, tables=hostile.tables)
    assert time.process_time() - started < 2
    assert hostile.rule in {finding.rule for finding in verdict.refused}, list(map(str, verdict.findings))
    assert sorted(tmp_path.rglob("*")) == left


def test_a_refusal_names_the_operation_who_runs_it_and_where(tmp_path):
    initializer(tmp_path / "model", tmp_path / "marker")
    [finding] = screen_saved_model(tmp_path / "model", signature=None, tables=False).refused
    said = r"operation: WriteFile writes files; loading runs it as '_initialize'"
    assert re.fullmatch(said + r" \(node 'WriteFile' of function '\S+'\)", str(finding))
    assert "--trust-model" in finding.hint


def test_a_stranger_cannot_write_to_the_terminal_through_a_name(tmp_path):
    save_good(tmp_path / "model")
    with edited(tmp_path / "model") as meta:
        for node in nodes(meta, "AddV2"):
            node.op = node.name = "\x1b[2J\u202eevil" * 50
    verdict = screen_saved_model(tmp_path / "model", signature=None, tables=False)
    assert verdict.refused and all(finding.message.isprintable() for finding in verdict.findings)


def test_of_very_many_findings_the_first_hundred_are_kept(tmp_path):
    save_good(tmp_path / "model")
    with edited(tmp_path / "model") as meta:
        for number in range(300):
            meta.graph_def.node.add(name=f"n{number}", op=f"Strange{number}")
    verdict = screen_saved_model(tmp_path / "model", signature=None, tables=False)
    assert len(verdict.findings) == 101 and not verdict.safe
    assert verdict.findings[-1].message == "500 more findings"


def test_files_that_are_no_part_of_a_model_are_told_and_not_refused(tmp_path):
    save_good(tmp_path / "model")
    (tmp_path / "model/notes.txt").write_text("hello")
    verdict = screen_saved_model(tmp_path / "model", signature=None, tables=False)
    assert verdict.safe and [finding.rule for finding in verdict.findings] == ["unknown-file"]


def test_a_folder_reached_through_a_link_is_fine(tmp_path):
    save_good(tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    assert screen_saved_model(tmp_path / "link", signature=None, tables=False).findings == ()


PROOF = """
import sys
import tensorflow as tf

for line in sys.stdin.read().splitlines():
    moment, folder, name = line.split("|")
    try:
        loaded = tf.saved_model.load(folder)
        if moment == "call":
            function = loaded.signatures[name]
            if hasattr(function, "structured_input_signature"):
                [(key, given)] = function.structured_input_signature[1].items()
                function(**{key: tf.ones([1, given.shape[1]])})
            else:
                function(tf.ones([1, 3]))
    except Exception as error:
        print(folder, type(error).__name__, error)
"""


@pytest.mark.slow
def test_the_attacks_are_real_where_nothing_refuses_them(tmp_path):
    wanted, markers = [], {}
    for hostile in ALL:
        if hostile.proof:
            (tmp_path / hostile.name).mkdir()
            folder, markers[hostile.name] = built(hostile, tmp_path / hostile.name)
            wanted.append(f"{hostile.proof}|{folder}|{hostile.signature or 'serving_default'}")
    assert len(wanted) >= 25 and not any(marker.exists() for marker in markers.values())
    ran = subprocess.run(
        [sys.executable, "-c", PROOF],
        input="\n".join(wanted),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    silent = [name for name, marker in markers.items() if not list(marker.parent.glob("marker*"))]
    assert silent == [], ran.stdout[-3000:]
