"""Descriptions of kinds, as `kd losses` and the docs show them, match their classes."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from kdcli.catalogue.description import describe_kind, split_docstring
from kdcli.loss import FeatureLoss, Loss
from kdcli.losses import LOSS_KINDS
from kdcli.recipe.reader import read_recipe
from kdcli.spec import Names, Temperature

KIND = pytest.mark.parametrize("kind", LOSS_KINDS)


class Made(FeatureLoss):
    """The formula of it.

    More words,
    in two lines.

    Shapes: student (batch, n)
        → (batch,).

    Args:
        power: of the distance,
            at least 1.
        first, second: both.
        weight: not as elsewhere.

    Example:
        >>> 1
        1
    """

    known_as: ClassVar[str] = "MADE"
    paper: ClassVar[str] = "Somebody 1999, arXiv:9901.00001"
    needs_labels: ClassVar[bool] = True
    whole_batch: ClassVar[bool] = True
    one_device: ClassVar[bool] = True
    keeps: ClassVar[tuple[str, ...]] = ("memory",)
    notes: ClassVar[tuple[str, ...]] = ("differs from hint in nothing",)
    least_batch: ClassVar[int] = 2
    least_classes: ClassVar[int] = 3
    axes: ClassVar[tuple[int, ...]] = (3, 1)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    least_pairs: ClassVar[int] = 2
    equal: ClassVar[tuple[str, ...]] = ("channels",)
    family: ClassVar[bool] = True

    kind: Literal["made"] = "made"
    power: Annotated[int, Field(ge=1, lt=9)]
    first: Temperature = 4.0
    second: Literal["a", "b"] | None = None
    third: Names = ("x",)

    def build(self, given):
        """Something."""

    def __call__(self, **_):
        """Nothing."""


def test_class_is_described_completely():
    one = describe_kind(Made)
    assert (one.kind, one.known_as, one.year) == ("made", "MADE", "1999")
    assert (one.formula, one.text) == ("The formula of it.", "More words,\nin two lines.")
    assert one.shapes == "student (batch, n) → (batch,)."
    assert one.needs == ("labels", "teacher", "features", "own weights", "memory", "whole batch", "one device")
    assert one.refuses == (
        "data without labels",
        "fewer than 3 classes",
        "batches of fewer than 2 examples",
        "features that are sequences",
        "features that differ in channels",
        "fewer than 2 pairs of layers",
        "several devices",
    )
    assert one.pairing == (
        "several, by depth and size (maps or vectors), at least 2 pairs; warns when the architectures differ"
    )
    assert one.notes == ("differs from hint in nothing",)
    assert one.entry == "losses: [{kind: made, weight: 1, power: ...}]"
    assert one.family == "with a memory or an opponent"


def test_options_have_types_defaults_and_meanings():
    options = {option.name: option for option in describe_kind(Made).options}
    assert list(options) == [
        "weight",
        "warmup",
        "teacher_layer",
        "student_layer",
        "power",
        "first",
        "second",
        "third",
    ]
    assert (options["power"].type, options["power"].required) == ("whole number ≥ 1, < 9", True)
    assert options["power"].meaning == "of the distance, at least 1."
    assert options["first"].meaning == options["second"].meaning == "both."
    assert options["first"].type == "number > 0 or a change"
    assert (options["second"].type, options["second"].default) == ("a | b", None)
    assert (options["third"].type, options["third"].default) == ("list (word)", ["x"])
    assert options["weight"].meaning == "not as elsewhere."
    assert options["warmup"].meaning.startswith("fraction of training")


def test_a_class_without_a_docstring_is_called_by_its_name():
    class Silent(Loss):
        kind: Literal["silent"] = "silent"

    one = describe_kind(Silent)
    assert (one.formula, one.year, one.shapes) == ("Silent", "", Loss.shape_text)


@KIND
def test_every_kind_has_a_description(kind):
    one = describe_kind(LOSS_KINDS[kind])
    assert one.known_as and re.fullmatch(r".*\S", one.formula)
    assert kind == "labels" or re.search(r"\b(19|20)\d\d, (arXiv:\d{4}\.\d{4,5}|\S)", one.paper), one.paper
    assert "→" in one.shapes
    assert "labels" in one.needs or "teacher" in one.needs


@KIND
def test_every_option_has_a_meaning_and_a_type(kind):
    for option in describe_kind(LOSS_KINDS[kind]).options:
        assert option.meaning and option.type not in ("", "nothing", "mapping"), (kind, option)


@KIND
def test_docstring_explains_only_existing_options(kind):
    explained = re.findall(r"^(\w+(?:, \w+)*):", split_docstring(LOSS_KINDS[kind]).get("Args", ""), re.MULTILINE)
    assert {name for names in explained for name in names.split(", ")} <= set(LOSS_KINDS[kind].model_fields)


@KIND
def test_the_entry_is_the_kind_with_its_defaults(kind):
    entry = describe_kind(LOSS_KINDS[kind]).entry
    (made,) = read_recipe({}, settings=[entry.replace(": ", "=", 1)]).recipe.losses
    assert made == LOSS_KINDS[kind]()
