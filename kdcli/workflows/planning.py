"""The plan: what a run is going to do, and the recipe with every `auto` written out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from kdcli.custom_kinds import NO_OWN, OwnKinds
from kdcli.distillation.pairing import Pair
from kdcli.distillation.terms import Term
from kdcli.loss import Parts
from kdcli.recipe.document import Path, dotted, leaves
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.runs.records import hidden_secrets


def resolved_recipe(recipe: Recipe, resolved: dict[Path, Any], own: OwnKinds = NO_OWN) -> Recipe:
    """The recipe with values in place of every `auto`, and the files required that define its own kinds."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    for path, value in resolved.items():
        at: Any = values
        for part in path[:-1]:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[path[-1]] = value
    required = [*recipe.requires, *own.files_of(recipe)]
    if required:
        values["requires"] = list(dict.fromkeys(required))
    return Recipe.model_validate(values, context=own)


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
    """Which student layer learns from which teacher layer, through what, and what the loss owns for it.

    A loss that compares outputs is here when it has parts of its own, with `output` on both sides. `parts` stands
    in the first of a loss's rows: what it owns is there once, for all of its pairs.
    """
    rows = []
    for term in terms:
        pairs = zip(term.pairs, term.projections, strict=True)
        chosen = [(pair, made.text if made else None) for pair, made in pairs]
        parts = parts_text(term.parts)
        if parts and not chosen:
            chosen = [(Pair("output", "output", False), None)]
        for pair, projection in chosen:
            row = {"loss": term.loss.label, **asdict(pair)}
            rows.append({**row, "projection": projection, "parts": parts})
            parts = None
    return tuple(rows)


def parts_text(parts: Parts) -> str | None:
    """How many numbers a loss owns beside its settings: what learns with the student, and what only it changes."""
    learning = size_of(parts.trainable_variables)
    kept = {
        name.replace("_", " "): size_of(Parts(kept={name: part}).variables) for name, part in parts.kept.items()
    }
    # Statistics of batch normalisation are the rest of what is trained.
    kept["running statistics"] = size_of(parts.variables) - learning - sum(kept.values())
    words = [f"{learning} weights of its own"] if learning else []
    words += [f"{size} numbers of its {name}" for name, size in kept.items() if size]
    return ", ".join(words) or None


def size_of(variables: Iterable[Any]) -> int:
    """How many numbers variables hold together."""
    return sum(math.prod(variable.shape) for variable in variables)


def brief(findings: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Sentences about several teachers with the ends of their paths that differ, and what is said of each once.

    Args:
        findings: in the form `TEACHER: sentence` where they are about one of them.
        names: of the teachers.
    """
    short = _ends(names)
    told: dict[str, list[str]] = {}
    for finding in findings:
        who = next((name for name in names if finding.startswith(f"{name}: ")), None)
        sentence = finding if who is None else finding.removeprefix(f"{who}: ")
        told.setdefault(sentence, []).extend([] if who is None else [short[who]])
    found = [f"{', '.join(dict.fromkeys(who))}: {sentence}" if who else sentence for sentence, who in told.items()]
    for name in sorted(names, key=len, reverse=True):
        found = [sentence.replace(name, short[name]) for sentence in found]
    return tuple(found)


def _ends(names: Sequence[str]) -> dict[str, str]:
    """As much of the end of each path as tells it from the others."""
    parts = {name: name.split("/") for name in names}
    for length in range(1, max((len(one) for one in parts.values()), default=0) + 1):
        ends = {name: "/".join(one[-length:]) for name, one in parts.items()}
        if len(set(ends.values())) == len(parts):
            return ends
    return {name: name for name in names}
