"""Several teachers in what is asked for: what is asked of each, and whether they make sense together."""

from __future__ import annotations

from dataclasses import replace

from kdcli.errors import UsageError
from kdcli.recipe.sections import Recipe
from kdcli.setup.request import Request


def member_requests(request: Request) -> tuple[Request, ...]:
    """What is asked of each teacher, as if it were the only one.

    All of them answer the same views: a number that one of them has holds for those that leave it open.
    """
    recipe = request.recipe
    if not recipe.is_ensemble:
        return (request,)
    counts = [section.views for section in recipe.teachers if section.views != "auto"]
    found = []
    for number, section in enumerate(recipe.teachers):
        alone = {"weight": None, "temperature": None, "views": counts[0] if counts else "auto"}
        models = {role: model for role, model in request.models.items() if not role.startswith("teacher")}
        given = request.models.get(f"teacher.{number}", request.models.get("teacher"))
        if given is not None:
            models["teacher"] = given
        own = recipe.with_teachers(section.model_copy(update=alone)).model_copy(update={"ensemble": None})
        found.append(replace(request, recipe=own, models=models))
    return tuple(found)


def check_ensemble(request: Request) -> None:
    """Refuse settings of several teachers where there is one, and views that differ.

    Raises:
        UsageError: naming the setting.
    """
    recipe = request.recipe
    if not recipe.is_ensemble:
        for name in _of_several(recipe):
            raise UsageError(
                f"{name} is for a list of teachers, and there is one",
                hint="--teacher FILE once for each, or a list as `teacher` in the recipe; a loss has a "
                "temperature of its own",
            )
        return
    wanted = [(number, section.views) for number, section in enumerate(recipe.teachers) if section.views != "auto"]
    for number, views in wanted[1:]:
        if views != wanted[0][1]:
            raise UsageError(
                f"teacher.{number}.views is {views}, teacher.{wanted[0][0]}.views is {wanted[0][1]}: all teachers "
                "see what the student sees",
                hint=f"--set teacher.views={views} is for all of them",
            )


def refuse_ensemble(request: Request, *, command: str) -> None:
    """Refuse a list of teachers, and settings of such a list, where there can be one.

    Raises:
        UsageError: with the way on.
    """
    if request.recipe.is_ensemble:
        raise UsageError(
            f"the recipe lists {len(request.recipe.teachers)} teachers, and {command} trains one",
            hint="a recipe in which `teacher` is one mapping",
        )
    for name in _of_several(request.recipe):
        raise UsageError(
            f"{name} is for a list of teachers, and {command} trains one",
            hint="a recipe without it: --recipe FILE",
        )


def _of_several(recipe: Recipe) -> list[str]:
    """The settings of several teachers that a recipe with one has."""
    first = recipe.teacher
    given = {
        "ensemble": recipe.ensemble,
        "teacher.weight": first.weight,
        "teacher.temperature": first.temperature,
    }
    return [name for name, value in given.items() if value is not None]


def teachers_text(recipe: Recipe) -> str:
    """What tells a recipe's teacher, or its teachers, from another's; empty where it names none."""
    models = [section.model.model_dump_json() for section in recipe.teachers if section.model]
    shares = [(section.weight, section.temperature) for section in recipe.teachers]
    mixed = f" {shares} {recipe.ensemble and recipe.ensemble.mix}" if recipe.is_ensemble else ""
    return f"{models}{mixed}" if models else ""
