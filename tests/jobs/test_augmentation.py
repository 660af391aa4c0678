"""Training and distillation on augmented and mixed images."""

from __future__ import annotations

import json
from typing import get_args

import keras
import numpy as np
import pytest
from conftest import blobs

import kdcli
from kdcli.augment import AnyAugment
from kdcli.errors import UsageError

X, Y = blobs(64)
X_TEST, Y_TEST = blobs(24, seed=1)
KINDS = [kind.model_fields["kind"].default for kind in get_args(get_args(AnyAugment)[0])]
EVERY = [{"kind": kind} for kind in KINDS]


def network(*, seed: int, outputs: int = 3) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(outputs)(keras.layers.Flatten()(x)))


def distill(out, augment, *, labels=Y, test=Y_TEST, losses=None, teacher=None, **sections):
    losses = losses or [{"kind": "labels", "weight": 0.5}, {"kind": "soft_targets"}]
    data = {"augment": augment, **sections.pop("data", {})}
    return kdcli.distill(
        teacher=network(seed=1),
        student=network(seed=2),
        recipe={
            "losses": losses,
            "train": {"epochs": 1, "batch_size": 16},
            "data": data,
            "teacher": teacher or {},
        },
        data={"x_train": X, "y_train": labels, "x_test": X_TEST, "y_test": test},
        out=out,
        preflight=False,
        **sections,
    )


def losses_of(run):
    return json.loads((run.run / "metrics.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("views", ["all", 2])
def test_all_kinds_together_train_an_epoch(tmp_path, views):
    run = distill(tmp_path / "a", EVERY, teacher={"views": views})
    assert run.targets["mode"] == ("live" if views == "all" else "disk")
    assert np.isfinite(losses_of(run)["loss"])
    assert run.test.accuracy is not None
    recipe = (run.run / "recipe.yaml").read_text()
    assert all(f"kind: {kind}" in recipe for kind in KINDS)


def test_stored_outputs_of_mixed_images_train_like_live_ones(tmp_path):
    augment = [{"kind": "flip"}, {"kind": "mixup", "alpha": 1.0}]
    metrics = [
        losses_of(distill(tmp_path / mode, augment, teacher={"views": 1, "targets": mode}))
        for mode in ("memory", "live")
    ]
    for name in ("loss", "losses.labels", "losses.soft_targets"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-4)


def test_class_weights_and_label_smoothing_work_with_mixing(tmp_path):
    weighted = {"class_weight": {"0": 3.0, "1": 0.5}}
    recipe = {"train": {"epochs": 1, "batch_size": 16, "label_smoothing": 0.1}}
    run = kdcli.train_teacher(
        teacher=network(seed=1),
        recipe={**recipe, "data": {"augment": [{"kind": "cutmix"}], **weighted}},
        data={"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST},
        out=tmp_path / "a",
        preflight=False,
    )
    assert np.isfinite(losses_of(run)["loss"])


def test_unlabelled_images_are_mixed_for_the_teacher(tmp_path):
    ignored = {"labels": "none", "classes": ["a", "b", "c"]}
    run = distill(tmp_path / "a", [{"kind": "mixup"}], losses=[{"kind": "soft_targets"}], data=ignored)
    assert 0 <= run.test.agreement <= 1


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_refused_for_regression(tmp_path, kind):
    with pytest.raises(UsageError, match=f"{kind} mixes class labels, and the task is regression") as caught:
        distill(
            tmp_path / "a",
            [{"kind": kind}],
            labels=Y * 0.5,
            test=Y_TEST * 0.5,
            losses=[{"kind": "labels"}],
            data={"task": "regression"},
        )
    assert "remove it" in caught.value.hint
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["flip", "rotate", "cutout"])
def test_moving_augmentations_are_refused_for_label_maps(tmp_path, kind):
    maps = {"labels": (X[..., 0] > 120).astype(int), "test": (X_TEST[..., 0] > 120).astype(int)}
    with pytest.raises(UsageError, match=f"{kind} moves the pixels of the image, but not those of its label map"):
        distill(tmp_path / "a", [{"kind": kind}], **maps)
    assert not (tmp_path / "a").exists()
