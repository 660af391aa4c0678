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
from kdcli.evaluation.quality import measure
from kdcli.recipe.document import Path
from kdcli.recipe.sections import Recipe
from kdcli.runs.results import Quality, relative
from kdcli.setup.context import Surroundings
from kdcli.setup.ensemble_members import members
from kdcli.setup.open_models import Opened
from kdcli.setup.request import Asked
from kdcli.teacher.outputs import Teaching
from kdcli.teacher.placement import Keeping
from kdcli.teacher.precision import FEATURES
from kdcli.teacher.resolve import open_teaching
from kdcli.teacher.split_logits import sampled

MIXED = "mixed"


@dataclass(frozen=True)
class OpenedSeveral:
    """Several teachers as one, as the plan shows them.

    Args:
        members: in the recipe's order.
        ensemble: how they are mixed.
    """

    members: tuple[Opened, ...]
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
            "output_kind": self.ensemble.head,
            "logits_from": f"their {self.ensemble.mix}, mixed",
            "input": {},
            "notes": [],
            "signature": None,
            "weight": 1.0,
            "temperature": 1.0,
            "members": shown,
        }


@dataclass
class EnsembleTeaching:
    """How the teachers of a run are asked, with what a `Teaching` says of one.

    Args:
        members: each with its own precision and kept answers.
        ensemble: how they are mixed.
        mixing: whether any term wants the mixture; features are the first one's.
    """

    members: tuple[Teaching, ...]
    ensemble: Ensemble
    mixing: bool

    @property
    def opened(self) -> OpenedSeveral:
        """The teachers as one."""
        return OpenedSeveral(tuple(one.opened for one in self.members), self.ensemble)

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
    def keeping(self) -> Keeping:
        """Where the answers go, in one word where it is one."""
        modes, reasons = ([getattr(one.keeping, name) for one in self.members] for name in ("mode", "reason"))
        return Keeping(_one_of(modes), self.views.count, "; ".join(dict.fromkeys(reasons)))

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
            "mode": self.keeping.mode,
            "why": self.keeping.reason,
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
        few = sampled(self.dataset.train)[:FEATURES]
        return self.dataset.train.subset(few), self._joined([one.about(few) for one in self._asked])

    def plain(self, split: str, examples: Examples) -> np.ndarray:
        """Float32 logits of examples: the mixture at T 1 of what each says."""
        return self.ensemble.of([one.plain(split, examples) for one in self.members])

    @property
    def _asked(self) -> Sequence[Teaching]:
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
