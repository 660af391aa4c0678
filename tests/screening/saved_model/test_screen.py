"""Screening of SavedModels: hostile models are refused by the right rule, benign models are safe."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from benign_graphs import LARGE, PLAIN, WITH_TABLES, on_device_training
from hostile_folders import FOLDERS
from hostile_graphs import GRAPHS, initializer
from hostile_messages import MESSAGES, edit, nodes, save_good
from hostile_tf1 import TF1

from kdcli.screening.saved_model.screen import screen_saved_model

ALL = (*GRAPHS, *TF1, *MESSAGES, *FOLDERS)


def build(hostile, tmp_path):
    """Build a hostile model; gives its folder and the marker that it would write. Building may write it too."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    hostile.build(folder, marker)
    for written in tmp_path.glob("marker*"):
        shutil.rmtree(written) if written.is_dir() else written.unlink()
    return folder, marker


def test_there_are_ninety_hostile_models_with_different_names():
    assert len({hostile.name for hostile in ALL}) == len(ALL) >= 90


@pytest.mark.parametrize("hostile", ALL, ids=lambda hostile: hostile.name)
def test_hostile_models_are_refused_by_their_rule_within_two_seconds(hostile, tmp_path):
    folder, _ = build(hostile, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    started = time.process_time()
    verdict = screen_saved_model(folder, signature=hostile.signature, tables=hostile.tables)
    assert time.process_time() - started < 2
    assert hostile.rule in {finding.rule for finding in verdict.refused}, list(map(str, verdict.findings))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_refusal_names_the_operation_its_caller_and_its_node(tmp_path):
    initializer(tmp_path / "model", tmp_path / "marker")
    [finding] = screen_saved_model(tmp_path / "model", signature=None, tables=False).refused
    expected = r"operation: WriteFile writes files; loading runs it as '_initialize'"
    assert re.fullmatch(expected + r" \(node 'WriteFile' of function '\S+'\)", str(finding))
    assert "--trust-model" in finding.hint


def test_names_in_a_model_cannot_write_control_characters(tmp_path):
    save_good(tmp_path / "model")
    with edit(tmp_path / "model") as meta:
        for node in nodes(meta, "AddV2"):
            node.op = node.name = "\x1b[2J\u202eevil" * 50
    verdict = screen_saved_model(tmp_path / "model", signature=None, tables=False)
    assert verdict.refused and all(finding.message.isprintable() for finding in verdict.findings)


def test_at_most_a_hundred_findings_are_listed(tmp_path):
    save_good(tmp_path / "model")
    with edit(tmp_path / "model") as meta:
        for number in range(300):
            meta.graph_def.node.add(name=f"n{number}", op=f"Strange{number}")
    verdict = screen_saved_model(tmp_path / "model", signature=None, tables=False)
    assert len(verdict.findings) == 101 and not verdict.safe
    assert verdict.findings[-1].message == "500 more findings"


def test_unknown_files_are_reported_but_not_refused(tmp_path):
    save_good(tmp_path / "model")
    (tmp_path / "model/notes.txt").write_text("hello")
    verdict = screen_saved_model(tmp_path / "model", signature=None, tables=False)
    assert verdict.safe and [finding.rule for finding in verdict.findings] == ["unknown-file"]


def test_a_link_to_the_folder_is_safe(tmp_path):
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
                [(key, spec)] = function.structured_input_signature[1].items()
                function(**{key: tf.ones([1, spec.shape[1]])})
            else:
                function(tf.ones([1, 3]))
    except Exception as error:
        print(folder, type(error).__name__, error)
"""


@pytest.mark.slow
def test_the_attacks_work_without_screening(tmp_path):
    requests, markers = [], {}
    for hostile in ALL:
        if hostile.proof:
            (tmp_path / hostile.name).mkdir()
            folder, markers[hostile.name] = build(hostile, tmp_path / hostile.name)
            requests.append(f"{hostile.proof}|{folder}|{hostile.signature or 'serving_default'}")
    assert len(requests) >= 25 and not any(marker.exists() for marker in markers.values())
    done = subprocess.run(
        [sys.executable, "-c", PROOF],
        input="\n".join(requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    silent = [name for name, marker in markers.items() if not list(marker.parent.glob("marker*"))]
    assert silent == [], done.stdout[-3000:]


@pytest.mark.parametrize("build", PLAIN, ids=lambda build: build.__name__)
def test_benign_models_have_no_findings(build, tmp_path):
    build(tmp_path / "model")
    assert screen_saved_model(tmp_path / "model", signature=None, tables=False).findings == ()


@pytest.mark.parametrize("build", WITH_TABLES, ids=lambda build: build.__name__)
def test_models_with_tables_are_safe_if_tables_are_allowed(build, tmp_path):
    build(tmp_path / "model")
    assert screen_saved_model(tmp_path / "model", signature=None, tables=True).findings == ()
    [finding] = screen_saved_model(tmp_path / "model", signature=None, tables=False).refused
    assert finding.rule == "table" and "--allow-tables" in finding.hint


@pytest.mark.parametrize("chosen", ["infer", "train"])
def test_operations_of_other_signatures_are_reported_but_not_refused(chosen, tmp_path):
    on_device_training(tmp_path / "model")
    verdict = screen_saved_model(tmp_path / "model", signature=chosen, tables=False)
    assert verdict.safe
    assert [finding.message for finding in verdict.findings] == [
        "Restore reads files; it appears once, but nothing that kd opens runs it",
        "Save writes files; it appears once, but nothing that kd opens runs it",
    ]


@pytest.mark.parametrize("chosen", ["save", "restore", None, "nowhere"])
def test_signatures_that_access_files_are_refused_if_they_may_be_called(chosen, tmp_path):
    on_device_training(tmp_path / "model")
    verdict = screen_saved_model(tmp_path / "model", signature=chosen, tables=False)
    assert {finding.rule for finding in verdict.refused} == {"operation"}
    assert all("the signature" in finding.message for finding in verdict.refused)


@pytest.mark.slow
@pytest.mark.parametrize("build", LARGE, ids=lambda build: build.__name__)
def test_large_models_are_safe_and_screened_within_two_seconds(build, tmp_path):
    build(tmp_path / "model")
    started = time.process_time()
    assert screen_saved_model(tmp_path / "model", signature=None, tables=False).findings == ()
    assert time.process_time() - started < 2


# Keras 2 and Keras 3 do not work in one process.
KERAS_2 = """
import sys
import numpy as np, tensorflow as tf, tf_keras
layers, folder = tf_keras.layers, sys.argv[1]

def save(name, shape, *stack, dtype=None, train=False):
    model = tf_keras.Sequential([layers.Input(shape, dtype=dtype), *stack])
    if train:
        model.compile("adam", "mse")
        model.fit(np.zeros((4, *model.input_shape[1:])), np.zeros((4, *model.output_shape[1:])), verbose=0)
    model.save(f"{folder}/{name}", save_format="tf")

def flat():
    return layers.Flatten(), layers.Dense(2)

convolution = layers.Conv2D(4, 3, activation="swish")
save("convolutions", (8, 8, 3), convolution, layers.BatchNormalization(), *flat(), train=True)
save("bidirectional", (8, 4), layers.Bidirectional(layers.LSTM(4)), layers.Dense(2), train=True)
save("gru", (None, 4), layers.GRU(4), layers.Dense(2))
save("preprocessing", (8, 8, 3), layers.Rescaling(0.1), layers.RandomFlip(), layers.RandomRotation(0.1), *flat())
vectorize = layers.TextVectorization(output_sequence_length=4)
vectorize.adapt(["a b", "c"])
save("text", (1,), vectorize, layers.Embedding(9, 3), *flat(), dtype=tf.string)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tf_keras") is None, reason="tf_keras is not installed")
def test_keras_2_models_are_safe(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KERAS_2, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folders = sorted(tmp_path.iterdir())
    assert [folder.name for folder in folders] == ["bidirectional", "convolutions", "gru", "preprocessing", "text"]
    for folder in folders:
        verdict = screen_saved_model(folder, signature=None, tables=folder.name == "text")
        assert verdict.safe, (folder.name, list(map(str, verdict.refused)))
