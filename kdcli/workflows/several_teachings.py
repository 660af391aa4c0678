"""The teachers of a run, ready to answer: one, or several that see the same views and share the room there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdcli.data.dataset import Dataset
from kdcli.distillation.mixture import Ensemble
from kdcli.distillation.terms import Term
from kdcli.evaluation.quality import measure
from kdcli.recipe.document import Path
from kdcli.recipe.sections import Recipe
from kdcli.runs.results import Quality, relative
from kdcli.setup.context import Surroundings
from kdcli.setup.ensemble_members import members
from kdcli.setup.open_models import Opened
from kdcli.setup.request import Asked
from kdcli.workflows.choosing import open_teaching
from kdcli.workflows.ensembling import EnsembleTeaching
from kdcli.workflows.teaching import Teaching

AnyTeaching = Teaching | EnsembleTeaching


def open_teachings(
    asked: Asked,
    dataset: Dataset,
    opened: Sequence[Opened],
    terms: Sequence[Term],
    around: Surroundings,
    *,
    epochs: int,
) -> AnyTeaching:
    """The teacher of a run, or all of its teachers, ready to answer.

    Args:
        asked: what to do.
        dataset: whose training examples are answered.
        opened: the teachers.
        terms: what they ask them for.
        around: listener, limit of the cache, what is opened once.
        epochs: of the training.

    Raises:
        UsageError: a precision or a number of views that cannot be.
        StorageError: a cache that was asked for and cannot be used.
        ModelError: an answer that is not finite.
    """
    if not asked.recipe.is_ensemble:
        return open_teaching(asked, dataset, opened[0], terms, around, epochs=epochs)
    on_logits = [term for term in terms if not term.pairs]
    mixing = any(term.loss.needs_teacher for term in on_logits)

    def all_of(each: Sequence[Asked]) -> list[Teaching]:
        found: list[Teaching] = []
        for one, its in zip(each, opened, strict=True):
            # Only the first one is asked for features.
            wanted = on_logits if found else terms
            found.append(open_teaching(one, dataset, its, wanted, around, epochs=epochs, beside=found))
        return found

    each = members(asked)
    found = all_of(each)
    counts = {one.views.count for one in found}
    if len(counts) > 1:
        # Where one of them has room for fewer views, all of them see those.
        fewest = min(count for count in counts if count is not None)
        found = all_of([_seeing(one, fewest) for one in each])
    return EnsembleTeaching(tuple(found), ensemble_of(asked.recipe, opened), mixing)


def ensemble_of(recipe: Recipe, opened: Sequence[Opened]) -> Ensemble:
    """How the teachers of a recipe are mixed."""
    return Ensemble(
        tuple(section.weight or 1.0 for section in recipe.teachers),
        tuple(section.temperature or 1.0 for section in recipe.teachers),
        recipe.ensemble.mix if recipe.ensemble else "probabilities",
        opened[0].network.head,
    )


def resolved_teaching(teaching: AnyTeaching) -> dict[Path, Any]:
    """A value for every `auto` about the teachers' answers, by its place in the recipe."""
    values: dict[Path, Any] = {}
    several = isinstance(teaching, EnsembleTeaching)
    if isinstance(teaching, EnsembleTeaching):
        values["ensemble", "mix"] = teaching.ensemble.mix
    for number, one in enumerate(teaching.members):
        at: Path = ("teacher", number) if several else ("teacher",)
        values[*at, "targets"] = one.keeping.mode
        values[*at, "views"] = "all" if one.views.count is None else one.views.count
        values[*at, "precision"] = one.precision
        if isinstance(teaching, EnsembleTeaching):
            values[*at, "weight"] = teaching.ensemble.weights[number]
            values[*at, "temperature"] = teaching.ensemble.temperatures[number]
    return values


def teacher_record(teaching: AnyTeaching, own: Quality | None, student: Quality | None) -> dict[str, Any]:
    """`teacher` of the summary; of several teachers also what each is and how good it is alone.

    Args:
        teaching: the teacher or teachers.
        own: their figures on the test split, where they are known.
        student: the student's, with its agreement.
    """
    record: dict[str, Any] = {
        "path": None,
        "accuracy": own.accuracy if own else None,
        "agreement": student.agreement if student else None,
    }
    if isinstance(teaching, Teaching):
        path = teaching.opened.path
        return {**record, "path": relative(path) if path else None}
    opened = [one.opened for one in teaching.members]
    accuracies = [_accuracy(one) for one in teaching.members]
    return {**record, "members": member_records(opened, teaching.ensemble, accuracies)}


def member_records(
    opened: Sequence[Opened], ensemble: Ensemble, accuracies: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Of several teachers what each is, how much it counts, and how good it is alone."""
    settings = zip(opened, ensemble.shares, ensemble.temperatures, accuracies, strict=True)
    return [
        {
            "path": relative(one.path) if one.path else None,
            "weight": share,
            "temperature": temperature,
            "accuracy": accuracy,
        }
        for one, share, temperature, accuracy in settings
    ]


def _accuracy(teaching: Teaching) -> float | None:
    """One teacher's accuracy on the test split; None where there is none, or nothing is recorded of it."""
    test = teaching.dataset.test
    if test is None or teaching.recorded:
        return None
    return measure(teaching.plain("test", test), test.all_labels(), task=teaching.dataset.task).accuracy


def _seeing(asked: Asked, views: int) -> Asked:
    section = asked.recipe.teacher.model_copy(update={"views": views})
    return replace(asked, recipe=asked.recipe.taught(section))
