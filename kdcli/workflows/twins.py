"""The student of an arm on its own: what a distilled one is compared with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdcli.errors import UsageError
from kdcli.jobs.build import label_term
from kdcli.recipe.gates import GatesSection
from kdcli.recipe.sections import TeacherSection
from kdcli.setup.ensemble_members import members
from kdcli.setup.request import Asked
from kdcli.zoo import Clone

SCRATCH = "scratch"


def alone(asked: Asked, *, staged: bool = False) -> Asked:
    """The same student with labels only: same weights at the start, same batches, steps and selection.

    Args:
        asked: what is asked of the distilled one.
        staged: whether it is the last one of several stages.

    Raises:
        UsageError: a clone of what is not there yet.
    """
    recipe, first = asked.recipe, members(asked)[0]
    # A clone is its teacher's architecture, so its twin needs to know the teacher too.
    clone = isinstance(recipe.student.model, Clone)
    if clone and staged:
        raise UsageError(
            "the last student is a clone of an assistant, which is not there before it is trained",
            hint="name its architecture, or kd compare --distilled RUN with a finished run",
        )
    models = {role: model for role, model in first.models.items() if role == "student" or clone}
    update: dict[str, Any] = {
        "losses": (label_term(recipe),),
        "taught_by": first.recipe.teacher if clone else TeacherSection(),
        "ensemble": None,
        "description": "",
        "gates": GatesSection(),
    }
    return replace(asked, recipe=recipe.model_copy(update=update), name=SCRATCH, models=models)


def is_alone_as(asked: Asked) -> str:
    """What tells one student alone from another."""
    return f"{asked.recipe.model_dump_json()} {[id(model) for model in asked.models.values()]}"
