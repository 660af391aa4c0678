"""The table of losses in the README and docs/losses.md are what the classes say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from kdcli.catalogue.description import describe_kind
from kdcli.losses import LOSS_KINDS

ROOT = Path(__file__).parents[1]
WRITER = runpy.run_path(str(ROOT / "docs" / "losses.py"))
FOUND = [describe_kind(member) for member in LOSS_KINDS.values()]


def test_the_page_is_what_the_classes_say():
    assert (ROOT / "docs" / "losses.md").read_text("utf-8") == WRITER["page"](FOUND), "python docs/losses.py"


def test_the_table_of_the_readme_is_what_the_classes_say():
    readme = (ROOT / "README.md").read_text("utf-8")
    table = WRITER["readme_table"](FOUND)
    assert readme.count(WRITER["BEGIN"]) == readme.count(WRITER["END"]) == 1
    assert f"{WRITER['BEGIN']}\n{table}{WRITER['END']}" in readme, "python docs/losses.py"
    assert WRITER["with_table"](readme, "new\n").count("| [`") == readme.count("| [`") - len(LOSS_KINDS)


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_every_kind_has_a_section(kind):
    text = WRITER["page"](FOUND)
    assert text.count(f"\n### {kind}\n") == 1
    assert f"losses: [{{kind: {kind}, " in text


def test_every_family_has_a_heading():
    assert {one.family for one in FOUND} == set(WRITER["TITLES"])
