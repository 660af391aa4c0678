"""The members of an ensemble: one request for each teacher, and checks of their settings."""

from __future__ import annotations

from dataclasses import replace

from kdcli.errors import UsageError
from kdcli.recipe.sections import Recipe
from kdcli.setup.request import Request


def member_requests(request: Request) -> tuple[Request, ...]:
    """Return one request per teacher, each as if that teacher were the only one.

    All members use the same views: a number that one of them sets also applies to those that leave it at `auto`.
    """
    recipe = request.recipe
    if not recipe.is_ensemble:
        return (request,)
    counts = [section.views for section in recipe.teachers if section.views != "auto"]
    update = {"weight": None, "temperature": None, "views": counts[0] if counts else "auto"}
    requests = []
    for number, section in enumerate(recipe.teachers):
        models = {role: model for role, model in request.models.items() if not role.startswith("teacher")}
        teacher = request.models.get(f"teacher.{number}", request.models.get("teacher"))
        if teacher is not None:
            models["teacher"] = teacher
        single = recipe.with_teachers(section.model_copy(update=update)).model_copy(update={"ensemble": None})
        requests.append(replace(request, recipe=single, models=models))
    return tuple(requests)


def check_ensemble(request: Request) -> None:
    """Refuse ensemble settings for a single teacher, and members with different numbers of views.

    Raises:
        UsageError: naming the setting.
    """
    recipe = request.recipe
    if not recipe.is_ensemble:
        for name in _list_ensemble_settings(recipe):
            raise UsageError(
                f"{name} applies to several teachers, and the recipe has one",
                hint="repeat --teacher FILE for each teacher, or make `teacher` a list in the recipe; the "
                "temperature of a distillation is a setting of its loss",
            )
        return
    counts = [(number, section.views) for number, section in enumerate(recipe.teachers) if section.views != "auto"]
    for number, views in counts[1:]:
        first, expected = counts[0]
        if views != expected:
            raise UsageError(
                f"teacher.{number}.views is {views} and teacher.{first}.views is {expected}: all teachers use the "
                "views of the student",
                hint=f"--set teacher.views={views} sets all of them",
            )


def refuse_ensemble(request: Request, *, command: str) -> None:
    """Refuse an ensemble, and ensemble settings, in a command that trains one teacher.

    Args:
        request: its recipe is checked.
        command: how messages name the command.

    Raises:
        UsageError: the recipe has several teachers, or a setting for several.
    """
    if request.recipe.is_ensemble:
        raise UsageError(
            f"the recipe lists {len(request.recipe.teachers)} teachers, but {command} trains only one",
            hint="use a recipe in which `teacher` is a single mapping",
        )
    for name in _list_ensemble_settings(request.recipe):
        raise UsageError(
            f"{name} applies to several teachers, but {command} trains one",
            hint="use a recipe without it: --recipe FILE",
        )


def _list_ensemble_settings(recipe: Recipe) -> list[str]:
    """The ensemble settings that a recipe with one teacher sets."""
    first = recipe.teacher
    settings = {
        "ensemble": recipe.ensemble,
        "teacher.weight": first.weight,
        "teacher.temperature": first.temperature,
    }
    return [name for name, value in settings.items() if value is not None]


def teachers_text(recipe: Recipe) -> str:
    """Return a text that identifies the teachers of a recipe; empty if it names none."""
    models = [section.model.model_dump_json() for section in recipe.teachers if section.model]
    weights = [(section.weight, section.temperature) for section in recipe.teachers]
    mixed = f" {weights} {recipe.ensemble and recipe.ensemble.mix}" if recipe.is_ensemble else ""
    return f"{models}{mixed}" if models else ""
