"""kd losses: ls, show."""

from __future__ import annotations

import inspect

import pytest

from kdcli.losses import KINDS
from kdcli.recipe.reading import read_recipe


def test_ls_has_one_line_for_each_kind(kd):
    ran = kd("losses", "ls")
    heading, *lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert heading.split() == ["kind", "needs", "summary"]
    assert [line.split()[0] for line in lines] == list(KINDS)
    for line, member in zip(lines, KINDS.values(), strict=True):
        assert line.endswith(inspect.getdoc(member).splitlines()[0])


def test_ls_aligns_its_columns(kd):
    heading, *lines = kd("losses", "ls").out.splitlines()
    start = heading.index("summary")
    for line, member in zip(lines, KINDS.values(), strict=True):
        assert line.index(inspect.getdoc(member).splitlines()[0]) == start


def test_ls_as_json(kd):
    document = kd("losses", "ls", "--json").document
    assert document["schema"] == "kd.losses/1"
    needs = {entry["kind"]: entry["needs"] for entry in document["losses"]}
    assert needs == {
        "labels": ["labels"],
        "soft_targets": ["teacher"],
        "soft_cross_entropy": ["teacher"],
        "logit_mse": ["teacher"],
        "hint": ["teacher", "features", "projection"],
    }
    assert all(entry["summary"].endswith(".") for entry in document["losses"])


@pytest.mark.parametrize("kind", KINDS)
def test_show_gives_formula_shapes_options_and_the_entry(kd, kind):
    ran = kd("losses", "show", kind)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(inspect.getdoc(KINDS[kind]))
    assert "Shapes: " in ran.out
    entry = ran.out.splitlines()[-1].removeprefix("in a recipe:  ")
    (made,) = read_recipe({}, settings=[entry.replace(": ", "=", 1)]).recipe.losses
    assert made == KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_show_as_json_gives_every_option_with_its_default(kd, kind):
    document = kd("losses", "show", kind, "--json").document
    assert (document["schema"], document["kind"]) == ("kd.loss/1", kind)
    fields = set(KINDS[kind].model_fields) - {"kind", "name"}
    assert set(document["options"]) == fields
    assert KINDS[kind](**document["options"]) == KINDS[kind]()


def test_show_of_an_unknown_kind_names_the_nearest(kd):
    ran = kd("losses", "show", "soft_target")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: unknown loss 'soft_target'; did you mean 'soft_targets'?")
    assert ran.err.splitlines()[-1] == "hint: kd losses ls"


def test_show_of_an_unknown_kind_as_json(kd):
    ran = kd("losses", "show", "at", "--json")
    assert ran.code == 2
    assert ran.document["schema"] == "kd.error/1"
    assert ran.document["error"]["hint"] == "kd losses ls"
    assert ran.document["error"]["message"].startswith("unknown loss 'at'; ")
