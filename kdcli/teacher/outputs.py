"""A run's teacher at work: in which precision it is asked, where its answers are kept, and the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.cache.checksummed_json import compute_fingerprint
from kdcli.cache.decisions import explain_miss, load_decision, store_decision
from kdcli.cache.entry import Entry
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.views import Views, create_identity_views
from kdcli.distillation.targets import (
    LiveTargets,
    MappedTargets,
    ResidentTargets,
    SubsetTargets,
    Targets,
    make_recorded_targets,
)
from kdcli.events import Note
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.keras.precision import compute_in
from kdcli.models.prediction import LOGITS
from kdcli.setup.open_models import OpenedModel
from kdcli.teacher.cache_key import split_components, training_components
from kdcli.teacher.fill_cache import PATIENCE, fill_cache, fill_memory, make_filling
from kdcli.teacher.inference import TeacherPass
from kdcli.teacher.placement import Placement
from kdcli.teacher.precision import FEATURES, choose_precision
from kdcli.teacher.split_logits import (
    SAMPLE_SPLIT,
    SplitLogits,
    entry_labels,
    sample_examples,
    sample_positions,
)
from kdcli.teacher.storage_dtype import Overflow, choose_storage


@dataclass
class TeacherOutputs:
    """How the teacher of a run is asked, and where its answers are kept.

    Args:
        views: of the training examples that it answers.
        keeping: where the answers go.
        measured: in which precision it answers, and in which types that is kept.
        asked: the precision that the recipe asks for.
        wanted: whether any term asks for its answers.
        plain: the teacher, its logits of whole splits, the data and the cache.
        hit: whether all training answers were there before.
    """

    views: Views
    placement: Placement
    measured: MeasuredOutputs
    request: str
    wanted: bool
    plain: SplitLogits
    hit: bool = False

    @property
    def opened(self) -> OpenedModel:
        """The teacher."""
        return self.plain.opened

    @property
    def dataset(self) -> Dataset:
        """Whose training examples it answers."""
        return self.plain.dataset

    @property
    def network(self) -> Any:
        """The teacher's network."""
        return self.opened.network

    @property
    def members(self) -> tuple[TeacherOutputs, ...]:
        """The teachers: this one."""
        return (self,)

    @property
    def recorded(self) -> bool:
        """Whether only its answers are there."""
        return isinstance(self.network, RecordedNetwork)

    @property
    def _folder(self) -> Path | None:
        """The cache's, where answers go there."""
        return self.plain.folder if self.placement.mode == "disk" else None

    @property
    def precision(self) -> str:
        """In which the training examples are answered."""
        return self.measured.precision

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """What is kept of each answer: logits, tapped features; empty where no term wants any."""
        return self.measured.arrays if self.wanted else ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What was measured, in sentences for the plan."""
        precision, *kept = self.measured.texts or ("",)
        texts = (precision, *kept) if self.bytes else (precision,)
        return tuple(text for text in texts if text)

    @property
    def taps(self) -> tuple[str, ...]:
        """The tapped features that are wanted."""
        return tuple(spec.name for spec in self.arrays if spec.name != LOGITS)

    @property
    def layout(self) -> Layout:
        """How the training answers are kept."""
        return Layout(len(self.dataset.train), self.views.count or 1, self.arrays)

    @cached_property
    def components(self) -> dict[str, Any] | None:
        """What the training answers follow from; None where nothing tells."""
        if self.plain.base is None:
            return None
        return training_components(
            self.plain.base,
            self.dataset.train,
            self.views,
            precision=self.precision,
            arrays=self.arrays,
            memo=self.plain.context.memo,
        )

    @cached_property
    def _entry(self) -> Entry | None:
        """The kept answers to the training examples, complete or not; each shard is checked once."""
        folder, components = self._folder, self.components
        return self.plain.context.find_entry(folder, components) if folder and components else None

    @property
    def bytes(self) -> int:
        """Bytes of the kept training answers."""
        return 0 if self.placement.mode == "live" or not self.arrays else self.layout.bytes

    @property
    def complete(self) -> bool:
        """Whether all training answers lie in the cache."""
        return self._entry is not None and not self._entry.missing()

    def to_json(self) -> dict[str, Any]:
        """`targets` of the plan."""
        components = self.components if self.placement.mode == "disk" else None
        return {
            "mode": self.placement.mode,
            "why": self.placement.reason,
            "views": "all" if self.views.count is None else self.views.count,
            "bytes": self.bytes,
            "precision": self.precision,
            "kept": {spec.name: spec.dtype for spec in self.arrays} if self.bytes else {},
            "fingerprint": compute_fingerprint(components) if components else None,
        }

    @contextmanager
    def asked_live(self) -> Iterator[None]:
        """While it is asked in every step, the teacher computes in its precision."""
        with compute_in(self.network, self.precision if self.placement.mode == "live" else "float32"):
            yield

    def targets(self) -> Targets | None:
        """The answers to the training examples; None when no term asks for them."""
        if not self.arrays:
            return None
        if self.recorded:
            return make_recorded_targets(self.network, self.dataset.train)
        if self.placement.mode == "live":
            return LiveTargets(self.network, self.taps)
        components = self.components
        if components is None:
            return self._kept()
        key = ("targets", self.placement.mode, *sorted(components.items()))
        self.hit = key in self.plain.context.memo
        return self.plain.context.memo(key, self._kept)

    def look(self) -> tuple[Examples, Targets | None]:
        """Some training examples with their answers, before training; None where nobody wants any."""
        if self.recorded or self.complete:
            return self.dataset.train, self.targets()
        few = sample_positions(self.dataset.train)[:FEATURES]
        return self.dataset.train.subset(few), self.about(few)

    def about(self, positions: np.ndarray) -> Targets | None:
        """The answers to the first ones of the sampled examples as they are, by their number in that order."""
        if not self.arrays or self.placement.mode == "live":
            return self.targets()
        known = self.targets() if self.recorded or self.complete else None
        if known is not None:
            return SubsetTargets(known, positions)
        few = self.dataset.train.subset(positions)
        looked = {name: values[: len(few)] for name, values in self.measured.answers.items()}
        if not looked:
            told = make_filling(self.plain.context, len(few), "some examples", patience=PATIENCE).on_examples
            with self.asking(few, create_identity_views(few), taps=self.taps) as teacher_pass:
                looked = teacher_pass(0, 0, len(few), on_batch=told)
        return ResidentTargets(looked, examples=len(few))

    def asking(self, examples: Examples, views: Views, *, taps: tuple[str, ...] = ()) -> TeacherPass:
        """A pass of the teacher over examples, in its precision."""
        return TeacherPass(self.network, taps, examples, views, precision=self.precision)

    def _kept(self) -> Targets:
        try:
            return self._filled()
        except Overflow as overflow:
            # A value that the first examples did not show: all answers get another type, later runs know.
            wider = replace(overflow.spec, dtype="bfloat16")
            arrays = tuple(wider if spec == overflow.spec else spec for spec in self.measured.arrays)
            self.measured = replace(self.measured, arrays=arrays)
            store_measured(self.request, self.measured, self.plain, self.taps)
            for follows in ("components", "_entry"):
                self.__dict__.pop(follows, None)
            self.plain.context.on_event(Note(f"{overflow}: it is kept as bfloat16", warning=True))
            return self._filled()

    def _filled(self) -> Targets:
        train, layout, components = self.dataset.train, self.layout, self.components
        ask = partial(self.asking, train, self.views, taps=self.taps)
        filling = make_filling(self.plain.context, layout.views * layout.examples, "the training examples")
        if self._folder is None or components is None:
            return ResidentTargets(fill_memory(ask, layout, filling), examples=len(train))
        words, choices = entry_labels(self.opened, self.dataset, "train"), {"measured": list(self.texts)}
        reason = None if self._entry else explain_miss(self._folder, components, teacher=words["teacher"])
        if reason:
            self.plain.context.on_event(Note(reason))
        reader, self.hit = fill_cache(
            self._folder,
            components,
            ask,
            layout=layout,
            described=words,
            choices=choices,
            filling=filling,
            entry=self._entry,
        )
        if layout.bytes > RESIDENT_BYTES:
            return MappedTargets(reader)
        return ResidentTargets({s.name: reader.read_all(s.name) for s in self.arrays}, examples=len(train))


@dataclass(frozen=True)
class MeasuredOutputs:
    """What a look at the teacher's answers told.

    Args:
        precision: in which it answers.
        arrays: how each part of an answer is kept.
        texts: the figures, in sentences.
        answers: that were looked at; none where the cache remembers the choice.
    """

    precision: str
    arrays: tuple[ArraySpec, ...]
    texts: tuple[str, ...]
    answers: dict[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What the cache remembers."""
        arrays = [[spec.name, spec.dtype, list(spec.shape)] for spec in self.arrays]
        return {"precision": self.precision, "arrays": arrays, "texts": list(self.texts)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> MeasuredOutputs:
        """What the cache remembered."""
        arrays = tuple(ArraySpec(name, dtype, tuple(shape)) for name, dtype, shape in document["arrays"])
        return cls(document["precision"], arrays, tuple(document["texts"]))


def measure_outputs(precision: str, plain: SplitLogits, taps: tuple[str, ...]) -> MeasuredOutputs:
    """Precision and types, as the chief of several workers finds them."""
    own: list[MeasuredOutputs] = []

    def look() -> dict[str, Any]:
        own.append(_look(precision, plain, taps))
        return own[0].to_json()

    document = plain.context.workers.broadcast_object(look)
    return own[0] if own else MeasuredOutputs.from_json(document)


def store_measured(request: str, measured: MeasuredOutputs, plain: SplitLogits, taps: tuple[str, ...]) -> None:
    """Let the cache remember a choice for what was asked, and for what it became: a resumed run asks for that."""
    if plain.folder is not None and plain.base is not None and not plain.context.dry_run:
        for precision in {request, measured.precision}:
            store_decision(plain.folder, _follows_from(precision, plain, taps), measured.to_json())


def _look(precision: str, plain: SplitLogits, taps: tuple[str, ...]) -> MeasuredOutputs:
    """Precision and types, from what the cache remembers or from answers to some examples."""
    network, sample = plain.opened.network, sample_examples(plain.dataset.train)
    if plain.folder is not None and plain.base is not None:
        remembered = load_decision(plain.folder, _follows_from(precision, plain, taps))
        if remembered is not None:
            return MeasuredOutputs.from_json(remembered)
    told = make_filling(plain.context, len(sample), "a sample of the examples", patience=PATIENCE).on_examples
    choice = choose_precision(precision, network, sample, taps=taps, on_batch=told)
    storage = choose_storage(choice.answers, output_kind=network.output_kind)
    plain.known(SAMPLE_SPLIT, sample, choice.answers[LOGITS])
    texts = (f"the teacher answers in {choice.text}", f"answers are kept as {storage.text}")
    measured = MeasuredOutputs(choice.precision, storage.specs, texts, choice.answers)
    store_measured(precision, measured, plain, taps)
    return measured


def _follows_from(precision: str, plain: SplitLogits, taps: tuple[str, ...]) -> dict[str, Any]:
    sample = sample_examples(plain.dataset.train)
    examples = split_components(SAMPLE_SPLIT, sample, create_identity_views(sample), plain.context.memo)
    return {**(plain.base or {}), **examples, "asked": precision, "taps": ", ".join(taps)}
