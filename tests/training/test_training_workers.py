"""Several devices share a batch: the losses and the weights are those of one device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from kdcli.errors import ModelError, WorkerLostError
from kdcli.training.cluster import Cluster
from kdcli.training.workers import Workers

# In its own process: logical devices can only be made before TensorFlow starts.
SCRIPT = """
import json, sys
from kdcli.lazy import keras, tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import numpy as np
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/support"]
from conftest import blobs
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed
from kdcli.data.views import Views
from kdcli.augment import Cutmix, Mixup, Shift
from kdcli.distillation.objective import Objective
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.distillation.targets import ResidentTargets
from kdcli.teacher.inference import TeacherPass
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import make_preprocessing
from kdcli.recipe.model_sections import InputSection
from kdcli.recipe.sections import TrainSection
from kdcli.training.step import Stepper

x, y = blobs(64)
weights = np.linspace(0.5, 2.0, 64).astype(np.float32)

def network(width, seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    features = layers.Conv2D(width, 3, strides=2, activation="relu", name="features")(inputs)
    regularized = layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.01))
    model = keras.Model(inputs, regularized(layers.Flatten()(features)))
    made = KerasNetwork(model, name="model")
    shapes = {"raw_shape": (8, 8, 1), "raw_dtype": "uint8", "shape": (8, 8, 1), "dtype": "float32"}
    return made.with_preprocessing({"x": make_preprocessing(InputSection(), **shapes, name="model")})

def train(strategy, kind):
    examples = Examples("train", {"x": x}, y, weights, np.arange(64))
    # Mixing takes partners from the whole split, also from the slice of another device.
    views = Views((Shift(pixels=1), Mixup(alpha=1.0), Cutmix()), seed=0, count=2, examples=64)
    hint = make("hint", teacher_layer="features", student_layer="features", weight=3.0)
    losses = (make("labels"), make("soft_targets", weight=0.5), hint)
    with strategy.scope():
        teacher, student = network(6, 1), network(2, 2)
        keras.utils.set_random_seed(3)
        terms = build_terms(losses, student=student, teacher=teacher)
    with TeacherPass(teacher, list_teacher_taps(terms), examples, views) as ask:
        asked = [ask(view, 0, len(examples)) for view in range(2)]
    kept = {name: np.concatenate([one[name] for one in asked]) for name in asked[0]}
    targets = ResidentTargets(kept, examples=len(examples))
    with strategy.scope():
        replicas = strategy.num_replicas_in_sync
        by_class = np.array([1.0, 2.0, 0.5], np.float32)
        objective = Objective(
            terms, student=student, targets=targets, class_weights=by_class, replicas=replicas
        )
        optimizer = TrainSection.model_validate({"optimizer": kind}).optimizer.build(0.05)
        optimizer.build(objective.trainable_variables)
    stepper = Stepper(
        objective, Feed(examples, views, classes=3), optimizer,
        batch_size=16, total_steps=8, gradient_clip=2.0, strategy=strategy,
    )
    losses = []
    for step in range(8):
        order = np.random.default_rng(step).permutation(64)[:16]
        slot = step % 2
        stepper.start(order[None], table=views.table(slot), slot=slot)
        result = stepper.run(1, first=step)
        assert (result.steps, result.not_finite) == (1, None), result
        losses.append(result.sums)
    values = [keras.ops.convert_to_numpy(variable.value) for variable in objective.trainable_variables]
    final = [value.ravel().tolist() for value in values]
    return {"replicas": replicas, "losses": losses, "weights": final}

found = {}
for kind in ("adam", "sgd"):
    one = train(tf.distribute.get_strategy(), kind)
    two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), kind)
    found[kind] = [one, two]
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    tests = str(Path(__file__).parents[1])
    words = [sys.executable, "-c", SCRIPT, tests]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.split("RESULT")[1])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_two_replicas_give_the_losses_of_one(found, optimizer):
    one, two = found[optimizer]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    assert len(one["losses"]) == 8
    assert set(one["losses"][0]) == {"loss", "labels", "soft_targets", "hint", "regularization"}
    for ours, theirs in zip(two["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert one["losses"][0]["loss"] != pytest.approx(one["losses"][-1]["loss"], rel=1e-2)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_two_replicas_end_with_the_weights_of_one(found, optimizer):
    one, two = found[optimizer]
    assert len(one["weights"]) == 6
    for ours, theirs in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_single_process_exchanges_nothing():
    single = Workers()
    assert (single.index, single.count, single.is_chief, single.strategy) == (0, 1, True, None)
    assert single.all_gather([1, np.inf, 3]).tolist() == [[1, np.inf, 3]]
    assert int(single.broadcast(7)) == 7
    made = object()
    assert single.broadcast_object(lambda: made) is made
    single.barrier()
    assert single.slice_batch(10) is None


def test_workers_take_slices_that_follow_each_other():
    cluster = Cluster(("a:1", "b:1", "c:1"), 0)
    slices = [Workers(Cluster(cluster.addresses, index)).slice_batch(12) for index in range(3)]
    assert slices == [slice(0, 4), slice(4, 8), slice(8, 12)]


RESET = "Additional GRPC error information from remote target /job:worker/replica:0/task:{} while calling RecvBuf"
BEATS = "Error reported from /job:worker/task:{}: The following tasks are unhealthy (stopped sending heartbeats)"


@pytest.mark.parametrize(
    ("index", "error", "name"),
    [
        (0, tf.errors.UnavailableError(None, None, RESET.format(2)), "worker 2 (c:1)"),
        (1, tf.errors.UnavailableError(None, None, RESET.format(0)), "the chief (a:1)"),
        (0, tf.errors.AbortedError(None, None, BEATS.format(1)), "worker 1 (b:1)"),
        (
            1,
            tf.errors.DeadlineExceededError(None, None, "RPC: /tensorflow.CoordinationService/Heartbeat"),
            "the chief",
        ),
        (0, tf.errors.InternalError(None, None, "Collective ops is aborted by: something"), "another worker"),
    ],
)
def test_lost_worker_is_named_with_the_checkpoint_also_in_a_nested_error(tmp_path, index, error, name):
    workers = Workers(Cluster(("a:1", "b:1", "c:1"), index))
    with (
        pytest.raises(WorkerLostError) as caught,
        workers.report_lost_worker(tmp_path, newest=lambda: Path("step-7")),
    ):
        raise ModelError("the model cannot be called") from error
    assert caught.value.message.startswith(f"{name}")
    assert caught.value.message.endswith(
        "is lost: it was killed, is unreachable, or ended with an error of its own; the last checkpoint is step-7"
    )
    assert (caught.value.exit_code, caught.value.run) == (6, tmp_path)


def test_other_errors_are_not_replaced(tmp_path):
    workers = Workers(Cluster(("a:1", "b:1"), 0))
    with pytest.raises(ModelError), workers.report_lost_worker(tmp_path, newest=lambda: None):
        raise ModelError("too large") from tf.errors.ResourceExhaustedError(None, None, "out of memory")
    # A single process has no worker to lose.
    with pytest.raises(tf.errors.UnavailableError), Workers().report_lost_worker(tmp_path, newest=lambda: None):
        raise tf.errors.UnavailableError(None, None, "a file system that is away")
