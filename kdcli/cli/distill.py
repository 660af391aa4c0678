"""kd distill: options."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.gates import GateGroup
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup, RunGroup
from kdcli.cli.runs import show_run, start_run


def command(
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    run: RunGroup,
    gates: GateGroup,
    teacher: o.Teachers = None,
    student: o.Student = None,
    recipe: o.RecipeOption = None,
) -> None:
    """Train a student on the outputs of a teacher."""
    from kdcli.commands.distill import distill

    bounds = gates.read()
    with start_run(recipe_options, run, printing) as (output, options):
        options.update(part.to_options())
        result = distill(recipe=recipe, teacher=teacher, student=student, gates=bounds, **options)
    show_run("distill", result, output, code=recipe_options.code or (), strict=gates.strict_gates)
