"""The recipe that goes with models that are named, as files or runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.recipe.reading import read_recipe
from kdcli.runs.directory import recipe_of_run
from kdcli.workflows.asking import Asked, ask


def asked_for(models: Sequence[str | Path], recipe: Any, **options: Any) -> Asked:
    """The recipe given, else the data of the first run among the models, else the defaults.

    Raises:
        UsageError: the recipe, a setting or an option is wrong.
    """
    if recipe is None:
        recipe = {}
        own = next((found for model in models if (found := recipe_of_run(Path(model)))), None)
        if own is not None:
            # Its data and split only: how its networks take their input is theirs alone.
            values = read_recipe(own).recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
            recipe = {"data": values["data"], "train": {"seed": values["train"]["seed"]}}
    return ask(recipe, **options)


def require_data(asked: Asked) -> None:
    """Refuse to go on without data.

    Raises:
        UsageError: naming the option.
    """
    if asked.recipe.data.source is None and asked.arrays is None:
        raise UsageError(
            "no data: neither the recipe, a run nor an option gives data.source", hint="--data digits"
        )
