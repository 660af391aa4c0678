"""Findings of a plan about defaults, partial batches, learning rates and custom losses."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import bar_reader, save_npz

import kdcli
from kdcli.data.order_and_splits import shuffle_positions
from kdcli.jobs.training_findings import describe_partial_batch, rate_finding
from kdcli.recipe.reader import read_recipe
from kdcli.runs.results import Plan
from kdcli.training.loop import steps_per_epoch

LOSSES = """
from typing import Literal
import kdcli
from kdcli.lazy import ops

class {name}(kdcli.Loss):
    kind: Literal["mine"] = "mine"

    def __call__(self, *, student, teacher, **_):
        {body}
"""
APART = "ops.mean(ops.square(student - ops.stop_gradient(teacher)), axis=-1)"
SOUND = f"return {APART}"
BROKEN = {
    "not negative": "return ops.mean(student * ops.stop_gradient(teacher), axis=-1)",
    "mean over the batch": f"return {APART} * ops.mean(student**2)",
    "extreme inputs": "return ops.sum(ops.sqrt(ops.square(student - ops.stop_gradient(teacher))), axis=-1)",
    "teacher is constant": "return ops.mean(ops.square(student - teacher), axis=-1)",
    "student learns": f"return ops.stop_gradient({APART})",
}


@pytest.mark.parametrize("examples", [3, 7, 63, 64, 65, 97, 100, 127, 128, 199, 1000, 1293])
@pytest.mark.parametrize("batch", [2, 32, 64, 100, 300])
def test_a_partial_batch_is_reported_if_it_leaves_out_more_than_a_twentieth(examples, batch):
    text = describe_partial_batch(examples, batch)
    steps = steps_per_epoch(examples, batch)
    used = set(shuffle_positions(examples, seed=0, epoch=0)[: steps * min(batch, examples)])
    left = examples - len(used)
    assert (text is not None) == (left / examples > 0.05)
    if text is None:
        return
    assert text.startswith(f"{left} of {examples} training examples are left out of each epoch")
    near = range(max(2, batch // 2), min(2 * batch, examples) + 1)
    if "--batch-size" not in text:
        assert min(examples % size for size in near) == left
        return
    size, _, rest = text.partition("--batch-size ")[2].partition(" leaves out ")
    assert examples % int(size) == (0 if rest == "none" else int(rest)) < left
    assert int(size) in near


def test_a_suggested_batch_size_is_divisible_by_the_number_of_devices():
    assert "--batch-size 100 leaves out none" in describe_partial_batch(100, 64, replicas=4)
    assert "--batch-size 50 leaves out none" in describe_partial_batch(100, 64)
    assert "--batch-size" not in describe_partial_batch(7, 4, replicas=4)


@pytest.mark.parametrize(
    ("losses", "optimizer", "total"),
    [
        ([{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9}], "sgd", None),
        ([{"kind": "labels", "weight": 0.1}, {"kind": "hint", "weight": 100.0}], "sgd", "0.1"),
        ([{"kind": "labels", "weight": 0.1}, {"kind": "hint", "weight": 100.0}], "adam", None),
        ([{"kind": "labels", "weight": 0.1}, {"kind": "hint", "weight": 100.0}], "lion", None),
        (
            [{"kind": "labels", "weight": 0.1}, {"kind": "hint", "weight": 1.0}],
            {"kind": "sgd", "momentum": 0.9},
            "0.1",
        ),
        ([{"kind": "labels"}, {"kind": "soft_targets", "standardize": True}], "sgd", "10"),
        ([{"kind": "labels", "weight": {"from": 0.4, "to": 0.0, "over": 0.5}}], "sgd", "0.1"),
        ([{"kind": "labels", "weight": 0.4, "warmup": 1.0}], "sgd", "0.2"),
        ([{"kind": "labels", "weight": 0.5}], "sgd", None),
    ],
)
def test_the_relative_rate_of_an_arm_is_its_total_weight_with_a_proportional_optimizer(losses, optimizer, total):
    recipe = read_recipe({"losses": losses, "train": {"optimizer": optimizer}}).recipe
    text = rate_finding(recipe, arm="a/b", baseline="scratch")
    if total is None:
        assert text is None
    else:
        assert text is not None and f"at about {total} times the rate of scratch" in text


def planned(tmp_path, monkeypatch, body: str, **given) -> Plan:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(LOSSES.format(name="Mine", body=body), "utf-8")
    bar_reader().save(tmp_path / "t.keras")
    save_npz(tmp_path / "data.npz")
    recipe = {
        "losses": [{"kind": "labels"}, {"kind": "mine"}],
        "train": {"epochs": 1, "batch_size": 16},
        "student": {"model": {"kind": "zoo", "name": "mlp", "width": 2}},
    }
    plan = kdcli.distill(
        teacher="t.keras", data="data.npz", recipe=recipe, code=["mine.py"], dry_run=True, preflight=False, **given
    )
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("point", BROKEN)
def test_a_custom_loss_that_violates_the_contract_is_reported(tmp_path, monkeypatch, point):
    plan = planned(tmp_path, monkeypatch, BROKEN[point])
    found = [text for text in plan.findings if "violates the loss contract" in text]
    assert any(text.startswith(f"losses.mine violates the loss contract: {point}: ") for text in found)
    assert all(text.endswith("; kd losses check mine.py runs all checks") for text in found)


def test_a_sound_custom_loss_is_not_reported(tmp_path, monkeypatch):
    plan = planned(tmp_path, monkeypatch, SOUND)
    assert not [text for text in plan.findings if "contract" in text]


def test_a_default_changed_by_a_setting_is_planned_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bar_reader().save(tmp_path / "t.keras")
    save_npz(tmp_path / "data.npz")
    model = "student.model={kind: zoo, name: mlp, width: 2}"
    plan = kdcli.distill(
        teacher="t.keras",
        data="data.npz",
        settings=[model, "losses.soft_targets.standardize=true"],
        batch_size=16,
        dry_run=True,
        preflight=False,
    )
    rows = {row["path"]: row for row in plan.settings}
    assert rows["losses.1.weight"]["value"] == 9.0
    assert rows["losses.1.weight"]["origin"] == "default with --set losses.1.standardize"
    assert any(text.startswith("losses.1.weight is 9, the default with ") for text in plan.findings)
    assert np.isfinite(plan.seconds["total"])
