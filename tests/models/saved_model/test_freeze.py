"""The child process that loads strangers' SavedModels: what it leaves, and what happens when it dies."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from graph_models import PICTURES, cnn, exported, frozen_here, linear, plain, prepared, version_1

from kdcli.errors import ModelError, UsageError
from kdcli.models.saved_model import freeze
from kdcli.models.saved_model.freeze import FreezeProcess
from kdcli.models.saved_model.network import GraphNetwork
from kdcli.models.saved_model.open import open_graph


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return exported(cnn(), tmp_path_factory.mktemp("freezing") / "cnn")


def test_a_savedmodel_opens_through_a_child(folder, tmp_path, capfd):
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    network = open_graph(copied, name="given.savedmodel", threads=1)
    # What was opened may go.
    shutil.rmtree(copied)
    network = prepared(network, picture=PICTURES)
    np.testing.assert_allclose(network.compute_saved_output({"picture": PICTURES}), cnn()(PICTURES), atol=1e-6)
    assert network.name == "given.savedmodel"
    assert capfd.readouterr() == ("", "")


def test_what_the_child_leaves_is_what_is_read_here(folder):
    with FreezeProcess(folder, name="given") as freezing:
        scratch = Path(freezing._scratch.name)
        frozen = freezing.result()
        assert scratch.is_dir()
    assert not scratch.exists()
    freezing.close()
    here = frozen_here(folder)
    assert frozen.graph is not None and here.graph is not None
    graphs = [tf.compat.v1.GraphDef.FromString(one.graph) for one in (frozen, here)]
    assert [node.name for node in graphs[0].node] == [node.name for node in graphs[1].node]
    for name in ("signature", "signatures", "inputs", "outputs", "weights", "parameters", "unfrozen"):
        assert getattr(frozen, name) == getattr(here, name), name
    assert not any(node.device for node in graphs[0].node)


def test_a_choice_that_is_not_there_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="given: the SavedModel has several signatures") as caught:
        open_graph(plain(tmp_path / "plain"), name="given")
    assert caught.value.exit_code == 2 and caught.value.hint == "--signature embed"


def test_a_savedmodel_that_is_too_large_to_freeze_answers_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(freeze, "MAX_WEIGHT_BYTES", 100)
    network = prepared(open_graph(folder, name="large"), picture=PICTURES)
    np.testing.assert_allclose(network.compute_saved_output({"picture": PICTURES}), cnn()(PICTURES), atol=1e-6)
    assert network.taps == {} and network.variables == []
    assert "large teaches by its outputs only: its weights are 0.0 GB" in network.notes[0]


def test_a_damaged_savedmodel_does_not_load(folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (data,) = damaged.glob("variables/*.data*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match="given: it does not load: ") as caught:
        open_graph(damaged, name="given")
    assert caught.value.exit_code == 4 and "\n" not in caught.value.message
    (index,) = damaged.glob("variables/*.index")
    content = bytearray(index.read_bytes())
    content[8:16] = b"\xff" * 8
    index.write_bytes(content)
    with pytest.raises(ModelError, match="given: it does not load: ") as caught:
        open_graph(damaged, name="given")
    assert str(damaged) not in caught.value.message


# Stand-ins for a child: what a hostile model would do to the process that loads it.
READ = "import sys; sys.stdin.readline(); "
DYING = READ + "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANGING = "import time; time.sleep(60)"
LEAVING = READ + "raise SystemExit(3)"
GREEDY = READ + "kept = bytearray(300 << 20); kept[::4096] = bytes(len(kept[::4096])); import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("child", "message"),
    [
        (DYING, r"given: the model ended its reader \(signal 11, SIGSEGV\): it is damaged, or too large"),
        (HANGING, r"given: the model hung while it was opened and was ended after 0 s"),
        (LEAVING, r"given: its reader ended \(exit code 3\)"),
        (GREEDY, r"given: opening the model takes more than 0 GB of memory"),
    ],
    ids=["signal", "hang", "exit", "memory"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_child_that_dies_hangs_or_takes_everything_is_a_model_error(folder, monkeypatch, child, message):
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
    with FreezeProcess(folder, name="given") as freezing:
        os.kill(freezing._process.pid, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"given: the model ended its reader \(signal 9, SIGKILL\)"):
            freezing.result()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_memory_is_limited_inside_the_child(folder, monkeypatch):
    # Enough to start with, too little to load TensorFlow's libraries and a model.
    monkeypatch.setattr(freeze, "_MEMORY_BYTES", 100 << 20)
    monkeypatch.setattr(freeze, "_MEMORY_BYTES_PER_CORE", 0)
    monkeypatch.setattr(freeze, "_memory_of", lambda process: 0)
    with pytest.raises(ModelError, match=r"given: (the model ended its reader|its reader ended|it does not load)"):
        open_graph(folder, name="given")


def test_closing_early_ends_the_child(folder):
    freezing = FreezeProcess(folder, name="given")
    freezing.close()
    freezing.close()
    assert freezing._process.returncode is not None
    assert not Path(freezing._scratch.name).exists()


ROWS = np.random.default_rng(2).random((5, 12)).astype(np.float32)
v1 = tf.compat.v1


def many_dice(x):
    """Dropout and noise that are off unless somebody feeds them, behind an optimizer's slots."""
    off, keep = v1.placeholder_with_default(0.0, []), v1.placeholder_with_default(1.0, [])
    training = v1.placeholder_with_default(False, [])
    noise = v1.random_uniform(tf.shape(x)) + v1.truncated_normal(tf.shape(x)) + v1.random_normal(tf.shape(x))
    x = tf.where(training, v1.random_shuffle(x), x + off * noise)
    output = linear(tf.cond(training, lambda: v1.nn.dropout(x, rate=0.5), lambda: v1.nn.dropout(x, rate=1 - keep)))
    v1.train.AdamOptimizer().minimize(tf.reduce_mean(output[:, 0]))
    return {}, output, {}


def test_dice_that_are_off_answer_as_a_session_of_tensorflow_1(tmp_path):
    said = version_1(tmp_path / "dice", many_dice, ROWS)
    tf.config.experimental.enable_op_determinism()
    network = prepared(open_graph(tmp_path / "dice", name="dice"), x=ROWS)
    np.testing.assert_allclose(network.compute_saved_output({"x": ROWS}), said, atol=1e-6)
    # The optimizer's slots are no parameters, and nothing draws by default.
    assert (network.parameters, network.notes) == (12 * 3, ())


def test_outputs_that_are_drawn_are_said(tmp_path):
    version_1(tmp_path / "noise", lambda x: ({}, linear(x + 5 * v1.random_uniform(tf.shape(x))), {}), ROWS)
    tf.config.experimental.enable_op_determinism()
    network = prepared(open_graph(tmp_path / "noise", name="noise"), x=ROWS)
    assert "noise draws random numbers" in network.notes[0]
    assert network.compute_saved_output({"x": ROWS}).shape == (5, 3)


def settings(x):
    """A number and a flag that are inputs, as graphs of TensorFlow 1 have them."""
    keep, training = v1.placeholder(tf.float32, []), v1.placeholder(tf.bool, [])
    output = linear(tf.where(training, -x, x) * keep)
    return {"keep_prob": keep, "training": training}, output, {keep: 1.0, training: False}


def test_inputs_with_one_value_are_named_and_take_it(tmp_path):
    said = version_1(tmp_path / "settings", settings, ROWS)
    with pytest.raises(ModelError, match="keep_prob, training are inputs with one value") as caught:
        GraphNetwork(frozen_here(tmp_path / "settings"), name="settings", section="teacher")
    assert caught.value.hint == "--set 'teacher.input.values={keep_prob: 1.0, training: false}'"
    values = {"keep_prob": 1.0, "training": False}
    frozen = frozen_here(tmp_path / "settings", values=values)
    network = prepared(GraphNetwork(frozen, name="settings", values=values), x=ROWS)
    np.testing.assert_allclose(network.compute_saved_output({"x": ROWS}), said, atol=1e-6)
    # Cached outputs of other values are not its own.
    other = GraphNetwork(frozen, name="settings", values={**values, "keep_prob": 0.5})
    assert other.reading["signature"] != network.reading["signature"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": 1.0}, "there is no input 'keep' \\(got keep_prob, training, x\\)"),
        ({"keep_prob": "high"}, "keep_prob holds float32 \\(got 'high'\\)"),
        ({"x": 1.0}, "x has shape \\(None, 12\\), which one value does not fill"),
    ],
)
def test_a_value_that_does_not_fit_is_wrong_use(tmp_path, values, message):
    version_1(tmp_path / "settings", settings, ROWS)
    with pytest.raises(UsageError, match=f"settings: input.values: .*{message}"):
        frozen_here(tmp_path / "settings", values=values)


def test_a_graph_that_was_frozen_before_it_was_saved_counts_its_constants(tmp_path):
    kernel = np.random.default_rng(3).normal(size=(12, 3)).astype(np.float32)
    version_1(tmp_path / "constant", lambda x: ({}, x @ tf.constant(kernel), {}), ROWS)
    assert frozen_here(tmp_path / "constant").parameters == kernel.size
