"""The child process that loads SavedModels of unknown authors: its result, and what happens when it crashes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from graph_models import IMAGES, cnn, export, freeze_here, linear, save_plain, save_tf1, with_identity

from kdcli.errors import ModelError, UsageError
from kdcli.models.saved_model import freeze
from kdcli.models.saved_model.freeze import FreezeProcess
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.models.saved_model.open import open_graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return export(cnn(), tmp_path_factory.mktemp("freezing") / "cnn")


def test_a_savedmodel_opens_through_a_child(folder, tmp_path, capfd):
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    network = open_graph(copied, name="given.savedmodel", threads=1)
    # The opened network does not need the folder.
    shutil.rmtree(copied)
    network = with_identity(network, picture=IMAGES)
    np.testing.assert_allclose(network.compute_saved_output({"picture": IMAGES}), cnn()(IMAGES), atol=1e-6)
    assert network.name == "given.savedmodel"
    assert capfd.readouterr() == ("", "")


def test_the_child_process_returns_the_same_graph_as_freezing_here(folder):
    with FreezeProcess(folder, name="given") as process:
        scratch = Path(process._scratch.name)
        frozen = process.result()
        assert scratch.is_dir()
    assert not scratch.exists()
    process.close()
    here = freeze_here(folder)
    assert frozen.graph is not None and here.graph is not None
    graphs = [tf.compat.v1.GraphDef.FromString(one.graph) for one in (frozen, here)]
    assert [node.name for node in graphs[0].node] == [node.name for node in graphs[1].node]
    for name in ("signature", "signatures", "inputs", "outputs", "weights", "parameters", "unfrozen_reason"):
        assert getattr(frozen, name) == getattr(here, name), name
    assert not any(node.device for node in graphs[0].node)


def test_several_signatures_are_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="given: the SavedModel has several signatures") as caught:
        open_graph(save_plain(tmp_path / "plain"), name="given")
    assert caught.value.exit_code == 2 and caught.value.hint == "--signature embed"


def test_a_savedmodel_that_is_too_large_to_freeze_runs_through_its_signature(folder, monkeypatch):
    monkeypatch.setattr(freeze, "MAX_WEIGHT_BYTES", 100)
    network = with_identity(open_graph(folder, name="large"), picture=IMAGES)
    np.testing.assert_allclose(network.compute_saved_output({"picture": IMAGES}), cnn()(IMAGES), atol=1e-6)
    assert network.taps == {} and network.variables == []
    assert "large teaches by its outputs only: its weights are 0.0 GB" in network.notes[0]


def test_a_damaged_savedmodel_does_not_load(folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (data,) = damaged.glob("variables/*.data*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match="given: the model does not load: ") as caught:
        open_graph(damaged, name="given")
    assert caught.value.exit_code == 4 and "\n" not in caught.value.message
    (index,) = damaged.glob("variables/*.index")
    content = bytearray(index.read_bytes())
    content[8:16] = b"\xff" * 8
    index.write_bytes(content)
    with pytest.raises(ModelError, match="given: the model does not load: ") as caught:
        open_graph(damaged, name="given")
    assert str(damaged) not in caught.value.message


# Replacements for the child process: what a hostile model would do to the process that loads it.
READ = "import sys; sys.stdin.readline(); "
CRASHING = READ + "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANGING = "import time; time.sleep(60)"
EXITING = READ + "raise SystemExit(3)"
GREEDY = READ + "kept = bytearray(300 << 20); kept[::4096] = bytes(len(kept[::4096])); import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("child", "message"),
    [
        (CRASHING, r"given: the model crashed the process that opened it \(signal 11, SIGSEGV\): damaged, or too"),
        (HANGING, r"given: opening the model did not finish within 0 s"),
        (EXITING, r"given: the process that opened the model failed \(exit code 3\)"),
        (GREEDY, r"given: opening the model needs more than 0 GB of memory"),
    ],
    ids=["signal", "hang", "exit", "memory"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_child_that_crashes_hangs_or_takes_all_memory_is_a_model_error(folder, monkeypatch, child, message):
    monkeypatch.setattr(freeze, "_COMMAND", ("-P", "-c", child))
    if child == HANGING:
        monkeypatch.setattr(freeze, "_TIMEOUT_SECONDS", 0.3)
        monkeypatch.setattr(freeze, "_TIMEOUT_SECONDS_PER_BYTE", 0)
    if child == GREEDY:
        monkeypatch.setattr(freeze, "_MEMORY_BYTES", 50 << 20)
    with pytest.raises(ModelError, match=message) as caught:
        open_graph(folder, name="given")
    assert caught.value.exit_code == 4


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_child_that_is_killed_while_it_loads_is_a_model_error(folder):
    with FreezeProcess(folder, name="given") as process:
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"given: the model crashed .* \(signal 9, SIGKILL\)"):
            process.result()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_memory_is_limited_inside_the_child(folder, monkeypatch):
    # Enough to start with, too little to load TensorFlow's libraries and a model.
    monkeypatch.setattr(freeze, "_MEMORY_BYTES", 100 << 20)
    monkeypatch.setattr(freeze, "_MEMORY_BYTES_PER_CORE", 0)
    monkeypatch.setattr(freeze, "_measure_memory", lambda process: 0)
    with pytest.raises(
        ModelError,
        match=r"given: the (model crashed|process that .* failed|model does not load)",
    ):
        open_graph(folder, name="given")


def test_closing_early_ends_the_child(folder):
    process = FreezeProcess(folder, name="given")
    process.close()
    process.close()
    assert process._process.returncode is not None
    assert not Path(process._scratch.name).exists()


ROWS = np.random.default_rng(2).random((5, 12)).astype(np.float32)
v1 = tf.compat.v1


def many_random_operations(x):
    """Dropout and noise that are off by default, with an optimizer's slots."""
    off, keep = v1.placeholder_with_default(0.0, []), v1.placeholder_with_default(1.0, [])
    training = v1.placeholder_with_default(False, [])
    noise = v1.random_uniform(tf.shape(x)) + v1.truncated_normal(tf.shape(x)) + v1.random_normal(tf.shape(x))
    x = tf.where(training, v1.random_shuffle(x), x + off * noise)
    output = linear(tf.cond(training, lambda: v1.nn.dropout(x, rate=0.5), lambda: v1.nn.dropout(x, rate=1 - keep)))
    v1.train.AdamOptimizer().minimize(tf.reduce_mean(output[:, 0]))
    return {}, output, {}


def test_random_operations_that_are_off_give_the_outputs_of_a_tensorflow_1_session(tmp_path):
    expected = save_tf1(tmp_path / "random", many_random_operations, ROWS)
    tf.config.experimental.enable_op_determinism()
    network = with_identity(open_graph(tmp_path / "random", name="random"), x=ROWS)
    np.testing.assert_allclose(network.compute_saved_output({"x": ROWS}), expected, atol=1e-6)
    # The optimizer's slots are not parameters, and nothing is random by default.
    assert (network.parameters, network.notes) == (12 * 3, ())


def test_random_outputs_are_noted(tmp_path):
    save_tf1(tmp_path / "noise", lambda x: ({}, linear(x + 5 * v1.random_uniform(tf.shape(x))), {}), ROWS)
    tf.config.experimental.enable_op_determinism()
    network = with_identity(open_graph(tmp_path / "noise", name="noise"), x=ROWS)
    assert "noise draws random numbers" in network.notes[0]
    assert network.compute_saved_output({"x": ROWS}).shape == (5, 3)


def settings(x):
    """A number and a flag as inputs, as in graphs of TensorFlow 1."""
    keep, training = v1.placeholder(tf.float32, []), v1.placeholder(tf.bool, [])
    output = linear(tf.where(training, -x, x) * keep)
    return {"keep_prob": keep, "training": training}, output, {keep: 1.0, training: False}


def test_inputs_with_one_value_are_named_and_can_be_fixed(tmp_path):
    expected = save_tf1(tmp_path / "settings", settings, ROWS)
    with pytest.raises(ModelError, match="keep_prob, training are inputs with one value") as caught:
        FrozenNetwork(freeze_here(tmp_path / "settings"), name="settings", section="teacher")
    assert caught.value.hint == "--set 'teacher.input.values={keep_prob: 1.0, training: false}'"
    values = {"keep_prob": 1.0, "training": False}
    frozen = freeze_here(tmp_path / "settings", values=values)
    network = with_identity(FrozenNetwork(frozen, name="settings", values=values), x=ROWS)
    np.testing.assert_allclose(network.compute_saved_output({"x": ROWS}), expected, atol=1e-6)
    # Cached outputs for other values must not be reused.
    other = FrozenNetwork(frozen, name="settings", values={**values, "keep_prob": 0.5})
    assert other.reading["signature"] != network.reading["signature"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 1.0}, "there is no input 'keep' \\(got keep_prob, training, x\\)"),
        ({"keep_prob": "high"}, "keep_prob has type float32 \\(got 'high'\\)"),
        ({"x": 1.0}, "x has shape \\(None, 12\\), which one value does not fill"),
    ],
)
def test_a_value_that_does_not_fit_is_a_usage_error(tmp_path, values, message):
    save_tf1(tmp_path / "settings", settings, ROWS)
    with pytest.raises(UsageError, match=f"settings: input.values: .*{message}"):
        freeze_here(tmp_path / "settings", values=values)


def test_a_graph_that_was_frozen_before_it_was_saved_counts_its_constants(tmp_path):
    kernel = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    save_tf1(tmp_path / "constant", lambda x: ({}, x @ tf.constant(kernel), {}), ROWS)
    assert freeze_here(tmp_path / "constant").parameters == kernel.size
