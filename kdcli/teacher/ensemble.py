"""An ensemble of teachers: each member computes and stores its own outputs, which are mixed when they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.distillation.ensemble_mixture import Ensemble
from kdcli.distillation.targets import EnsembleTargets, Targets
from kdcli.evaluation.quality import measure_quality
from kdcli.models.network import Network
from kdcli.recipe.document import SettingPath
from kdcli.recipe.sections import Recipe
from kdcli.runs.results import Quality, relativize_path
from kdcli.setup.open_models import OpenedModel
from kdcli.teacher.outputs import TeacherOutputs
from kdcli.teacher.precision import FEATURE_SAMPLE_SIZE
from kdcli.teacher.split_logits import sample_positions
from kdcli.teacher.targets_and_views import Placement

# The mode or precision in the plan if the members differ.
_MIXED = "mixed"


@dataclass(frozen=True)
class OpenedEnsemble:
    """The opened members of an ensemble.

    Args:
        members: the members in the order of the recipe.
        ensemble: how their outputs are mixed.
    """

    members: tuple[OpenedModel, ...]
    ensemble: Ensemble

    @property
    def network(self) -> Network:
        """The first member's network, which provides the features."""
        network: Network = self.members[0].network
        return network

    def to_json(self) -> dict[str, Any]:
        """`teacher` of the plan: the keys of a single teacher, and `members`."""
        settings = zip(self.members, self.ensemble.shares, self.ensemble.temperatures, strict=True)
        members = [{**member.to_json(), "weight": weight, "temperature": t} for member, weight, t in settings]
        counts = [member.network.parameters for member in self.members]
        return {
            **members[0],
            "name": f"{len(members)} teachers",
            "path": None,
            "parameters": None if None in counts else sum(counts),
            "output_kind": self.ensemble.output_kind,
            "logits_from": f"weighted mean of their {self.ensemble.mix}",
            "input": {},
            "notes": [],
            "signature": None,
            "weight": 1.0,
            "temperature": 1.0,
            "members": members,
        }


@dataclass(kw_only=True)
class EnsembleOutputs:
    """The outputs of an ensemble for the training examples, with the interface of `TeacherOutputs`.

    Args:
        members: the outputs of each member.
        ensemble: how the outputs are mixed.
        uses_mixture: whether any loss needs the mixture; features come from the first member.
    """

    members: tuple[TeacherOutputs, ...]
    ensemble: Ensemble
    uses_mixture: bool

    @property
    def opened(self) -> OpenedEnsemble:
        """The opened members."""
        return OpenedEnsemble(tuple(member.opened for member in self.members), self.ensemble)

    @property
    def views(self) -> Views:
        """Views of the training examples, the same for all members."""
        return self.members[0].views

    @property
    def dataset(self) -> Dataset:
        """The data with the training examples."""
        return self.members[0].dataset

    @property
    def network(self) -> Network:
        """The first member's network."""
        return self.members[0].network

    @property
    def recorded(self) -> bool:
        """Whether any member is a file of recorded outputs."""
        return any(member.recorded for member in self.members)

    @property
    def hit(self) -> bool:
        """Whether all outputs were in the cache before."""
        return all(member.hit for member in self._used_members)

    @hit.setter
    def hit(self, value: bool) -> None:
        for member in self._used_members:
            member.hit = value

    @property
    def placement(self) -> Placement:
        """Where the outputs are stored; `mixed` if the members differ."""
        placements = [member.placement for member in self.members]
        reasons = dict.fromkeys(placement.reason for placement in placements)
        mode = _merge_words([placement.mode for placement in placements])
        return Placement(mode, self.views.count, "; ".join(reasons))

    @property
    def texts(self) -> tuple[str, ...]:
        """How outputs are mixed, and the measurements of each member, in sentences for the plan."""
        settings = zip(self.members, self.ensemble.shares, self.ensemble.temperatures, strict=True)
        weights = ", ".join(
            f"{weight:.3f} {member.network.name}" + (f" (logits divided by {t:g})" if t != 1 else "")
            for member, weight, t in settings
        )
        mix = self.ensemble.mix
        where = "at the temperature of each term" if mix == "probabilities" else "before the temperature"
        texts = [f"the teachers' {mix} are mixed {where}: {weights}"]
        if any(member.taps for member in self.members):
            others = "" if self.uses_mixture else "; no loss uses the other teachers"
            texts.append(f"features come from the first teacher, {self.network.name}{others}")
        return (*texts, *(f"{member.network.name}: {text}" for member in self.members for text in member.texts))

    @property
    def bytes(self) -> int:
        """Bytes of the stored outputs."""
        return sum(member.bytes for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """`targets` of the plan: the keys of a single teacher, and `members`."""
        documents = [member.to_json() for member in self.members]
        prints = [document["fingerprint"] for document in documents]
        combined = None if None in prints else hashlib.sha256(" ".join(prints).encode()).hexdigest()
        return {
            **documents[0],
            "mode": self.placement.mode,
            "why": self.placement.reason,
            "bytes": self.bytes,
            "precision": _merge_words([document["precision"] for document in documents]),
            "fingerprint": combined,
            "members": documents,
        }

    @contextmanager
    def in_precision(self) -> Iterator[None]:
        """Let live members compute in their precision while the block runs."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.in_precision())
            yield

    def targets(self) -> Targets | None:
        """Get the targets for training, computing the outputs that do not exist yet; None if no loss needs any."""
        return self._join([member.targets() for member in self._used_members])

    def sample_targets(self) -> tuple[Examples, Targets | None]:
        """Get some training examples with their targets, before training."""
        positions = sample_positions(self.dataset.train)[:FEATURE_SAMPLE_SIZE]
        targets = self._join([member.targets_of(positions) for member in self._used_members])
        return self.dataset.train.subset(positions), targets

    def split_logits(self, split: str, examples: Examples) -> np.ndarray:
        """Mix the members' float32 logits for examples, at temperature 1."""
        return self.ensemble.of([member.split_logits(split, examples) for member in self.members])

    @property
    def _used_members(self) -> Sequence[TeacherOutputs]:
        """The members whose outputs for the training examples are used."""
        return self.members if self.uses_mixture else self.members[:1]

    def _join(self, member_targets: Sequence[Targets | None]) -> Targets | None:
        found = [targets for targets in member_targets if targets is not None]
        if not found or not self.uses_mixture:
            return found[0] if found else None
        return EnsembleTargets(found, self.ensemble)


def _merge_words(words: Sequence[str]) -> str:
    """The common word; `mixed` if the words differ."""
    return words[0] if len(set(words)) == 1 else _MIXED


AnyOutputs = TeacherOutputs | EnsembleOutputs


def make_ensemble(recipe: Recipe, opened: Sequence[OpenedModel]) -> Ensemble:
    """Make the mixture of the members of a recipe."""
    return Ensemble(
        tuple(section.weight or 1.0 for section in recipe.teachers),
        tuple(section.temperature or 1.0 for section in recipe.teachers),
        recipe.ensemble.mix if recipe.ensemble else "probabilities",
        opened[0].network.output_kind,
    )


def resolve_settings(teacher_outputs: AnyOutputs) -> dict[SettingPath, Any]:
    """List the values for every `auto` of the teacher sections, by their path in the recipe."""
    values: dict[SettingPath, Any] = {}
    ensemble = teacher_outputs.ensemble if isinstance(teacher_outputs, EnsembleOutputs) else None
    if ensemble is not None:
        values["ensemble", "mix"] = ensemble.mix
    for number, member in enumerate(teacher_outputs.members):
        path: SettingPath = ("teacher",) if ensemble is None else ("teacher", number)
        values[*path, "targets"] = member.placement.mode
        values[*path, "views"] = "all" if member.views.count is None else member.views.count
        values[*path, "precision"] = member.precision
        if ensemble is not None:
            values[*path, "weight"] = ensemble.weights[number]
            values[*path, "temperature"] = ensemble.temperatures[number]
    return values


def teacher_record(
    teacher_outputs: AnyOutputs, quality: Quality | None, student: Quality | None
) -> dict[str, Any]:
    """`teacher` of the summary; for an ensemble with its members.

    Args:
        teacher_outputs: the teacher or ensemble.
        quality: its quality on the test split, if known.
        student: the student's quality, with its agreement.
    """
    record: dict[str, Any] = {
        "path": None,
        "accuracy": quality.accuracy if quality else None,
        "agreement": student.agreement if student else None,
    }
    if isinstance(teacher_outputs, TeacherOutputs):
        path = teacher_outputs.opened.path
        return {**record, "path": relativize_path(path) if path else None}
    opened = [member.opened for member in teacher_outputs.members]
    accuracies = [_measure_accuracy(member) for member in teacher_outputs.members]
    return {**record, "members": member_records(opened, teacher_outputs.ensemble, accuracies)}


def member_records(
    opened: Sequence[OpenedModel], ensemble: Ensemble, accuracies: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Path, weight, temperature and accuracy of each member of an ensemble."""
    settings = zip(opened, ensemble.shares, ensemble.temperatures, accuracies, strict=True)
    return [
        {
            "path": relativize_path(member.path) if member.path else None,
            "weight": weight,
            "temperature": temperature,
            "accuracy": accuracy,
        }
        for member, weight, temperature, accuracy in settings
    ]


def _measure_accuracy(member: TeacherOutputs) -> float | None:
    """Measure the accuracy on the test split; None if there is none, or if the outputs are recorded."""
    test, task = member.dataset.test, member.dataset.task
    if test is None or member.recorded:
        return None
    return measure_quality(member.split_logits("test", test), test.all_labels(), task=task).accuracy
