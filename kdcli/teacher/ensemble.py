"""Several teachers at work: each asked and kept on its own, mixed wherever their answer is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.distillation.mixture import Ensemble
from kdcli.distillation.targets import EnsembleTargets, Targets
from kdcli.distillation.terms import Term
from kdcli.evaluation.quality import measure_quality
from kdcli.recipe.document import SettingPath
from kdcli.recipe.sections import Recipe
from kdcli.runs.results import Quality, relativize_path
from kdcli.setup.ensemble_members import member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.request import Request
from kdcli.teacher.outputs import TeacherOutputs
from kdcli.teacher.placement import Placement
from kdcli.teacher.precision import FEATURES
from kdcli.teacher.resolve import build_member_outputs
from kdcli.teacher.split_logits import sample_positions

MIXED = "mixed"


@dataclass(frozen=True)
class OpenedEnsemble:
    """Several teachers as one, as the plan shows them.

    Args:
        members: in the recipe's order.
        ensemble: how they are mixed.
    """

    members: tuple[OpenedModel, ...]
    ensemble: Ensemble

    @property
    def network(self) -> Any:
        """The first one's: what features are taken from."""
        return self.members[0].network

    def to_json(self) -> dict[str, Any]:
        """What the plan shows: the keys of one teacher, and `members`."""
        settings = zip(self.members, self.ensemble.shares, self.ensemble.temperatures, strict=True)
        shown = [{**one.to_json(), "weight": share, "temperature": own} for one, share, own in settings]
        counts = [one.network.parameters for one in self.members]
        return {
            **shown[0],
            "name": f"{len(shown)} teachers",
            "path": None,
            "parameters": None if None in counts else sum(counts),
            "output_kind": self.ensemble.output_kind,
            "logits_from": f"their {self.ensemble.mix}, mixed",
            "input": {},
            "notes": [],
            "signature": None,
            "weight": 1.0,
            "temperature": 1.0,
            "members": shown,
        }


@dataclass
class EnsembleOutputs:
    """How the teachers of a run are asked, with what a `Teaching` says of one.

    Args:
        members: each with its own precision and kept answers.
        ensemble: how they are mixed.
        mixing: whether any term wants the mixture; features are the first one's.
    """

    members: tuple[TeacherOutputs, ...]
    ensemble: Ensemble
    mixing: bool

    @property
    def opened(self) -> OpenedEnsemble:
        """The teachers as one."""
        return OpenedEnsemble(tuple(one.opened for one in self.members), self.ensemble)

    @property
    def views(self) -> Views:
        """Of the training examples, the same for all of them."""
        return self.members[0].views

    @property
    def dataset(self) -> Dataset:
        """Whose training examples they answer."""
        return self.members[0].dataset

    @property
    def network(self) -> Any:
        """The first one's."""
        return self.members[0].network

    @property
    def recorded(self) -> bool:
        """Whether of one of them only its answers are there."""
        return any(one.recorded for one in self.members)

    @property
    def hit(self) -> bool:
        """Whether all training answers were there before."""
        return all(one.hit for one in self._asked)

    @hit.setter
    def hit(self, value: bool) -> None:
        for one in self._asked:
            one.hit = value

    @property
    def placement(self) -> Placement:
        """Where the answers go, in one word where it is one."""
        modes, reasons = ([getattr(one.placement, name) for one in self.members] for name in ("mode", "reason"))
        return Placement(_one_of(modes), self.views.count, "; ".join(dict.fromkeys(reasons)))

    @property
    def texts(self) -> tuple[str, ...]:
        """How they are mixed, and what was measured of each, in sentences for the plan."""
        shares = ", ".join(
            f"{share:.3f} {one.network.name}" + (f" (logits divided by {own:g})" if own != 1 else "")
            for one, share, own in zip(self.members, self.ensemble.shares, self.ensemble.temperatures, strict=True)
        )
        at = (
            "at the temperature of each term" if self.ensemble.mix == "probabilities" else "before the temperature"
        )
        texts = [f"the teachers' {self.ensemble.mix} are mixed {at}: {shares}"]
        if any(one.taps for one in self.members):
            others = "" if self.mixing else ", and no term asks the others"
            texts.append(f"features are those of the first teacher, {self.network.name}{others}")
        return (*texts, *(f"{one.network.name}: {text}" for one in self.members for text in one.texts))

    @property
    def bytes(self) -> int:
        """Bytes of the kept training answers."""
        return sum(one.bytes for one in self.members)

    def to_json(self) -> dict[str, Any]:
        """`targets` of the plan: the keys of one teacher, and `members`."""
        documents = [one.to_json() for one in self.members]
        prints = [document["fingerprint"] for document in documents]
        whole = None if None in prints else hashlib.sha256(" ".join(prints).encode()).hexdigest()
        return {
            **documents[0],
            "mode": self.placement.mode,
            "why": self.placement.reason,
            "bytes": self.bytes,
            "precision": _one_of([document["precision"] for document in documents]),
            "fingerprint": whole,
            "members": documents,
        }

    @contextmanager
    def asked_live(self) -> Iterator[None]:
        """While they are asked in every step, each computes in its own precision."""
        with ExitStack() as stack:
            for one in self.members:
                stack.enter_context(one.asked_live())
            yield

    def targets(self) -> Targets | None:
        """The answers to the training examples; None when no term asks for them."""
        return self._joined([one.targets() for one in self._asked])

    def look(self) -> tuple[Examples, Targets | None]:
        """Some training examples with their answers, before training."""
        few = sample_positions(self.dataset.train)[:FEATURES]
        return self.dataset.train.subset(few), self._joined([one.about(few) for one in self._asked])

    def plain(self, split: str, examples: Examples) -> np.ndarray:
        """Float32 logits of examples: the mixture at T 1 of what each says."""
        return self.ensemble.of([one.plain(split, examples) for one in self.members])

    @property
    def _asked(self) -> Sequence[TeacherOutputs]:
        """Who answers training examples."""
        return self.members if self.mixing else self.members[:1]

    def _joined(self, found: Sequence[Targets | None]) -> Targets | None:
        known = [one for one in found if one is not None]
        if not known or not self.mixing:
            return known[0] if known else None
        return EnsembleTargets(known, self.ensemble)


def _one_of(words: Sequence[str]) -> str:
    """The word that all of them are, or that they differ."""
    return words[0] if len(set(words)) == 1 else MIXED


AnyOutputs = TeacherOutputs | EnsembleOutputs


def build_teacher_outputs(
    request: Request,
    dataset: Dataset,
    opened: Sequence[OpenedModel],
    terms: Sequence[Term],
    *,
    epochs: int,
) -> AnyOutputs:
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
    if not request.recipe.is_ensemble:
        return build_member_outputs(request, dataset, opened[0], terms, epochs=epochs)
    on_logits = [term for term in terms if not term.pairs]
    mixing = any(term.loss.needs_teacher for term in on_logits)

    def all_of(each: Sequence[Request]) -> list[TeacherOutputs]:
        found: list[TeacherOutputs] = []
        for one, its in zip(each, opened, strict=True):
            # Only the first one is asked for features.
            wanted = on_logits if found else terms
            found.append(build_member_outputs(one, dataset, its, wanted, epochs=epochs, beside=found))
        return found

    each = member_requests(request)
    found = all_of(each)
    counts = {one.views.count for one in found}
    if len(counts) > 1:
        # Where one of them has room for fewer views, all of them see those.
        fewest = min(count for count in counts if count is not None)
        found = all_of([_seeing(one, fewest) for one in each])
    return EnsembleOutputs(tuple(found), make_ensemble(request.recipe, opened), mixing)


def make_ensemble(recipe: Recipe, opened: Sequence[OpenedModel]) -> Ensemble:
    """How the teachers of a recipe are mixed."""
    return Ensemble(
        tuple(section.weight or 1.0 for section in recipe.teachers),
        tuple(section.temperature or 1.0 for section in recipe.teachers),
        recipe.ensemble.mix if recipe.ensemble else "probabilities",
        opened[0].network.output_kind,
    )


def resolved_settings(teacher_outputs: AnyOutputs) -> dict[SettingPath, Any]:
    """A value for every `auto` about the teachers' answers, by its place in the recipe."""
    values: dict[SettingPath, Any] = {}
    several = isinstance(teacher_outputs, EnsembleOutputs)
    if isinstance(teacher_outputs, EnsembleOutputs):
        values["ensemble", "mix"] = teacher_outputs.ensemble.mix
    for number, one in enumerate(teacher_outputs.members):
        at: SettingPath = ("teacher", number) if several else ("teacher",)
        values[*at, "targets"] = one.placement.mode
        values[*at, "views"] = "all" if one.views.count is None else one.views.count
        values[*at, "precision"] = one.precision
        if isinstance(teacher_outputs, EnsembleOutputs):
            values[*at, "weight"] = teacher_outputs.ensemble.weights[number]
            values[*at, "temperature"] = teacher_outputs.ensemble.temperatures[number]
    return values


def teacher_record(teacher_outputs: AnyOutputs, own: Quality | None, student: Quality | None) -> dict[str, Any]:
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
    if isinstance(teacher_outputs, TeacherOutputs):
        path = teacher_outputs.opened.path
        return {**record, "path": relativize_path(path) if path else None}
    opened = [one.opened for one in teacher_outputs.members]
    accuracies = [_accuracy(one) for one in teacher_outputs.members]
    return {**record, "members": member_records(opened, teacher_outputs.ensemble, accuracies)}


def member_records(
    opened: Sequence[OpenedModel], ensemble: Ensemble, accuracies: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Of several teachers what each is, how much it counts, and how good it is alone."""
    settings = zip(opened, ensemble.shares, ensemble.temperatures, accuracies, strict=True)
    return [
        {
            "path": relativize_path(one.path) if one.path else None,
            "weight": share,
            "temperature": temperature,
            "accuracy": accuracy,
        }
        for one, share, temperature, accuracy in settings
    ]


def _accuracy(teacher_outputs: TeacherOutputs) -> float | None:
    """One teacher's accuracy on the test split; None where there is none, or nothing is recorded of it."""
    test = teacher_outputs.dataset.test
    if test is None or teacher_outputs.recorded:
        return None
    return measure_quality(
        teacher_outputs.plain("test", test), test.all_labels(), task=teacher_outputs.dataset.task
    ).accuracy


def _seeing(request: Request, views: int) -> Request:
    section = request.recipe.teacher.model_copy(update={"views": views})
    return replace(request, recipe=request.recipe.with_teachers(section))
