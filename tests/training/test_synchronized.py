"""Batch normalisation over two devices, and findings about losses over the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# In its own process: logical devices can only be made before TensorFlow starts.
SCRIPT = """
import json, sys
from typing import ClassVar
from kdcli.lazy import keras, ops, tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/support"]
from conftest import bar_reader, blobs
import kdcli
from kdcli.errors import KdError
from kdcli.events import Note
from kdcli.losses.soft_targets import SoftTargets
from kdcli.jobs import build

build_terms = build.build_terms

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one = tf.distribute.get_strategy()

class Relations(SoftTargets):
    whole_batch: ClassVar[bool] = True

    def __call__(self, **given):
        return ops.mean(super().__call__(**given))

def student(normalized=True):
    keras.utils.set_random_seed(2)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    features = layers.Conv2D(4, 3)(inputs)
    if normalized:
        features = layers.BatchNormalization(momentum=0.5)(features)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.ReLU()(features))))

def run(strategy, out, *, losses=(), model=None, batch_size=8, **given):
    build.strategy_for = lambda *devices: strategy
    notes, settings = [], given.pop("settings", ())
    recipe = {"losses": [{"kind": "soft_targets"}]}
    # Recipes name kinds of the package, so the custom loss is put in where terms are made.
    build.build_terms = lambda requested, **given: build_terms(losses or requested, **given)
    x, y = blobs(64)
    ran = None
    with strategy.scope():
        model = model or student()
    try:
        ran = kdcli.distill(
            recipe=recipe, teacher=bar_reader(), student=model, data=(x, y), out=out, epochs=2,
            batch_size=batch_size,
            settings=("teacher.targets=memory", "teacher.precision=float32", *settings), **given,
            on_event=lambda event: notes.append(event.text) if isinstance(event, Note) else None,
        )
    except KdError as error:
        return {"error": error.message, "code": error.exit_code}
    if given.get("dry_run"):
        return {"findings": ran.findings}
    opened = keras.saving.load_model(ran.model_path)
    lines = [json.loads(line)["loss"] for line in open(f"{out}/metrics.jsonl")]
    layer = [one for one in opened.layers if "batch" in one.name]
    own = [one for one in model.layers if "batch" in one.name]
    return {"losses": lines, "notes": notes, "saved": [one.synchronized for one in layer + own]}

on = ("train.synchronized=true",)
found = {
    "one": run(one, "one"),
    "idle": run(one, "idle", settings=on),
    "shares": run(two, "shares"),
    "synchronized": run(two, "synchronized", settings=on),
    "none": run(two, "none", settings=on, model=student(False)),
    "odd": run(two, "odd", batch_size=9),
    "whole": run(two, "whole", losses=(Relations(name="relations"),), dry_run=True),
    "whole_alone": run(one, "whole", losses=(Relations(name="relations"),), dry_run=True),
}
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("synchronized")
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[1])]
    ran = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.split("RESULT")[1])


def test_synchronized_normalisation_over_two_devices_is_that_of_one(found):
    assert len(found["one"]["losses"]) == 2
    assert found["synchronized"]["losses"] == pytest.approx(found["one"]["losses"], rel=1e-5)
    assert found["shares"]["losses"] != pytest.approx(found["one"]["losses"], rel=1e-4)


def test_saved_model_has_its_original_layers(found):
    assert found["synchronized"]["saved"] == [False, False]


def test_synchronizing_one_device_gives_a_note(found):
    assert "train.synchronized has no effect on one device" in found["idle"]["notes"]
    assert found["idle"]["losses"] == found["one"]["losses"]
    assert not any("synchronized" in note for note in found["synchronized"]["notes"])


def test_synchronizing_without_batch_normalisation_is_refused(found):
    assert found["none"] == {
        "error": "train.synchronized needs Keras batch normalization layers, and student object has none",
        "code": 2,
    }


def test_batch_that_devices_cannot_share_is_refused(found):
    assert found["odd"] == {"error": "train.batch_size 9 is not divisible by the number of devices (2)", "code": 2}


def test_plan_warns_that_a_whole_batch_loss_sees_a_slice(found):
    said = "relations: compares the examples of a batch, but each device sees only a slice of it"
    assert said in found["whole"]["findings"]
    assert said not in found["whole_alone"]["findings"]
