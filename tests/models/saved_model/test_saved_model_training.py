"""Training SavedModels: gradients, replicas, and saving them again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from graph_models import (
    IMAGES,
    KERAS,
    TOKENS,
    cnn,
    export,
    freeze_here,
    open_frozen,
    save_lookup,
    save_plain,
    save_tf1_network,
    with_identity,
)

from kdcli.errors import ModelError
from kdcli.models.files.load import load_saved_model
from kdcli.models.saved_model.network import FrozenNetwork

LABELS = np.arange(7) % 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return export(cnn(), tmp_path_factory.mktemp("student") / "cnn")


def loss_of(logits):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))


def test_constants_become_variables_with_their_trainable_flags(folder):
    student, raw = open_frozen(folder, IMAGES, trainable=True)
    weights = {weight.path.replace("/", "."): weight for weight in cnn().weights}
    assert {variable.name for variable in student.variables} == set(weights)
    for variable in student.variables:
        assert variable.trainable == weights[variable.name].trainable
        assert variable.dtype == weights[variable.name].dtype
        np.testing.assert_array_equal(variable.numpy(), weights[variable.name].numpy())
    assert {v.name for v in student.variables} - {v.name for v in student.trainable_variables} == {
        "norm.moving_mean",
        "norm.moving_variance",
    }
    np.testing.assert_allclose(student.compute_saved_output(raw), cnn()(IMAGES), atol=1e-6)
    assert "BatchNorm statistics stay fixed" in student.notes[0]


@pytest.mark.parametrize("kind", ["cnn", "recurrent", "attention"])
def test_gradients_equal_those_of_the_keras_model(kind, tmp_path):
    build, array = KERAS[kind]
    model = build()
    student, raw = open_frozen(export(model, tmp_path / kind), array, trainable=True)
    weights = {variable.name: variable for variable in student.trainable_variables}

    @tf.function(autograph=False)
    def ours(given):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(student.compute_saved_output(given) ** 2)
        return tape.gradient(total, {name: variable.value for name, variable in weights.items()})

    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(array) ** 2)
    theirs = tape.gradient(total, [variable.value for variable in model.trainable_variables])
    found = ours(raw)
    assert len(found) == len(theirs)
    for variable, expected in zip(model.trainable_variables, theirs, strict=True):
        got = found[variable.path.replace("/", ".")]
        np.testing.assert_allclose(
            tf.convert_to_tensor(got), tf.convert_to_tensor(expected), atol=1e-5, err_msg=variable.path
        )


def test_training_lowers_the_loss_and_does_not_change_statistics(folder):
    student, raw = open_frozen(folder, IMAGES, trainable=True)
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(student.trainable_variables)
    kept = [variable.numpy() for variable in student.variables if not variable.trainable]

    @tf.function(autograph=False)
    def step(given):
        with tf.GradientTape() as tape:
            loss = loss_of(student.compute(given, taps=["block"], training=True).logits)
        gradients = tape.gradient(loss, [variable.value for variable in student.trainable_variables])
        optimizer.apply(gradients, student.trainable_variables)
        return loss

    losses = [float(step(raw)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    after = [variable.numpy() for variable in student.variables if not variable.trainable]
    for one, other in zip(kept, after, strict=True):
        np.testing.assert_array_equal(one, other)


def perturb(student):
    """Change the weights, as training would."""
    random = np.random.default_rng(9)
    for variable in student.variables:
        variable.assign(variable.numpy() * (1 + 0.1 * random.standard_normal(variable.shape)))


def test_a_student_is_saved_as_a_savedmodel_again(folder, tmp_path):
    student, raw = open_frozen(folder, IMAGES, trainable=True)
    perturb(student)
    student.save(tmp_path / "again")
    expected = student.compute_saved_output(raw).numpy()
    assert np.abs(expected - cnn()(IMAGES)).max() > 1e-3
    loaded = load_saved_model(tmp_path / "again")
    before, after = (x.signatures["serving_default"] for x in (load_saved_model(folder), loaded))
    assert after.structured_input_signature == before.structured_input_signature
    assert after.structured_outputs == before.structured_outputs
    assert len(loaded.weights) == len(student.variables)
    # Any number of examples.
    np.testing.assert_allclose(after(picture=IMAGES)["output_0"], expected, atol=1e-6)
    np.testing.assert_allclose(after(picture=IMAGES[:2])["output_0"], expected[:2], atol=1e-6)


def test_a_saved_student_opens_with_the_same_taps(folder, tmp_path):
    student, raw = open_frozen(folder, IMAGES, trainable=True)
    perturb(student)
    student.save(tmp_path / "again")
    again, _ = open_frozen(tmp_path / "again", IMAGES, trainable=True)
    np.testing.assert_allclose(again.compute_saved_output(raw), student.compute_saved_output(raw), atol=1e-6)
    np.testing.assert_allclose(again.compute(raw).logits, student.compute(raw).logits, atol=1e-5)
    assert dict(again.taps) == dict(student.taps) and again.secondary == student.secondary
    assert [(v.name, v.trainable) for v in again.variables] == [(v.name, v.trainable) for v in student.variables]
    again.save(tmp_path / "twice")
    twice, _ = open_frozen(tmp_path / "twice", IMAGES)
    np.testing.assert_allclose(twice.compute_saved_output(raw), student.compute_saved_output(raw), atol=1e-6)


@pytest.mark.parametrize("kind", ["recurrent", "half"])
def test_loops_and_half_types_survive(kind, tmp_path):
    build, array = KERAS[kind]
    student, raw = open_frozen(export(build(), tmp_path / kind), array, trainable=True)
    perturb(student)
    student.save(tmp_path / "again")
    again, _ = open_frozen(tmp_path / "again", array)
    np.testing.assert_allclose(again.compute_saved_output(raw), student.compute_saved_output(raw), atol=1e-6)
    assert again.inputs == student.inputs


def test_every_result_is_saved_with_its_type(tmp_path):
    raw = {
        "alone": np.random.default_rng(4).standard_normal((7, 5)).astype(np.float32),
        "wide": np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32),
    }
    frozen = freeze_here(save_plain(tmp_path / "plain"), signature="infer")
    student = with_identity(FrozenNetwork(frozen, name="plain", output="chosen", trainable=True), **raw)
    perturb(student)
    student.save(tmp_path / "again")
    signature = load_saved_model(tmp_path / "again").signatures["infer"]
    answered = signature(**{name: tf.constant(array) for name, array in raw.items()})
    assert {name: tensor.dtype.name for name, tensor in answered.items()} == {
        "best": "int64",
        "chosen": "float32",
        "logits": "float32",
    }
    np.testing.assert_allclose(answered["chosen"], student.compute_saved_output(raw), atol=1e-6)
    np.testing.assert_array_equal(answered["best"], np.argmax(student.compute_saved_output(raw), -1))


def test_a_fixed_batch_is_trained_and_saved(tmp_path):
    wide = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)
    student, raw = open_frozen(save_plain(tmp_path / "plain"), wide, signature="four", trainable=True)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, 3))])
    def gradients(given):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(student.compute({"wide": given}).logits[:, 0])
        return tape.gradient(loss, [variable.value for variable in student.trainable_variables])

    left, out = ({v.name: v.numpy() for v in student.variables}[name] for name in ("left", "out"))
    active = (wide @ left > 0).astype(np.float32)
    found = dict(zip([v.name for v in student.trainable_variables], gradients(wide), strict=True))
    # The example that pads the last batch adds nothing.
    np.testing.assert_allclose(found["left"], wide.T @ (active * out[:, 0]), atol=1e-5)
    student.save(tmp_path / "again")
    again, _ = open_frozen(tmp_path / "again", wide, signature="four")
    np.testing.assert_allclose(again.compute_saved_output(raw), student.compute_saved_output(raw), atol=1e-6)


def test_untrainable_models_are_refused_with_the_reason(tmp_path):
    frozen, _ = save_tf1_network(tmp_path / "constant", frozen=True)
    with pytest.raises(ModelError, match="constant cannot be trained: its graph was frozen") as caught:
        FrozenNetwork(freeze_here(frozen), name="constant", trainable=True)
    assert "before freezing" in caught.value.hint
    with pytest.raises(ModelError, match="tables cannot be trained: it uses lookup tables"):
        FrozenNetwork(freeze_here(save_lookup(tmp_path / "tables")), name="tables", trainable=True)
    teacher, _ = open_frozen(frozen, IMAGES)
    with pytest.raises(ModelError, match="only a SavedModel that was opened for training"):
        teacher.save(tmp_path / "never")
    assert not (tmp_path / "never").exists()


REPLICAS = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
import numpy as np
import tensorflow as tf
import keras
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from graph_models import IMAGES, freeze_here, with_identity
from kdcli.models.saved_model.network import FrozenNetwork, SignatureNetwork
from kdcli.models.files.load import load_saved_model
folder = Path(sys.argv[2])
frozen, large = freeze_here(folder), freeze_here(folder, limit=10)
assert large.graph is None
x = tf.constant(IMAGES[:6])

def train(strategy):
    with strategy.scope():
        teacher = with_identity(FrozenNetwork(frozen, name="teacher"), picture=IMAGES)
        whole = with_identity(SignatureNetwork(large, load_saved_model(folder), name="whole"), picture=IMAGES)
        student = with_identity(FrozenNetwork(frozen, name="student", trainable=True), picture=IMAGES)
        optimizer = keras.optimizers.SGD(0.02)
        optimizer.build(student.trainable_variables)

    def replica():
        context = tf.distribute.get_replica_context()
        count = 6 // strategy.num_replicas_in_sync
        start = count * context.replica_id_in_sync_group
        given = {"picture": x[start : start + count]}
        expected = teacher.compute(given, taps=["block"])
        tf.debugging.assert_near(whole.compute_saved_output(given), teacher.compute_saved_output(given), atol=1e-6)
        with tf.GradientTape() as tape:
            outputs = student.compute(given, taps=["block"], training=True)
            loss = tf.reduce_sum((outputs.logits - 2 * expected.logits) ** 2) / 6
            loss += tf.reduce_sum((outputs.features["block"] - expected.features["block"] - 1) ** 2) / 6000
        gradients = tape.gradient(loss, [v.value for v in student.trainable_variables])
        optimizer.apply(gradients, student.trainable_variables)
        return loss

    @tf.function(autograph=False)
    def step():
        return strategy.reduce("SUM", strategy.run(replica), axis=None)

    losses = [float(step()) for _ in range(5)]
    return losses, {v.name: v.numpy() for v in student.variables}

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
(losses, one), (others, other) = train(tf.distribute.get_strategy()), train(two)
assert losses[-1] < losses[0]
np.testing.assert_allclose(losses, others, rtol=1e-4)
for name in one:
    np.testing.assert_allclose(one[name], other[name], atol=1e-4, rtol=1e-4, err_msg=name)
print("the same")
"""


def test_two_replicas_train_like_one(folder):
    words = [sys.executable, "-c", REPLICAS, str(Path(__file__).parents[2] / "support"), str(folder)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout.splitlines()[-1:] == ["the same"], ran.stderr[-3000:]


def test_tokens_train_too(tmp_path):
    student, raw = open_frozen(export(KERAS["recurrent"][0](), tmp_path / "r"), TOKENS, trainable=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(student.compute(raw).logits ** 2)
    gradients = tape.gradient(loss, [variable.value for variable in student.trainable_variables])
    assert all(gradient is not None for gradient in gradients)
