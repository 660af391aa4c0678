"""The shipped recipes: each one is valid and contains the command that runs it."""

from __future__ import annotations

from itertools import takewhile

import pytest

from kdcli.recipe.reader import read_recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes, read_shipped_text

NAMES = list_shipped_recipes()


@pytest.mark.parametrize(
    "name", ["combined", "digits", "feature", "feature-kl", "mnist", "soft-labels", "soft-targets"]
)
def test_the_recipe_is_shipped(name):
    assert name in NAMES


def test_names_are_sorted():
    assert sorted(NAMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_is_valid_and_has_a_description(name):
    read = read_recipe(name)
    assert read.recipe.description
    assert read.recipe.losses
    assert read.source == name


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_opens_with_the_command_that_runs_it(name):
    header = "\n".join(takewhile(lambda line: line.startswith("#"), read_shipped_text(name).splitlines()))
    assert header, "the first line is no comment"
    assert any(f"kd {command}" in header for command in ("distill", "train-teacher", "compress"))


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_contains_version_description_and_losses(name):
    origins = read_recipe(name).origins
    for setting in ("version", "description", "losses"):
        assert origins.of((setting,)).startswith(f"{name}:")
