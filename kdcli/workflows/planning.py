"""The plan: what a run is going to do, and the recipe with every `auto` written out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import yaml

from kdcli.distillation.terms import Term
from kdcli.recipe.document import Path, dotted, leaves
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.runs.recording import hidden_secrets


def resolved_recipe(recipe: Recipe, resolved: dict[Path, Any]) -> Recipe:
    """The recipe with values in place of every `auto`."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    for path, value in resolved.items():
        at: Any = values
        for part in path[:-1]:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[path[-1]] = value
    return Recipe.model_validate(values)


def recipe_text(recipe: Recipe) -> str:
    """`recipe.yaml`: every setting, with the sha256 of the text below the first line."""
    values = hidden_secrets(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    digest = hashlib.sha256(body.encode("utf-8")).hexdigest()
    return f"# sha256 of the lines below: {digest}\n{body}"


def settings_table(recipe: Recipe, origins: Origins, resolved: dict[Path, Any]) -> tuple[dict[str, Any], ...]:
    """Every setting with its value and where it came from."""
    values = hidden_secrets(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    rows = []
    for path, value in leaves(values):
        origin = "auto" if path in resolved and origins.of(path) == "default" else origins.of(path)
        rows.append({"path": dotted(path), "value": value, "origin": origin})
    return tuple(rows)


def pair_rows(terms: Sequence[Term]) -> tuple[dict[str, Any], ...]:
    """Which student layer learns from which teacher layer, and through what."""
    return tuple(
        {
            "loss": term.loss.label,
            "student": pair.student,
            "teacher": pair.teacher,
            "automatic": pair.automatic,
            "projection": projection.text if projection else None,
        }
        for term in terms
        for pair, projection in zip(term.pairs, term.projections, strict=True)
    )
