"""A job: one training with everything opened and resolved."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from kdcli.custom_kinds import NO_CUSTOM, CustomKinds
from kdcli.data.dataset import Dataset
from kdcli.data.views import Views
from kdcli.distillation.terms import Term
from kdcli.errors import UsageError
from kdcli.evaluation.footprint import count_least_bytes
from kdcli.evaluation.gates import check_gate_metrics, check_size_gates
from kdcli.recipe.document import SettingPath
from kdcli.recipe.gates import Gate
from kdcli.recipe.sections import Recipe
from kdcli.recipe.train_section import TrainSection
from kdcli.runs.run_environment import redact_document
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.request import Request
from kdcli.teacher.ensemble import AnyOutputs, OpenedEnsemble


@dataclass
class Clock:
    """Measures seconds, by phase of the run."""

    began: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        since = time.perf_counter()
        yield
        self.lap(stage, since)

    def lap(self, stage: str, since: float) -> None:
        """Add the time since `since` to a phase."""
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - since

    def set(self, stage: str, seconds: float, since: float) -> None:
        """Set the seconds of a phase; those spent before this process count towards the total too."""
        self.stages[stage] = seconds
        self.began -= max(0.0, seconds - (time.perf_counter() - since))

    def to_json(self) -> dict[str, float]:
        """Return `seconds` of the summary."""
        total = time.perf_counter() - self.began
        named = {name: self.stages.get(name, 0.0) for name in ("data", "teacher", "training", "evaluation")}
        return {name: round(value, 3) for name, value in {**named, "total": total}.items()}


@dataclass(kw_only=True)
class Job:
    """A training that is ready to start.

    Args:
        command: `distill`, `train-teacher`, or `scratch` for the baseline of a comparison.
        request: of the run.
        trained: the model to train.
        teacher_outputs: the targets of the student; None for training on labels.
        dataset: with the number of outputs filled in.
        train: with both `epochs` and `steps` filled in.
        views: augmented views of the training examples.
        terms: of the objective.
        strategy: the `tf.distribute.Strategy`.
        monitor: the validation metric that selects the best weights.
        resolved: the value of every `auto`, by path.
        inputs: path and sha256 of every input.
        clock: measures the seconds of each phase.
        gates: judged on the test metrics.
        exported_gates: bounds on the file size, judged by kd export.
        stages: the records of earlier stages, for the last stage of a chain.
        reads_test: whether the test split is read at the end; not for a candidate that may still be rejected.
        teacher_validation: (examples, outputs), the teacher's logits on the validation split once computed.
    """

    command: str
    request: Request
    trained: OpenedModel
    teacher_outputs: AnyOutputs | None
    dataset: Dataset
    train: TrainSection
    views: Views
    terms: Sequence[Term]
    strategy: Any
    monitor: str
    resolved: dict[SettingPath, Any]
    inputs: dict[str, Any]
    clock: Clock
    gates: tuple[Gate, ...] = ()
    exported_gates: tuple[Gate, ...] = ()
    stages: tuple[dict[str, Any], ...] = ()
    reads_test: bool = True
    teacher_validation: np.ndarray | None = None

    def set_gates(self, gates: Sequence[Gate], *, is_last: bool = True) -> None:
        """Set the gates that the run is judged by; bounds on the file size are judged at export.

        Args:
            gates: of the command.
            is_last: whether this is the last stage, or the only training.

        Raises:
            UsageError: the data lacks such a metric, or the weights alone exceed a bound on the size.
        """
        check_gate_metrics("distill", gates, self.dataset.task, labelled=self.dataset.labelled)
        sizes = tuple(gate for gate in gates if gate.metric == "size_mb")
        if is_last:
            check_size_gates(
                sizes, count_least_bytes(self.trained.network.variables), name=self.trained.network.name
            )
        others = tuple(gate for gate in gates if gate not in sizes)
        if others and self.dataset.test is None:
            raise UsageError("gates are judged on a test split, and the data has none", hint="remove the gates")
        self.gates, self.exported_gates = others, sizes

    @property
    def teacher(self) -> OpenedModel | OpenedEnsemble | None:
        """The opened teacher or ensemble; None for training on labels."""
        return self.teacher_outputs.opened if self.teacher_outputs else None

    @property
    def role(self) -> str:
        """The role of the trained model: `teacher` or `student`."""
        return "teacher" if self.command == "train-teacher" else "student"

    @property
    def recipe(self) -> Recipe:
        """The recipe with every `auto` resolved."""
        return resolve_recipe(self.request.recipe, self.resolved, self.request.custom)


def resolve_recipe(recipe: Recipe, resolved: dict[SettingPath, Any], custom: CustomKinds = NO_CUSTOM) -> Recipe:
    """Replace every `auto` of a recipe by its value, and list the files that define its custom kinds."""
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    for path, value in resolved.items():
        at: Any = values
        for part in path[:-1]:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[path[-1]] = value
    required = [*recipe.requires, *custom.files_of(recipe)]
    if required:
        values["requires"] = list(dict.fromkeys(required))
    return Recipe.model_validate(values, context=custom)


def format_recipe(recipe: Recipe) -> str:
    """Format `recipe.yaml`: every setting, below a line with the sha256 of the rest."""
    values = redact_document(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    digest = hashlib.sha256(body.encode("utf-8")).hexdigest()
    return f"# sha256 of the lines below: {digest}\n{body}"
