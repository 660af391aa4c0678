"""Mistakes that once passed silently: each is refused, reported or handled correctly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import ModelError, UsageError

LABELS = [{"kind": "labels"}]


def model(*, outputs=3, activation=None, width=4, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(width, 3, strides=2, activation="relu")(inputs))
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(x))


def options(tmp_path, **more):
    given = {"teacher": model(seed=1, width=6), "student": model(), "epochs": 1, "preflight": False}
    recipe = {"losses": LABELS, "train": {"batch_size": 16}}
    return {"recipe": recipe, "data": save_npz(tmp_path / "data.npz"), **given, "out": tmp_path / "run", **more}


def test_different_output_kinds_are_not_compared(tmp_path):
    losses = {"recipe": {"losses": [{"kind": "soft_targets"}]}}
    student = model(activation="sigmoid")
    with pytest.raises(ModelError, match="the teacher's outputs are logits, the student's sigmoid"):
        kdcli.distill(**options(tmp_path, student=student, **losses))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "optimizer", [{"kind": "sgd", "momentum": 2.0}, {"clipnorm": 1.0, "global_clipnorm": 1.0}]
)
def test_an_optimizer_that_keras_refuses_is_a_usage_error_and_nothing_is_written(tmp_path, optimizer):
    recipe = {"losses": LABELS, "train": {"optimizer": optimizer}}
    with pytest.raises(UsageError, match=r"train\.optimizer: "):
        kdcli.distill(**options(tmp_path, recipe=recipe))
    assert not (tmp_path / "run").exists()


def test_another_zoo_model_is_a_different_setting(tmp_path):
    recipe = {"losses": LABELS, "student": {"model": {"kind": "zoo", "name": "mlp", "width": 4}}}
    given = options(tmp_path, recipe=recipe, student=None)
    kdcli.distill(**given)
    wider = {"losses": LABELS, "student": {"model": {"kind": "zoo", "name": "mlp", "width": 5}}}
    with pytest.raises(UsageError, match=r"student\.model\.width is 4 \(requested: 5\)"):
        kdcli.distill(**{**given, "recipe": wider}, resume=True)


def test_a_finished_run_is_not_shown_for_another_teacher_file(tmp_path):
    for seed in (1, 2):
        model(seed=seed, width=6).save(tmp_path / f"teacher{seed}.keras")
    given = options(tmp_path, teacher=tmp_path / "teacher1.keras")
    given.pop("recipe")
    kdcli.distill(**given)
    with pytest.raises(UsageError, match="the teacher has changed since"):
        kdcli.distill(**{**given, "teacher": tmp_path / "teacher2.keras"}, resume=True)


def test_unlabelled_data_takes_its_classes_from_the_teacher(tmp_path):
    x, _ = blobs()
    np.savez(tmp_path / "plain.npz", x=x)
    recipe = {"losses": [{"kind": "soft_cross_entropy"}], "student": {"model": {"kind": "zoo", "name": "mlp"}}}
    run = kdcli.distill(**options(tmp_path, recipe=recipe, student=None, data=tmp_path / "plain.npz"))
    assert keras.saving.load_model(run.model_path).output_shape == (None, 3)
    assert run.test is None


def test_epochs_on_the_command_line_replace_the_steps_of_the_recipe(tmp_path):
    recipe = {"losses": LABELS, "train": {"steps": 3, "batch_size": 16}}
    run = kdcli.distill(**options(tmp_path, recipe=recipe, epochs=2))
    assert (run.epochs, run.steps) == (2, 10)


def test_a_teacher_run_brings_its_preprocessing(tmp_path):
    recipe = {"losses": LABELS, "teacher": {"input": {"scale": "signed"}}}
    given = options(tmp_path, recipe=recipe, out=tmp_path / "teacher")
    given.pop("student")
    kdcli.train_teacher(**given)
    plan = kdcli.distill(**options(tmp_path, teacher=tmp_path / "teacher", dry_run=True))
    assert plan.teacher["input"]["x"]["scale"] == "signed"


def test_the_settings_of_a_run_do_not_apply_to_other_evaluated_files(tmp_path):
    run = kdcli.distill(**options(tmp_path))
    model(activation="softmax").save(tmp_path / "soft.keras")
    found = kdcli.evaluate(run.run, tmp_path / "soft.keras")
    assert [entry.quality.examples for entry in found.models] == [48, 48]


def test_output_maps_are_refused_for_classification(tmp_path):
    inputs = keras.Input((8, 8, 1))
    maps = keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs))
    with pytest.raises(ModelError, match="the output has shape 6×6×3, but classification needs 1 axes"):
        kdcli.distill(**options(tmp_path, student=maps))


def test_float_images_up_to_255_are_reported(tmp_path):
    x, y = blobs()
    np.savez(tmp_path / "float.npz", x=x.astype(np.float32), y=y)
    events = []
    kdcli.distill(
        **options(tmp_path, data=tmp_path / "float.npz", preflight=True, dry_run=True, teacher=good()),
        on_event=events.append,
    )
    texts = [getattr(event, "text", "") for event in events]
    # For teacher and student, since each may want another range.
    assert sum("the images are float32 from 0 to" in text and "are not scaled" in text for text in texts) == 2


def good():
    """A teacher that classifies blobs without training, by the brightness of the rows."""
    inputs = keras.Input((8, 8, 1))
    rows = keras.layers.Flatten()(keras.layers.AveragePooling2D((1, 8))(inputs))
    network = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(rows))
    kernel = np.zeros((8, 3), np.float32)
    for label in range(3):
        kernel[1 + label * 2 : 3 + label * 2, label] = 1
    network.set_weights([kernel])
    return network
