"""`kd inspect` on hostile files: exit code 4, in two seconds and 1 GB, without running any of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

# Runs the command for each file in one process, which starts TensorFlow once.
SCRIPT = """
import contextlib, io, json, resource, sys, time
import keras
from kdcli.cli.app import run

for words in json.load(sys.stdin):
    out, began = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = run(["inspect", *words, "--json"])
    seconds = time.monotonic() - began
    # RUSAGE_SELF starts at the peak of the process that started this one.
    own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    memory = 1024 * max(int(own.split()[1]), children)
    line = {"path": words[0], "code": code, "seconds": seconds, "memory": memory}
    print(json.dumps({**line, "document": json.loads(out.getvalue())["schema"]}), flush=True)
"""


def inspect_all(commands):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-2000:]}"
    assert len(lines) == len(commands)
    return lines


def build_keras_files(folder):
    import hostile_keras

    for name, (suffix, _, make) in hostile_keras.HOSTILE.items():
        path = folder / name / f"model{suffix}"
        path.parent.mkdir()
        make(path)
        yield [str(path)]


def build_saved_models(folder):
    from hostile_folders import FOLDERS
    from hostile_graphs import GRAPHS
    from hostile_messages import MESSAGES
    from hostile_tf1 import TF1

    for hostile in (*GRAPHS, *TF1, *MESSAGES, *FOLDERS):
        path, marker = folder / hostile.name / "model", folder / hostile.name / "marker"
        path.parent.mkdir()
        hostile.build(path, marker)
        for written in path.parent.glob("marker*"):
            # Building some models runs them once.
            shutil.rmtree(written) if written.is_dir() else written.unlink()
        words = ["--signature", hostile.signature] if hostile.signature else []
        yield [str(path), *words, *(["--allow-tables"] if hostile.tables else [])]


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("build", [build_keras_files, build_saved_models])
def test_inspect_refuses_every_hostile_file_with_exit_code_4(build, tmp_path):
    commands = list(build(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    lines = inspect_all(commands)
    assert len(lines) > 90
    # An ambiguous signature is a usage error, before any finding.
    assert {line["path"] for line in lines if line["code"] != 4} <= {
        str(tmp_path / "several_signatures" / "model")
    }
    slow = sorted(lines, key=lambda line: line["seconds"])[-3:]
    assert slow[-1]["seconds"] < 2, slow
    assert lines[-1]["memory"] < 1e9
    assert sorted(tmp_path.rglob("*")) == before
