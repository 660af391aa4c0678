"""kd train-teacher: options."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.groups import OutputGroup, RecipeGroup, RunGroup
from kdcli.cli.runs import show_run, start_run


def command(
    recipe_options: RecipeGroup,
    printing: OutputGroup,
    run: RunGroup,
    teacher: o.Teacher = None,
    recipe: o.RecipeOption = None,
) -> None:
    """Train a teacher on labels."""
    from kdcli.commands.train_teacher import train_teacher

    with start_run(recipe_options, run, printing) as (output, options):
        result = train_teacher(recipe=recipe, teacher=teacher, **options)
    show_run("train-teacher", result, output, code=recipe_options.code or ())
