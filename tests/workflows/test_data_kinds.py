"""kd distill on every kind of data: unlabelled, weighted, several labels, values, pictures of labels."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs

import kdcli
from kdcli.errors import DataError, UsageError

X, Y = blobs(64)
X_TEST, Y_TEST = blobs(32, seed=1)
LABELS = {"kind": "labels", "weight": 0.5}
SOFT = {"kind": "soft_targets", "temperature": 2.0}


def network(width: int, outputs: int, *, seed: int, dense: bool = False, activation=None) -> keras.Model:
    """A small network; `dense` keeps height and width, one answer for each pixel."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="features")(inputs)
    if dense:
        return keras.Model(inputs, keras.layers.Conv2D(outputs, 1, activation=activation)(x))
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(x))


def distill(out: Path, data, *, losses=(LABELS, SOFT), outputs=3, dense=False, activation=None, data_section=None):
    """Distil fresh copies of the same two models, without preflight: the teacher is not trained."""
    train = {"epochs": 2, "batch_size": 8, "optimizer": {"kind": "adam", "learning_rate": 0.01}}
    return kdcli.distill(
        teacher=network(6, outputs, seed=1, dense=dense, activation=activation),
        student=network(2, outputs, seed=2, dense=dense, activation=activation),
        recipe={"losses": list(losses), "train": train, "data": data_section or {}},
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


def test_labels_that_are_ignored_do_not_matter(tmp_path):
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
    assert "leave the term out" in caught.value.hint
    assert not (tmp_path / "a").exists()


def test_regression_runs_to_its_end(tmp_path):
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
def test_multilabel_runs_to_its_end(tmp_path, activation):
    several = {"y_train": np.eye(3, dtype=int)[Y], "y_test": np.eye(3, dtype=int)[Y_TEST]}
    for labels in several.values():
        labels[::4, 0] = 1
    run = distill(tmp_path / "a", arrays(**several), losses=[LABELS, {"kind": "logit_mse"}], activation=activation)
    assert run.task == "multilabel"
    with np.load(run.run / "predictions.npz") as file:
        decided = file["logits"] > 0
        assert run.test.accuracy == pytest.approx(np.mean(decided == several["y_test"]), abs=1e-9)
    answers = np.asarray(keras.saving.load_model(run.model_path)(X_TEST / np.float32(255)))
    np.testing.assert_array_equal(answers > (0.5 if activation else 0.0), decided)
    assert run.test.macro_f1 is not None


def test_segmentation_runs_to_its_end(tmp_path):
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


def test_unknown_class_in_class_weight_is_refused_and_leaves_nothing(tmp_path):
    weighted = {"class_weight": {"cat": 3.0}}
    with pytest.raises(DataError, match=r"data\.class_weight: no class 'cat'; classes: 0, 1, 2"):
        distill(tmp_path / "a", arrays(), data_section=weighted)
    assert not (tmp_path / "a").exists()
