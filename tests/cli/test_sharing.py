"""Several processes with the same `--out --resume` share the work of a comparison."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from conftest import bar_reader, save_npz


@pytest.mark.slow
def test_two_processes_train_every_run_once_and_print_the_same_result(tmp_path):
    bar_reader().save(tmp_path / "teacher.keras")
    recipe = {
        "data": {"source": str(save_npz(tmp_path / "data.npz"))},
        "student": {"model": {"kind": "zoo", "name": "cnn", "width": 2, "blocks": 1}},
        "losses": [{"kind": "labels", "weight": 0.5}, {"kind": "soft_targets", "weight": 0.5}],
        "train": {"steps": 60, "batch_size": 16},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    words = ["compare", "--teacher", "teacher.keras", "--recipe", "./small.yaml", "--repeats", "3", "--no-latency"]
    command = [sys.executable, "-m", "kdcli", *words, "--out", "shared", "--resume", "--json"]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended[0][1] + ended[1][1]
    documents = [json.loads(out) for out, _ in ended]
    assert documents[0]["students"] == documents[1]["students"]
    assert len(list((tmp_path / "shared").glob("cnn/*/seed-*"))) == 6
    # Exactly one process printed the last epoch of each run: no run was trained twice.
    assert sum(err.count("epoch 12/12") for _, err in ended) == 6
