"""Shipped recipes and the metrics that gates take."""

from __future__ import annotations

from kdcli.recipe.gates import METRICS
from kdcli.recipe.reader import read_recipe, read_shipped_recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes
from writers.markdown import table


def recipe_table() -> str:
    """Every shipped recipe with its description and the losses that it combines."""
    rows = []
    for name in list_shipped_recipes():
        recipe = read_recipe(name).recipe
        losses = ", ".join(f"[`{loss.kind}`](losses.md#{loss.kind})" for loss in recipe.losses or ())
        rows.append([f"[`{name}`](#{name})", recipe.description, losses])
    return table(["recipe", "purpose", "losses"], rows)


def recipe_sections() -> str:
    """What each shipped recipe needs, and what it was measured to give: its own header."""
    parts = []
    for name in list_shipped_recipes():
        parts += [f"### {name}", "", "```yaml", read_shipped_recipe(name).strip("\n"), "```", ""]
    return "\n".join(parts)


def metric_table() -> str:
    """Every metric that a gate can bound."""
    rows = []
    for name, metric in METRICS.items():
        commands = ", ".join(f"`kd {command}`" for command in metric.commands)
        tasks = ", ".join(metric.tasks) or "all"
        notes = [
            text
            for text, holds in (
                ("a fraction", metric.fraction),
                ("needs a teacher", metric.of_teacher),
                ("a timing", metric.timed),
            )
            if holds
        ]
        rows.append([f"`{name}`", commands, tasks, ", ".join(notes)])
    return table(["metric", "measured by", "tasks", "notes"], rows)
