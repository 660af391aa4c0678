"""kd distill on every kind of data: unlabelled, weighted, multilabel, values, label maps."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

import kdcli
from kdcli.errors import DataError, UsageError

X, Y = blobs(64)
X_TEST, Y_TEST = blobs(32, seed=1)
LABELS = {"kind": "labels", "weight": 0.5}
SOFT = {"kind": "soft_targets", "temperature": 2.0}


def network(width: int, outputs: int, *, seed: int, dense: bool = False, activation=None) -> keras.Model:
    """A small network; `dense` keeps height and width, with one output per pixel."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="features")(inputs)
    if dense:
        return keras.Model(inputs, keras.layers.Conv2D(outputs, 1, activation=activation)(x))
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(x))


def distill(
    out: Path,
    data,
    *,
    losses=(LABELS, SOFT),
    outputs=3,
    dense=False,
    activation=None,
    data_section=None,
    train=None,
):
    """Distil fresh copies of the same two models, without preflight, because the teacher is not trained."""
    train = train or {"epochs": 2, "batch_size": 8, "optimizer": {"kind": "adam", "learning_rate": 0.01}}
    return kdcli.distill(
        teacher=network(6, outputs, seed=1, dense=dense, activation=activation),
        student=network(2, outputs, seed=2, dense=dense, activation=activation),
        recipe={
            "losses": list(losses),
            "train": train,
            "data": data_section or {},
            # Random weights may fit another scale better by chance.
            "teacher": {"input": {"scale": "unit"}},
            "student": {"input": {"scale": "unit"}},
        },
        data=data,
        out=out,
        preflight=False,
    )


def arrays(**more: np.ndarray) -> dict[str, np.ndarray]:
    return {"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST, **more}


def weights(run) -> list[np.ndarray]:
    return keras.saving.load_model(run.model_path).get_weights()


def difference(ours, theirs) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(weights(ours), weights(theirs), strict=True))


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]


def test_unlabelled_data_distils_and_agreement_selects(tmp_path):
    named = {"classes": ["a", "b", "c"]}
    run = distill(tmp_path / "a", {"x_train": X, "x_test": X_TEST}, losses=[SOFT], data_section=named)
    assert run.test.accuracy is None
    assert 0 <= run.test.agreement <= 1
    assert run.teacher == {"path": None, "accuracy": None, "agreement": run.test.agreement}
    agreements = [line["validation.agreement"] for line in lines(run)]
    assert run.best_epoch == 1 + agreements.index(max(agreements))
    with np.load(run.run / "predictions.npz") as file:
        assert set(file.files) == {"logits", "index"}


def test_ignored_labels_have_no_influence(tmp_path):
    ignored = {"labels": "none", "classes": ["a", "b", "c"]}
    run = distill(tmp_path / "a", arrays(), losses=[SOFT], data_section=ignored)
    turned = arrays(y_train=(Y + 1) % 3)
    other = distill(tmp_path / "b", turned, losses=[SOFT], data_section=ignored)
    assert difference(run, other) == 0


def test_label_loss_on_unlabelled_data_is_refused_by_name(tmp_path):
    truth = {**LABELS, "name": "truth"}
    data = {"x_train": X, "x_test": X_TEST}
    with pytest.raises(UsageError, match=r"losses\.truth needs labels, and the data has none") as caught:
        distill(tmp_path / "a", data, losses=[truth, SOFT], data_section={"classes": ["a", "b", "c"]})
    assert "remove it" in caught.value.hint
    assert not (tmp_path / "a").exists()


def test_regression_is_distilled_and_evaluated(tmp_path):
    values = {"y_train": Y * 0.5 + 0.25, "y_test": Y_TEST * 0.5 + 0.25}
    terms = [LABELS, {"kind": "logit_mse"}]
    run = distill(tmp_path / "a", arrays(**values), losses=terms, outputs=1, data_section={"task": "regression"})
    assert run.task == "regression"
    assert run.test.accuracy is None
    with np.load(run.run / "predictions.npz") as file:
        errors = file["logits"].ravel() - values["y_test"]
        assert run.test.mae == pytest.approx(np.abs(errors).mean(), abs=1e-6)
        assert run.test.rmse == pytest.approx(np.sqrt(np.square(errors).mean()), abs=1e-6)
    found = [line["validation.rmse"] for line in lines(run)]
    assert run.best_epoch == 1 + found.index(min(found))
    assert json.loads((run.run / "summary.json").read_text())["validation"]["rmse"] == pytest.approx(min(found))


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_multilabel_task_is_distilled_and_evaluated(tmp_path, activation):
    several = {"y_train": np.eye(3, dtype=int)[Y], "y_test": np.eye(3, dtype=int)[Y_TEST]}
    for labels in several.values():
        labels[::4, 0] = 1
    run = distill(tmp_path / "a", arrays(**several), losses=[LABELS, {"kind": "logit_mse"}], activation=activation)
    assert run.task == "multilabel"
    with np.load(run.run / "predictions.npz") as file:
        decided = file["logits"] > 0
        assert run.test.accuracy == pytest.approx(np.mean(decided == several["y_test"]), abs=1e-9)
    outputs = np.asarray(keras.saving.load_model(run.model_path)(X_TEST / np.float32(255)))
    np.testing.assert_array_equal(outputs > (0.5 if activation else 0.0), decided)
    assert run.test.macro_f1 is not None


def test_segmentation_is_distilled_and_evaluated(tmp_path):
    where = {"y_train": (X[..., 0] > 120).astype(np.int64), "y_test": (X_TEST[..., 0] > 120).astype(np.int64)}
    run = distill(tmp_path / "a", arrays(**where), outputs=2, dense=True)
    assert run.task == "segmentation"
    with np.load(run.run / "predictions.npz") as file:
        assert set(file.files) == {"classes", "labels", "index"}
        assert np.mean(file["classes"] == file["labels"]) == pytest.approx(run.test.accuracy, abs=1e-9)
    assert 0 < run.test.mean_iou <= 1


def test_examples_of_weight_zero_have_no_influence(tmp_path):
    counted = np.arange(64) < 32
    held = {"x_validation": X_TEST, "y_validation": Y_TEST, "weight_train": counted.astype(float)}
    wrong = np.where(counted, Y, (Y + 1) % 3)
    weighted = distill(tmp_path / "a", arrays(**held), losses=[LABELS])
    unharmed = distill(tmp_path / "b", arrays(**held, y_train=wrong), losses=[LABELS])
    harmed = distill(
        tmp_path / "c", arrays(**{**held, "weight_train": np.ones(64)}, y_train=wrong), losses=[LABELS]
    )
    assert difference(weighted, unharmed) == 0
    assert difference(unharmed, harmed) > 1e-3


def test_sample_weights_scale_every_term(tmp_path):
    plain = distill(tmp_path / "a", arrays())
    ones = distill(tmp_path / "b", arrays(weight_train=np.ones(64)))
    halves = distill(tmp_path / "c", arrays(weight_train=np.full(64, 0.5)))
    assert difference(plain, ones) == 0
    first, half = lines(plain)[0], lines(halves)[0]
    assert half["losses.labels"] == pytest.approx(first["losses.labels"] / 2, rel=0.05)
    assert half["losses.soft_targets"] == pytest.approx(first["losses.soft_targets"] / 2, rel=0.05)
    assert difference(plain, halves) > 0


def test_class_weight_changes_label_losses(tmp_path):
    weighted = {"class_weight": {"0": 3.0, "1": 0.1}}
    assert (
        difference(
            distill(tmp_path / "a", arrays(), losses=[LABELS]),
            distill(tmp_path / "b", arrays(), losses=[LABELS], data_section=weighted),
        )
        > 1e-3
    )
    balanced = arrays(y_train=np.minimum(Y, 1), y_test=np.minimum(Y_TEST, 1))
    assert (
        difference(
            distill(tmp_path / "c", balanced, losses=[LABELS], outputs=2),
            distill(
                tmp_path / "d", balanced, losses=[LABELS], outputs=2, data_section={"class_weight": "balanced"}
            ),
        )
        > 1e-3
    )


def test_unknown_class_in_class_weight_is_refused_before_writing(tmp_path):
    weighted = {"class_weight": {"cat": 3.0}}
    with pytest.raises(DataError, match=r"data\.class_weight: unknown class 'cat'; classes: 0, 1, 2"):
        distill(tmp_path / "a", arrays(), data_section=weighted)
    assert not (tmp_path / "a").exists()


# One step of gradient descent over all examples, which plain Keras can reproduce.
ONE_STEP = {"epochs": 1, "batch_size": 64, "optimizer": {"kind": "sgd", "learning_rate": 0.5}}
HELD = {"x_validation": X_TEST, "y_validation": Y_TEST}


def step_in_keras(loss, *, outputs: int, dense: bool, activation: str | None) -> list[np.ndarray]:
    """Take the same step in plain Keras, with a loss of (student output, teacher output); return the weights."""
    given = {"outputs": outputs, "dense": dense, "activation": activation}
    teacher, student = network(6, seed=1, **given), network(2, seed=2, **given)
    images = X.astype(np.float32) / 255
    with tf.GradientTape() as tape:
        value = loss(student(images, training=True), teacher(images))
    gradients = tape.gradient(value, student.trainable_variables)
    return [w.numpy() - 0.5 * g.numpy() for w, g in zip(student.trainable_variables, gradients, strict=True)]


def assert_same(run, expected) -> None:
    for ours, theirs in zip(weights(run), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def soften(probabilities, temperature: float):
    """Soften probabilities with a temperature."""
    raised = probabilities ** (1 / temperature)
    return raised / tf.reduce_sum(raised, axis=-1, keepdims=True)


def test_soft_labels_train_with_categorical_cross_entropy(tmp_path):
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 64)
    data = {"x_train": X, "y_train": rows, **HELD, "x_test": X_TEST, "y_test": np.eye(3)[Y_TEST] * 0.7 + 0.1}
    run = distill(tmp_path / "a", data, losses=[LABELS], activation="softmax", train=ONE_STEP)
    truth = keras.losses.CategoricalCrossentropy()
    expected = step_in_keras(lambda ours, _: 0.5 * truth(rows, ours), outputs=3, dense=False, activation="softmax")
    assert run.task == "classification"
    assert_same(run, expected)
    predicted = keras.saving.load_model(run.model_path)(X_TEST / np.float32(255)).numpy().argmax(-1)
    assert run.test.accuracy == pytest.approx(np.mean(predicted == Y_TEST))


@pytest.mark.parametrize("kind", ["decoupled", "normalized", "weighted_soft_labels"])
def test_losses_that_need_one_class_refuse_soft_labels(tmp_path, kind):
    rows = {"y_train": np.eye(3)[Y] * 0.7 + 0.1}
    with pytest.raises(UsageError, match=rf"losses\.{kind} needs one class per example") as caught:
        distill(tmp_path / "a", arrays(**rows), losses=[{"kind": kind}])
    assert "class probabilities" in caught.value.message


@pytest.mark.parametrize("high", [1, 255])
def test_one_sigmoid_per_pixel_is_binary_segmentation(tmp_path, high):
    inside = (X > 120).astype(np.uint8), (X_TEST > 120).astype(np.uint8)
    data = arrays(y_train=inside[0] * high, y_test=inside[1] * high, x_validation=X_TEST)
    data |= {"y_validation": inside[1] * high}
    run = distill(tmp_path / "a", data, outputs=1, dense=True, activation="sigmoid", train=ONE_STEP)
    truth, apart = keras.losses.BinaryCrossentropy(), keras.losses.KLDivergence()

    def loss(ours, theirs):
        both = (tf.concat([1 - one, one], axis=-1) for one in (theirs, ours))
        # soft_targets has a weight of 0.9 and scales with the square of its temperature.
        return 0.5 * truth(inside[0], ours) + 0.9 * 4 * apart(*(soften(one, 2.0) for one in both))

    assert run.task == "segmentation"
    assert_same(run, step_in_keras(loss, outputs=1, dense=True, activation="sigmoid"))
    predicted = keras.saving.load_model(run.model_path)(X_TEST / np.float32(255)).numpy()
    metric = keras.metrics.MeanIoU(2)
    metric.update_state(inside[1], predicted > 0.5)
    assert run.test.accuracy == pytest.approx(np.mean((predicted > 0.5) == inside[1]))
    assert run.test.mean_iou == pytest.approx(float(metric.result()), abs=1e-6)


def with_void(images):
    """Masks of two classes, with a fifth of the pixels void."""
    masks = (images[..., 0] > 120).astype(np.uint8)
    masks[np.random.default_rng(0).random(masks.shape) < 0.2] = 255
    return masks


def test_void_pixels_are_excluded_from_losses_and_metrics(tmp_path):
    masks, tested = with_void(X), with_void(X_TEST)
    data = arrays(y_train=masks, y_test=tested, x_validation=X_TEST, y_validation=tested)
    ignored = {"ignore": 255}
    run = distill(
        tmp_path / "a",
        data,
        outputs=2,
        dense=True,
        activation="softmax",
        data_section=ignored,
        train=ONE_STEP,
    )
    valid = tf.constant(masks != 255, tf.float32)
    truth = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    apart = keras.losses.KLDivergence(reduction=None)

    def loss(ours, theirs):
        each = 0.5 * truth(np.where(masks == 255, 0, masks), ours)
        each += 0.9 * 4 * apart(soften(theirs, 2.0), soften(ours, 2.0))
        return tf.reduce_mean(tf.reduce_sum(each * valid, axis=(1, 2)) / tf.reduce_sum(valid, axis=(1, 2)))

    assert_same(run, step_in_keras(loss, outputs=2, dense=True, activation="softmax"))
    model = keras.saving.load_model(run.model_path)
    probabilities = model(X_TEST / np.float32(255)).numpy()
    whole = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
    metric = keras.metrics.MeanIoU(2, ignore_class=255)
    metric.update_state(tested, probabilities.argmax(-1))
    counted = tested != 255
    assert run.test.accuracy == pytest.approx(np.mean((probabilities.argmax(-1) == tested)[counted]))
    assert run.test.loss == pytest.approx(float(whole(tested, probabilities)), abs=1e-5)
    assert run.test.mean_iou == pytest.approx(float(metric.result()), abs=1e-6)


def test_losses_that_compare_pixels_refuse_void_pixels(tmp_path):
    with pytest.raises(UsageError, match=r"losses\.dist compares pixels with each other, and data\.ignore"):
        distill(
            tmp_path / "a",
            arrays(y_train=with_void(X), y_test=with_void(X_TEST)),
            losses=[{"kind": "dist"}],
            outputs=2,
            dense=True,
            data_section={"ignore": 255},
        )


def test_target_images_are_learned_and_evaluated_as_values(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, X.shape, dtype=np.uint8)
    held = np.random.default_rng(1).integers(0, 256, X_TEST.shape, dtype=np.uint8)
    data = arrays(y_train=noise, y_test=held, x_validation=X_TEST, y_validation=held)
    run = distill(tmp_path / "a", data, outputs=1, dense=True, activation="sigmoid", train=ONE_STEP)
    truth = keras.losses.MeanSquaredError()

    def loss(ours, theirs):
        return 0.5 * truth(noise / np.float32(255), ours) + 0.9 * truth(theirs, ours)

    assert run.task == "regression"
    assert_same(run, step_in_keras(loss, outputs=1, dense=True, activation="sigmoid"))
    predicted = keras.saving.load_model(run.model_path)(X_TEST / np.float32(255)).numpy()
    expected = held / np.float32(255)
    assert run.test.rmse == pytest.approx(np.sqrt(np.mean(np.square(predicted - expected))), rel=1e-5)
    assert run.test.psnr == pytest.approx(float(tf.reduce_mean(tf.image.psnr(predicted, expected, 1.0))), rel=1e-5)
    assert json.loads((run.run / "summary.json").read_text())["test"]["psnr"] == run.test.psnr


def test_augmentation_that_moves_pixels_is_refused_for_maps_of_values(tmp_path):
    moved = {"augment": [{"kind": "shift", "pixels": 1}]}
    depth = arrays(y_train=X / 255.0, y_test=X_TEST / 255.0)
    with pytest.raises(UsageError, match="but not those of its label map"):
        distill(tmp_path / "a", depth, outputs=1, dense=True, data_section=moved)


def test_selected_output_selects_its_labels(tmp_path):
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    heads = {"digit": keras.layers.Dense(3, name="digit")(flat), "big": keras.layers.Dense(2, name="big")(flat)}
    keras.Model(inputs, heads).save(tmp_path / "two.keras")
    big = Y_TEST % 2
    data = {"x_train": X, "y_train.digit": Y, "y_train.big": Y % 2, "x_test": X_TEST}
    data |= {"y_test.digit": Y_TEST, "y_test.big": big}
    measured = kdcli.evaluate(tmp_path / "two.keras", data=data, output="big").models[0].quality
    model = keras.saving.load_model(tmp_path / "two.keras")
    predicted = model.predict(X_TEST / np.float32(255), verbose=0)["big"].argmax(-1)
    assert measured.accuracy == np.mean(predicted == big)
