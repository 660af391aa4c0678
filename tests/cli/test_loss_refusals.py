"""A kind whose needs are not met is refused before training, with a hint; the plan has findings."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import yaml
from conftest import blobs, save_npz

from kdcli.cli.console import format_plan
from kdcli.losses import LOSS_KINDS
from kdcli.zoo import Cnn, Mobile


def saved(path: Path, *, seed: int, outputs: int, activation: str | None = None) -> None:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, activation="relu", name="map")(inputs)
    x = keras.layers.Dense(outputs, activation=activation)(keras.layers.Flatten(name="flat")(x))
    keras.Model(inputs, x).save(path)


def saved_map(path: Path, *, seed: int) -> None:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="map")(inputs)
    keras.Model(inputs, keras.layers.Conv2D(3, 1)(x)).save(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for seed, role in enumerate(("teacher", "student")):
        saved(folder / f"{role}3.keras", seed=seed, outputs=3)
        saved(folder / f"{role}2.keras", seed=seed, outputs=2)
        saved(folder / f"{role}1.keras", seed=seed, outputs=1)
        saved(folder / f"{role}_sigmoid.keras", seed=seed, outputs=3, activation="sigmoid")
        saved_map(folder / f"{role}_map.keras", seed=seed)
        build = Cnn(width=4) if role == "teacher" else Mobile(width=2)
        build.build((8, 8, 1), 3).save(folder / f"{role}_zoo.keras")
    Cnn(width=2).build((8, 8, 1), 3).save(folder / "like_teacher.keras")
    y = blobs(96)[1]
    save_npz(folder / "three.npz")
    save_npz(folder / "weighted.npz", weight_train=np.linspace(0.5, 2.0, 96).astype(np.float32))
    save_npz(folder / "two.npz", y_train=y % 2, y_test=blobs(48, seed=1)[1] % 2)
    several = np.eye(3, dtype=np.int64)[y] | np.eye(3, dtype=np.int64)[(y + 1) % 3]
    save_npz(folder / "several.npz", y_train=several, y_test=several[:48])
    save_npz(folder / "values.npz", y_train=y / 3.0, y_test=y[:48] / 3.0)
    pixels = np.broadcast_to(y[:, None, None], (96, 8, 8)).copy()
    save_npz(folder / "pixels.npz", y_train=pixels, y_test=pixels[:48])
    return folder


@pytest.fixture
def here(kd, files, tmp_path) -> Path:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path


def distill(kind: str, *more: str, models: str = "3", data: str = "three.npz", **options: object) -> list[str]:
    entry = ", ".join(f"{name}: {value}" for name, value in {"kind": kind, **options}.items())
    words = ["distill", "--teacher", f"teacher{models}.keras", "--student", f"student{models}.keras"]
    return [*words, "--data", data, "--out", "run", "--set", f"losses=[{{{entry}}}]", *more]


NO_LABELS = ("--set", "data.labels=none")
MIXED = ("--set", "data.augment=[{kind: cutmix}]")
VALUES = ("--set", "data.task=regression")
ONE = {"teacher_layer": "[block1]", "student_layer": "[block1]"}
FLAT = {"teacher_layer": "flat", "student_layer": "flat"}
LABELLED = [kind for kind, member in LOSS_KINDS.items() if member.needs_labels]
ONE_CLASS = [kind for kind, member in LOSS_KINDS.items() if member.one_class]
# Command, exit code, fragments of the message, fragment of the hint.
REFUSED = [
    *((distill(kind, *NO_LABELS), 2, [f"losses.{kind} needs labels", "has none"], "soft") for kind in LABELLED),
    *((distill(kind, *MIXED), 2, ["one class per", "cutmix mixes"], "remove cutmix") for kind in ONE_CLASS),
    *(
        (distill(kind, models="_sigmoid", data="several.npz"), 2, ["one class", "is multilabel"], "soft_targets")
        for kind in ONE_CLASS
    ),
    (distill("decoupled", models="2", data="two.npz"), 2, ["needs at least 3 classes (got 2)"], "soft"),
    (distill("relational", "--batch-size", "2"), 2, ["needs at least 3 per batch (got 2)"], "--batch-size 3"),
    (distill("dist", "--limit", "1", "--set", "data.validation=0"), 2, ["at least 2 per batch"], "1 training ex"),
    (distill("dist", models="_sigmoid", data="several.npz"), 4, ["kind logits", "are sigmoid"], "logit_mse"),
    (distill("dist", *VALUES, models="1", data="values.npz"), 2, ["needs classes", "is regression"], "soft"),
    (
        distill("soft_targets", models="_sigmoid", data="several.npz", standardize="true"),
        4,
        ["needs outputs of the kind logits;"],
        "logit",
    ),
    (distill("soft_cross_entropy", *VALUES, models="1", data="values.npz"), 2, ["cross-entropy needs"], "mse"),
    (distill("multi_level", models="_map", data="pixels.npz"), 2, ["the task is segmentation"], "channel_wise"),
    (distill("solution_flow", models="_zoo", **ONE), 2, ["one layer is named"], "lists"),
    (distill("solution_flow"), 4, ["needs 2 pairs of layers of equal channels, 1 found"], "teacher_layer"),
    (distill("hint", teacher_layer="mop"), 2, ["no layer 'mop'", "did you mean 'map'?"], "teacher_layer=map"),
    (distill("attention_transfer", **FLAT), 4, ["1 axes without the batch"], "inspect"),
    (
        distill("hint", teacher_layer="map", student_layer="flat"),
        4,
        ["(72,) cannot be projected to (6, 6, 2)"],
        "a map",
    ),
]


@pytest.mark.parametrize(("words", "code", "message", "hint"), REFUSED, ids=lambda value: str(value)[-60:])
def test_kind_with_unmet_needs_is_refused_with_a_hint(kd, here, words, code, message, hint):
    ran = kd(*words, "--json")
    assert ran.code == code, ran.err
    error = ran.document["error"]
    assert error["exit_code"] == code
    for fragment in message:
        assert fragment in error["message"]
    assert hint in f"{error['message']} {error['hint']}"
    assert not (here / "run").exists()


ONE_DEVICE = [kind for kind, member in LOSS_KINDS.items() if member.one_device]


@pytest.mark.parametrize("kind", ONE_DEVICE)
def test_one_device_losses_are_refused_on_several_devices(kd, here, monkeypatch, kind):
    monkeypatch.setattr("kdcli.jobs.build.strategy_for", lambda *_: SimpleNamespace(num_replicas_in_sync=2))
    ran = kd(*distill(kind), "--json")
    assert ran.code == 2, ran.err
    assert "it needs one device (got 2)" in ran.document["error"]["message"]
    assert ran.document["error"]["hint"].startswith("--devices one")
    ran = kd(*distill("relational", "--batch-size", "4"), "--json")
    assert ran.code == 2
    assert "needs at least 3 per device (got 2: a batch of 4 on 2 devices)" in ran.document["error"]["message"]
    assert "--batch-size 6" in ran.document["error"]["hint"]


FAMILY = [kind for kind, member in LOSS_KINDS.items() if getattr(member, "family", False)]
NAMED = "{kind: hint, name: named, teacher_layer: block2}"
LOSSES = ", ".join([NAMED, *(f"{{kind: {kind}}}" for kind in ["variational_information", "relational", *FAMILY])])


@pytest.fixture(scope="module")
def plans(files, tmp_path_factory):
    """What a dry run makes of many losses at once: on two architectures with weights of examples, and on one."""
    import kdcli

    given = {"recipe": {"losses": yaml.safe_load(f"[{LOSSES}]")}, "preflight": False, "dry_run": True}
    across = {"teacher": files / "teacher_zoo.keras", "student": files / "student_zoo.keras"}
    alike = {"teacher": files / "teacher_zoo.keras", "student": files / "like_teacher.keras"}
    return [
        kdcli.distill(**given, **models, data=files / data, out=tmp_path_factory.mktemp("out") / "run")
        for models, data in ((across, "weighted.npz"), (alike, "three.npz"))
    ]


def test_the_plan_says_that_weights_do_not_act_on_a_loss_over_the_batch(plans):
    text = "relational: compares the examples of a batch, so example weights do not apply to it"
    assert [text in plan.findings for plan in plans] == [True, False]


def test_kinds_for_one_family_warn_across_architectures_only(plans):
    assert set(FAMILY) >= {"attention_transfer", "neuron_selectivity", "factor_transfer"}
    across, alike = ([text for text in plan.findings if "across architectures" in text] for plan in plans)
    assert across == [
        f"{kind}: {kind} is known to hurt across architectures (the teacher is built of plain convolutions, "
        "the student of depthwise convolutions): compare it with soft_targets alone"
        for kind in FAMILY
    ]
    assert alike == []


def test_the_plan_shows_pairs_projections_and_parts(plans):
    rows = {row["loss"]: row for row in plans[0].to_json()["pairs"]}
    assert rows["named"] == {
        "loss": "named",
        "student": "block5",
        "teacher": "block2",
        "automatic": True,
        "why": "the last maps of the student (2×2×16, 4×4×8)",
        "projection": "resize 2×2 → 4×4, 1×1 convolution 16 → 8",
        "parts": None,
    }
    # Three dense layers of 16 × 16 and a variance for each of 16 channels.
    assert rows["variational_information"]["parts"] == "784 trained weights"
    assert {row["loss"] for row in plans[0].pairs} == {"named", "variational_information", "relational", *FAMILY}
    lines = format_plan(plans[0], with_settings=False)
    text = "student block5 → teacher block3 (784 trained weights), paired automatically"
    assert any(str(line).startswith(f"pair      variational_information: {text}: ") for line in lines)
    assert any("named: student block5 → teacher block2 (resize 2×2 → 4×4, 1×1 conv" in line for line in lines)


def test_a_dry_run_of_the_command_shows_the_pair(kd, here):
    ran = kd(*distill("hint", teacher_layer="flat"), "--dry-run", "--no-preflight")
    assert ran.code == 0, ran.err
    assert "pair      hint: student flat → teacher flat, paired automatically" in ran.out
