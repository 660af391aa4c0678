"""Models that rescale their own images, in every command and task, against plain Keras on the raw images."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.events import Note
from kdcli.recipe.reader import read_recipe

layers = keras.layers
X, Y = blobs(192, seed=0)
X_TEST, Y_TEST = blobs(48, seed=1)


def body(x, units, activation):
    x = layers.Conv2D(6, 3, activation="relu")(x)
    return layers.Dense(units, activation=activation)(layers.Flatten()(x))


FIRST = {
    "rescaling": lambda x: layers.Rescaling(1 / 255)(x),
    "arithmetic": lambda x: x / 127.5 - 1.0,
    "behind augmentation": lambda x: layers.Rescaling(1 / 255)(
        layers.RandomContrast(0.1)(layers.RandomZoom(0.05)(x))
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales")
    save_npz(folder / "data.npz", x_train=X, y_train=Y)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    teacher = keras.Model(inputs, body(inputs, 3, "softmax"))
    teacher.compile("adam", "sparse_categorical_crossentropy")
    teacher.fit(X / 255.0, Y, epochs=12, batch_size=16, verbose=0)
    teacher.save(folder / "teacher.keras")
    for name, first in FIRST.items():
        inputs = keras.Input((8, 8, 1))
        keras.Model(inputs, body(first(inputs), 3, "softmax")).save(folder / f"{name}.keras")
    return folder


@pytest.mark.parametrize("start", ["file", "fresh"])
@pytest.mark.parametrize("name", FIRST)
def test_a_student_that_rescales_its_images_is_trained_as_under_raw(name, start, folder, tmp_path):
    def run(scale):
        out = tmp_path / scale
        kdcli.distill(
            teacher=folder / "teacher.keras",
            student=folder / f"{name}.keras",
            data=folder / "data.npz",
            settings=[f"student.start={start}", "train.epochs=2", f"student.input.scale={scale}"],
            out=out,
        )
        return read_recipe(out / "recipe.yaml").recipe, keras.saving.load_model(out / "student.keras")

    (found, auto), (_, raw) = run("auto"), run("raw")
    assert found.student.input.scale == "raw"
    own = auto.predict(X_TEST.astype(np.float32), verbose=0)
    np.testing.assert_array_equal(own, raw.predict(X_TEST.astype(np.float32), verbose=0))


def brightness(x):
    return (x.mean((1, 2, 3)) / 255.0).astype(np.float32)


@pytest.mark.parametrize("task", ["regression", "segmentation"])
def test_a_teacher_that_rescales_is_evaluated_as_plain_keras_does(task, tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    if task == "regression":
        made, loss, metric = brightness, "mse", keras.metrics.RootMeanSquaredError()
        model = keras.Model(inputs, body(x, 1, None))
    else:
        made, loss, metric = (
            lambda x: (x[..., 0] > 100).astype("u1"),
            "sparse_categorical_crossentropy",
            "accuracy",
        )
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        model = keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=[metric])
    model.fit(X, made(X), epochs=10, batch_size=16, verbose=0)
    model.save(tmp_path / "t.keras")
    np.savez(tmp_path / "d.npz", x_train=X, y_train=made(X), x_test=X_TEST, y_test=made(X_TEST))
    found = kdcli.evaluate(tmp_path / "t.keras", data=tmp_path / "d.npz", settings=[f"data.task={task}"])
    own = model.evaluate(X_TEST, made(X_TEST), verbose=0)[1]
    quality = found.models[0].quality
    assert (quality.rmse if task == "regression" else quality.accuracy) == pytest.approx(own, abs=1e-5)


def test_a_teacher_trained_on_mean_and_deviation_is_read_so(tmp_path):
    mean, deviation = float(X.mean()), float(X.std())
    x_test = ((X_TEST - mean) / deviation).astype(np.float32)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, body(inputs, 3, "softmax"))
    keras.utils.set_random_seed(0)
    model.compile("adam", "sparse_categorical_crossentropy")
    # Some labels are wrong: what is learned without a doubt is the same under many scales.
    noisy = np.where(np.arange(len(Y)) % 8 == 3, (Y + 1) % 3, Y)
    model.fit((X - mean) / deviation, noisy, epochs=25, batch_size=16, verbose=0)
    model.save(tmp_path / "t.keras")
    data = save_npz(tmp_path / "d.npz", x_train=X, y_train=noisy)
    scale = {"mean": [mean], "deviation": [deviation]}
    given = kdcli.evaluate(tmp_path / "t.keras", data=data, settings=[f"student.input.scale={scale}"])
    own = float(model.evaluate(x_test, Y_TEST, verbose=0))
    assert given.models[0].quality.loss == pytest.approx(own, rel=1e-3)
    found = kdcli.evaluate(tmp_path / "t.keras", data=data)
    assert found.models[0].quality.loss == pytest.approx(own, rel=0.02)


@pytest.mark.parametrize("command", ["evaluate", "predict", "inspect"])
def test_floats_from_0_to_255_under_a_teacher_for_0_to_1_are_reported_by_every_command(command, folder, tmp_path):
    data = tmp_path / "floats.npz"
    save_npz(data, x_train=X.astype(np.float32), y_train=Y, x_test=X_TEST.astype(np.float32), y_test=Y_TEST)
    events = []
    more = {"out": tmp_path / "p.npz"} if command == "predict" else {}
    getattr(kdcli, command)(folder / "teacher.keras", data=data, on_event=events.append, **more)
    texts = [event.text for event in events if isinstance(event, Note)]
    assert any("the images are float32 from 0 to 209 and are not scaled" in text for text in texts)


def test_a_scale_without_effect_is_reported(folder, tmp_path):
    data = tmp_path / "floats.npz"
    save_npz(data, x_train=X / np.float32(255), y_train=Y, x_test=X_TEST / np.float32(255), y_test=Y_TEST)
    events = []
    settings = ["student.input.scale=signed"]
    kdcli.evaluate(folder / "teacher.keras", data=data, settings=settings, on_event=events.append)
    texts = [event.text for event in events if isinstance(event, Note)]
    assert any("input.scale signed has no effect: only uint8 images are scaled" in text for text in texts)


def test_one_logit_of_a_model_that_rescales_is_not_taken_for_a_sigmoid(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, body(layers.Rescaling(1 / 255)(inputs), 1, None))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile("adam", loss)
    two, two_test = (Y == 1).astype(int), (Y_TEST == 1).astype(int)
    model.fit(X, two, epochs=6, batch_size=16, verbose=0)
    model.save(tmp_path / "m.keras")
    data = save_npz(tmp_path / "d.npz", x_train=X, y_train=two, x_test=X_TEST, y_test=two_test)
    found = kdcli.evaluate(tmp_path / "m.keras", data=data).models[0].quality
    own = float(loss(two_test[:, None], model.predict(X_TEST.astype(np.float32), verbose=0)))
    assert found.loss == pytest.approx(own, rel=1e-4)


def test_a_run_on_floats_records_no_scale_and_finds_one_for_bytes(folder, tmp_path):
    given = {"x_train": X / np.float32(255), "y_train": Y, "x_test": X_TEST / np.float32(255), "y_test": Y_TEST}
    np.savez(tmp_path / "floats.npz", **given)
    kdcli.distill(
        teacher=folder / "teacher.keras",
        student=folder / "teacher.keras",
        data=tmp_path / "floats.npz",
        settings=["student.start=fresh", "train.epochs=8", "train.batch_size=16"],
        out=tmp_path / "run",
    )
    assert read_recipe(tmp_path / "run" / "recipe.yaml").recipe.student.input.scale == "auto"
    floats = kdcli.evaluate(tmp_path / "run", data=tmp_path / "floats.npz").models[0].quality
    as_bytes = kdcli.evaluate(tmp_path / "run", data=folder / "data.npz").models[0].quality
    model = keras.saving.load_model(tmp_path / "run" / "student.keras")
    own = float((model.predict(given["x_test"], verbose=0).argmax(1) == Y_TEST).mean())
    assert floats.accuracy == as_bytes.accuracy == pytest.approx(own)
    assert as_bytes.loss == pytest.approx(floats.loss, rel=1e-4)
