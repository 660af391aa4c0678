"""Hostile files through the command: exit 4, quickly, in little memory, and nothing of them runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

# Looks into each file as the command does, after TensorFlow has started.
SCRIPT = """
import contextlib, io, json, resource, sys, time
import keras
from kdcli.cli.app import run

for words in json.load(sys.stdin):
    out, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = run(["inspect", *words, "--json"])
    seconds = time.monotonic() - began
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    memory = max(1024 * resource.getrusage(kind).ru_maxrss for kind in kinds)
    line = {"path": words[0], "code": code, "seconds": seconds, "memory": memory}
    print(json.dumps({**line, "document": json.loads(out.getvalue())["schema"]}), flush=True)
"""


def inspected(commands):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert ran.returncode == 0, f"after {lines[-1:]}: {ran.stderr[-2000:]}"
    assert len(lines) == len(commands)
    return lines


def keras_files(folder):
    import hostile_keras

    for name, (suffix, _, make) in hostile_keras.HOSTILE.items():
        path = folder / name / f"model{suffix}"
        path.parent.mkdir()
        make(path)
        yield [str(path)]


def saved_models(folder):
    from hostile_first import FIRST
    from hostile_folders import FOLDERS
    from hostile_graphs import GRAPHS
    from hostile_messages import MESSAGES

    for hostile in (*GRAPHS, *FIRST, *MESSAGES, *FOLDERS):
        path, marker = folder / hostile.name / "model", folder / hostile.name / "marker"
        path.parent.mkdir()
        hostile.build(path, marker)
        for written in path.parent.glob("marker*"):
            # Building some of them runs them once.
            shutil.rmtree(written) if written.is_dir() else written.unlink()
        words = ["--signature", hostile.signature] if hostile.signature else []
        yield [str(path), *words, *(["--allow-tables"] if hostile.tables else [])]


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("build", [keras_files, saved_models])
def test_every_hostile_file_ends_the_command_with_4_and_does_nothing(build, tmp_path):
    commands = list(build(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    told = inspected(commands)
    assert len(told) > 90
    # Which of several signatures is meant is asked before what it does.
    assert {line["path"] for line in told if line["code"] != 4} <= {str(tmp_path / "several_signatures" / "model")}
    slow = sorted(told, key=lambda line: line["seconds"])[-3:]
    assert slow[-1]["seconds"] < 2, slow
    assert told[-1]["memory"] < 1e9
    assert sorted(tmp_path.rglob("*")) == before
