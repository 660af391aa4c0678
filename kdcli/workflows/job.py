"""One training with everything opened and resolved: what train-teacher and distill hand to the common steps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from kdcli.recipe.document import Path
from kdcli.recipe.gates import Gate
from kdcli.recipe.sections import Recipe
from kdcli.workflows.asking import Asked
from kdcli.workflows.fitting import Clock, Fit
from kdcli.workflows.networks import Opened
from kdcli.workflows.once import Once
from kdcli.workflows.planning import resolved_recipe


@dataclass
class Job:
    """A training that is ready to start.

    Args:
        command: `distill`, `train-teacher`, or `scratch`: a student alone, as the baseline of a comparison.
        asked: what was asked for.
        fit: the training itself.
        trained: the model that it changes.
        teacher: who answers, None when a teacher is trained.
        resolved: a value for every `auto`, by path.
        inputs: path and sha256 of every input.
        clock: seconds by stage.
        mode, mode_reason: where the teacher's answers are kept, and why.
        once: what several jobs of a comparison share.
        teacher_key: what the teacher is called in it.
        hit: whether an earlier job had asked for the same answers.
        gates: what its figures are held to.
    """

    command: str
    asked: Asked
    fit: Fit
    trained: Opened
    teacher: Opened | None
    resolved: dict[Path, Any]
    inputs: dict[str, Any]
    clock: Clock
    mode: str = "live"
    mode_reason: str = ""
    once: Once = field(default_factory=Once)
    teacher_key: tuple[Hashable, ...] = ()
    hit: bool = False
    gates: tuple[Gate, ...] = ()

    @property
    def role(self) -> str:
        """What is trained: `teacher` or `student`."""
        return "teacher" if self.command == "train-teacher" else "student"

    @property
    def recipe(self) -> Recipe:
        """The recipe with every `auto` written out."""
        return resolved_recipe(self.asked.recipe, self.resolved)
