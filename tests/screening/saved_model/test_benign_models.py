"""Harmless SavedModels, none of which may be refused."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from benign_graphs import LARGE, PLAIN, WITH_TABLES, on_device_training

from kdcli.screening.saved_model.screen import screen_saved_model


def name(build):
    return build.__name__


@pytest.mark.parametrize("build", PLAIN, ids=name)
def test_a_harmless_model_is_safe_and_nothing_is_found(build, tmp_path):
    build(tmp_path / "model")
    assert screen_saved_model(tmp_path / "model", signature=None, tables=False).findings == ()


@pytest.mark.parametrize("build", WITH_TABLES, ids=name)
def test_a_model_with_tables_is_safe_where_tables_are_allowed_and_says_how(build, tmp_path):
    build(tmp_path / "model")
    assert screen_saved_model(tmp_path / "model", signature=None, tables=True).findings == ()
    [finding] = screen_saved_model(tmp_path / "model", signature=None, tables=False).refused
    assert finding.rule == "table" and "--allow-tables" in finding.hint


@pytest.mark.parametrize("chosen", ["infer", "train"])
def test_signatures_beside_the_chosen_one_are_told_and_not_refused(chosen, tmp_path):
    on_device_training(tmp_path / "model")
    verdict = screen_saved_model(tmp_path / "model", signature=chosen, tables=False)
    assert verdict.safe
    assert [finding.message for finding in verdict.findings] == [
        "Restore reads files; it stands there once, and nothing that is opened runs it",
        "Save writes files; it stands there once, and nothing that is opened runs it",
    ]


@pytest.mark.parametrize("chosen", ["save", "restore", None, "nowhere"])
def test_signatures_that_touch_files_are_refused_when_they_may_be_the_chosen_one(chosen, tmp_path):
    on_device_training(tmp_path / "model")
    verdict = screen_saved_model(tmp_path / "model", signature=chosen, tables=False)
    assert {finding.rule for finding in verdict.refused} == {"operation"}
    assert all("the signature" in finding.message for finding in verdict.refused)


@pytest.mark.slow
@pytest.mark.parametrize("build", LARGE, ids=name)
def test_large_networks_are_safe_and_quickly_read(build, tmp_path):
    build(tmp_path / "model")
    started = time.process_time()
    assert screen_saved_model(tmp_path / "model", signature=None, tables=False).findings == ()
    assert time.process_time() - started < 2


# Keras 2 must not meet Keras 3 in one process.
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
def test_models_of_keras_2_are_safe(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", KERAS_2, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    folders = sorted(tmp_path.iterdir())
    assert [folder.name for folder in folders] == ["bidirectional", "convolutions", "gru", "preprocessing", "text"]
    for folder in folders:
        verdict = screen_saved_model(folder, signature=None, tables=folder.name == "text")
        assert verdict.safe, (folder.name, list(map(str, verdict.refused)))
