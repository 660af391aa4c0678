"""Defaults that a setting changes: they replace values of shipped recipes, not those of users."""

from __future__ import annotations

import shlex
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from kdcli.custom_kinds import CustomKinds, kind_of
from kdcli.errors import RecipeError
from kdcli.loss import Loss
from kdcli.losses import LOSS_KINDS, make
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes

USER_RECIPE = """\
losses:
  - {kind: labels, weight: 0.1}
  - {kind: soft_targets, weight: 0.9, temperature: 4}
student: {model: {kind: zoo, name: resnet, depth: 20, width: 8}}
train: {optimizer: {kind: adam, learning_rate: 3e-3}}
"""
STANDARDIZE = "losses.soft_targets.standardize=true"


@pytest.fixture
def own_recipe(tmp_path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(USER_RECIPE, "utf-8")
    return str(path)


def standardized_in_numpy(student: np.ndarray, teacher: np.ndarray, *, temperature: float, weight: float) -> float:
    """The published formula (arXiv:2403.01427) in NumPy."""

    def log_p(logits: np.ndarray) -> np.ndarray:
        z = (logits - logits.mean(-1, keepdims=True)) / logits.std(-1, ddof=1, keepdims=True) / temperature
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_p(student), log_p(teacher)
    return float(weight * temperature**2 * (np.exp(q) * (q - p)).sum(-1).mean())


def test_standardize_alone_gives_the_published_loss():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 6, 5))
    _, loss = read_recipe("soft-targets", settings=[STANDARDIZE]).recipe.losses
    wanted = standardized_in_numpy(student, teacher, temperature=2.0, weight=9.0)
    found = float(loss.weight) * float(np.mean(loss(student=student, teacher=teacher)))
    assert found == pytest.approx(wanted, rel=1e-6)


SHIPPED_WITH_SOFT_TARGETS = [
    name
    for name in list_shipped_recipes()
    if any(one.kind == "soft_targets" for one in read_recipe(name).recipe.losses or ())
]


@pytest.mark.parametrize("recipe", SHIPPED_WITH_SOFT_TARGETS)
def test_a_new_default_replaces_what_a_shipped_recipe_wrote(recipe):
    read = read_recipe(recipe, settings=[STANDARDIZE])
    at = [loss.kind for loss in read.recipe.losses].index("soft_targets")
    assert (read.recipe.losses[at].weight, read.recipe.losses[at].temperature) == (9.0, 2.0)
    assert read.origins.of(("losses", at, "weight")) == f"default with --set losses.{at}.standardize"
    (note,) = read.origins.notes
    assert note.startswith(
        f"losses.{at}.weight is 9, the default with --set losses.{at}.standardize; {recipe} has "
    )


def test_a_new_default_does_not_replace_another_setting():
    for settings in ([STANDARDIZE, "losses.1.weight=0.9"], ["losses.1.weight=0.9", STANDARDIZE]):
        read = read_recipe("soft-targets", settings=settings)
        assert (read.recipe.losses[1].weight, read.recipe.losses[1].temperature) == (0.9, 2.0)
        assert read.origins.of(("losses", 1, "weight")) == "--set losses.1.weight"
        assert read.origins.notes == []


def test_a_new_default_does_not_replace_what_the_user_wrote_and_is_noted(own_recipe):
    read = read_recipe(own_recipe, settings=[STANDARDIZE])
    assert (read.recipe.losses[1].weight, read.recipe.losses[1].temperature) == (0.9, 4.0)
    assert read.origins.of(("losses", 1, "weight")) == f"{own_recipe}:3"
    weight, temperature = read.origins.notes
    assert weight.startswith(f"losses.1.weight stays 0.9, as set in {own_recipe}:3; the default with --set ")
    assert temperature.endswith("the default with --set losses.1.standardize is 2")


def test_a_setting_that_changes_no_default_leaves_the_recipe_unchanged():
    for setting in ("losses.1.standardize=false", "losses.1.temperature=3", "losses.1.kind=soft_targets"):
        read = read_recipe("soft-targets", settings=[setting])
        assert read.recipe.losses[1].weight == 0.9
        assert read.origins.notes == []


@pytest.mark.parametrize("kind", sorted(LOSS_KINDS.keys() - {"labels"}))
def test_another_kind_of_loss_has_its_own_defaults(kind):
    # The loss of this shipped recipe has only options that every kind has.
    read = read_recipe("graph", settings=[f"losses.instance_graph.kind={kind}"])
    assert read.recipe.losses[1] == make(kind)


def test_another_optimizer_has_its_own_learning_rate(own_recipe):
    read = read_recipe("digits", settings=["train.optimizer.kind=sgd"])
    assert read.recipe.train.optimizer.learning_rate == 1e-2
    assert read.origins.of(("train", "optimizer", "learning_rate")) == "default with --set train.optimizer.kind"
    assert (
        read_recipe(own_recipe, settings=["train.optimizer.kind=sgd"]).recipe.train.optimizer.learning_rate == 3e-3
    )


class Sharp(Loss):
    """A custom kind with a default that an option changes."""

    implied: ClassVar = {("sharp", True): {"weight": 7.0}}

    kind: Literal["sharp"] = "sharp"
    sharp: bool = False

    def __call__(self, *, student: Any, teacher: Any, **_: Any) -> Any:
        return student - teacher


def test_a_custom_kind_can_change_its_defaults():
    custom = CustomKinds(members=(("sharp.py", Sharp),))
    entry = {"losses": [{"kind": kind_of(Sharp), "sharp": True}]}
    assert read_recipe(entry, custom=custom).recipe.losses[0].weight == 7.0
    assert read_recipe({"losses": [{"kind": "sharp"}]}, custom=custom).recipe.losses[0].weight == 1.0


@pytest.mark.parametrize(
    ("recipe", "setting", "hint"),
    [
        (
            "own",
            "student.model.name=cnn",
            "--set 'student.model={kind: zoo, name: cnn, width: 8, blocks: 3, convolutions: 1, dropout: 0.0}'",
        ),
        (
            "own",
            "student.model.name=application",
            "--set 'student.model={kind: zoo, name: application, architecture: MobileNetV2, weights: none}'",
        ),
        (
            "soft-targets",
            "student.model.name=mlp",
            "--set 'student.model={kind: zoo, name: mlp, width: 64, depth: 2, dropout: 0.0}'",
        ),
        (
            "soft-targets",
            "losses.1.kind=dist",
            "--set 'losses.1={kind: dist, weight: 2.0, warmup: 0.0, beta: 1.0, gamma: 1.0, tau: 1.0}'",
        ),
        (
            "own",
            "train.schedule={kind: cosine, floor: 0.1, at: [0.5]}",
            None,
        ),
    ],
)
def test_a_kind_that_does_not_fit_its_entry_suggests_the_whole_entry(own_recipe, recipe, setting, hint):
    recipe = own_recipe if recipe == "own" else recipe
    with pytest.raises(RecipeError) as refused:
        read_recipe(recipe, settings=[setting])
    if hint is None:
        assert "--set" not in (refused.value.hint or "")
        return
    assert refused.value.hint == hint
    # Added to the setting, the hint works and gives the requested kind.
    _, typed = shlex.split(hint)
    read = read_recipe(recipe, settings=[setting, typed])
    path, _, word = setting.partition("=")
    entry = read.recipe.student.model if path.startswith("student") else read.recipe.losses[1]
    assert getattr(entry, path.rsplit(".", 1)[1]) == word


def test_an_unknown_kind_of_loss_hints_at_code_files(own_recipe):
    for settings in (["losses.1.kind=mine"], ["losses.1={kind: mine}"]):
        with pytest.raises(RecipeError) as refused:
            read_recipe(own_recipe, settings=settings)
        assert refused.value.hint == "kd losses ls, or --code FILE.py if one of your own files defines the kind"
