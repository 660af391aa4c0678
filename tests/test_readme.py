"""The README keeps up with the commands, and continuous integration runs what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from kdcli.cli.app import app
from kdcli.losses import LOSS_KINDS
from kdcli.recipe.shipped_recipes import list_shipped_recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("entry", [*app.registered_commands, *app.registered_groups], ids=lambda entry: entry.name)
def test_readme_has_a_section_for_every_command(entry):
    assert f"### kd {entry.name}\n" in README


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_readme_shows_every_loss(kind):
    assert re.search(rf"^\| \[`{kind}`\]", README, re.MULTILINE)


@pytest.mark.parametrize("name", list_shipped_recipes())
def test_readme_shows_every_recipe(name):
    assert re.search(rf"^{name} +", README, re.MULTILINE)


def test_readme_names_every_exit_code():
    for code in (0, 1, 2, 3, 4, 5, 6, "130, 143"):
        assert f"| {code} |" in README


def test_continuous_integration_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    extract = next(line for line in script.splitlines() if line.startswith("sed -n")).split(" > ")[0]
    command = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command in README
    for word in ("-m venv .venv", "pip install", "ruff check", "mypy", "-m pytest"):
        assert word in command


def test_nothing_in_the_readme_is_a_place_holder():
    assert not re.findall(r"^[A-Z_]{4,}$", README, re.MULTILINE)
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert "RESULT" not in path.read_text("utf-8"), path.name
