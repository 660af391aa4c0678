"""A teacher's outputs for the training examples: live, in memory or in the cache."""

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
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS
from kdcli.setup.context import Context
from kdcli.setup.open_models import OpenedModel
from kdcli.teacher.cache_key import split_components, training_components
from kdcli.teacher.fill_cache import PATIENCE_SECONDS, fill_cache, fill_memory, make_filling
from kdcli.teacher.inference import TeacherPass
from kdcli.teacher.precision import FEATURE_SAMPLE_SIZE, choose_precision
from kdcli.teacher.split_logits import (
    SAMPLE_SPLIT,
    SplitLogits,
    describe_entry,
    sample_examples,
    sample_positions,
)
from kdcli.teacher.storage_dtype import Overflow, choose_storage
from kdcli.teacher.targets_and_views import Placement


@dataclass(kw_only=True)
class TeacherOutputs:
    """The outputs of one teacher for the training examples of a run.

    Args:
        views: views of the training examples.
        placement: where the outputs are stored.
        measured: precision and stored dtypes.
        requested_precision: precision in the recipe.
        needed: whether any loss needs the outputs.
        split_logits: the teacher's logits for whole splits, with the teacher, the data and the cache.
        hit: whether all outputs were in the cache before.
    """

    views: Views
    placement: Placement
    measured: MeasuredOutputs
    requested_precision: str
    needed: bool
    split_logits: SplitLogits
    hit: bool = False

    @property
    def opened(self) -> OpenedModel:
        """The teacher."""
        return self.split_logits.opened

    @property
    def dataset(self) -> Dataset:
        """The data with the training examples."""
        return self.split_logits.dataset

    @property
    def network(self) -> Network:
        """The teacher's network."""
        return self.split_logits.network

    @property
    def members(self) -> tuple[TeacherOutputs, ...]:
        """The members of the ensemble: this teacher."""
        return (self,)

    @property
    def recorded(self) -> bool:
        """Whether the teacher is a file of recorded outputs."""
        return isinstance(self.network, RecordedNetwork)

    @property
    def precision(self) -> str:
        """Precision in which the outputs for the training examples are computed."""
        return self.measured.precision

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays that losses need: logits and tapped features; empty if none needs any."""
        return self.measured.arrays if self.needed else ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The measurements, in sentences for the plan."""
        # The sentence on storage comes second.
        texts = self.measured.texts if self.bytes else self.measured.texts[:1]
        return tuple(text for text in texts if text)

    @property
    def taps(self) -> tuple[str, ...]:
        """The tapped features that losses need."""
        return tuple(spec.name for spec in self.arrays if spec.name != LOGITS)

    @property
    def layout(self) -> Layout:
        """Layout of the stored outputs."""
        return Layout(len(self.dataset.train), self.views.count or 1, self.arrays)

    @cached_property
    def components(self) -> dict[str, Any] | None:
        """Components of the cache key; None if the teacher cannot be identified."""
        if self.split_logits.base is None:
            return None
        return training_components(
            self.split_logits.base,
            self.dataset.train,
            self.views,
            precision=self.precision,
            arrays=self.arrays,
            memo=self._context.memo,
        )

    @property
    def bytes(self) -> int:
        """Bytes of the stored outputs."""
        return 0 if self.placement.mode == "live" or not self.arrays else self.layout.bytes

    @property
    def complete(self) -> bool:
        """Whether all outputs are in the cache."""
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
    def in_precision(self) -> Iterator[None]:
        """Let a live teacher compute in its precision while the block runs."""
        with compute_in(self.network, self.precision if self.placement.mode == "live" else "float32"):
            yield

    def targets(self) -> Targets | None:
        """Get the targets for training, computing the outputs that do not exist yet; None if no loss needs any."""
        if not self.arrays:
            return None
        if isinstance(self.network, RecordedNetwork):
            return make_recorded_targets(self.network, self.dataset.train)
        if self.placement.mode == "live":
            return LiveTargets(self.network, self.taps)
        components = self.components
        if components is None:
            return self._store_outputs()
        key = ("targets", self.placement.mode, *sorted(components.items()))
        self.hit = key in self._context.memo
        return self._context.memo(key, self._store_outputs)

    def sample_targets(self) -> tuple[Examples, Targets | None]:
        """Get some training examples with their targets, before training."""
        if self.recorded or self.complete:
            return self.dataset.train, self.targets()
        positions = sample_positions(self.dataset.train)[:FEATURE_SAMPLE_SIZE]
        return self.dataset.train.subset(positions), self.targets_of(positions)

    def targets_of(self, positions: np.ndarray) -> Targets | None:
        """Get the targets for the first sampled examples, without augmentation.

        Args:
            positions: positions of the first examples of the sample; batches number them from 0.
        """
        if not self.arrays or self.placement.mode == "live":
            return self.targets()
        stored = self.targets() if self.recorded or self.complete else None
        if stored is not None:
            return SubsetTargets(stored, positions)
        examples = self.dataset.train.subset(positions)
        outputs = {name: values[: len(examples)] for name, values in self.measured.outputs.items()}
        if not outputs:
            filling = make_filling(
                self._context, len(examples), "some examples", patience_seconds=PATIENCE_SECONDS
            )
            with self.open_pass(examples, create_identity_views(examples)) as teacher_pass:
                outputs = teacher_pass(0, 0, len(examples), on_batch=filling.on_examples)
        return ResidentTargets(outputs, examples=len(examples))

    def open_pass(self, examples: Examples, views: Views) -> TeacherPass:
        """Open a pass of the teacher over examples, in its precision, for the needed arrays."""
        return TeacherPass(self.network, self.taps, examples, views, precision=self.precision)

    @property
    def _context(self) -> Context:
        return self.split_logits.context

    @property
    def _folder(self) -> Path | None:
        """Folder of the cache if the outputs are stored there."""
        return self.split_logits.folder if self.placement.mode == "disk" else None

    @cached_property
    def _entry(self) -> Entry | None:
        """The cache entry, complete or not; each shard is verified once."""
        folder, components = self._folder, self.components
        return self._context.find_entry(folder, components) if folder and components else None

    def _store_outputs(self) -> Targets:
        """Compute and store the outputs; if a value overflows float16, once more in bfloat16."""
        try:
            return self._compute_missing()
        except Overflow as overflow:
            # The sample contained no such value. Later runs start with the choice that is stored here.
            wider = replace(overflow.spec, dtype="bfloat16")
            arrays = tuple(wider if spec == overflow.spec else spec for spec in self.measured.arrays)
            self.measured = replace(self.measured, arrays=arrays)
            _store_measured(self.requested_precision, self.measured, self.split_logits, self.taps)
            for outdated in ("components", "_entry"):
                self.__dict__.pop(outdated, None)
            self._context.on_event(Note(f"{overflow}; it is stored as bfloat16", warning=True))
            return self._compute_missing()

    def _compute_missing(self) -> Targets:
        train, layout, components = self.dataset.train, self.layout, self.components
        open_pass = partial(self.open_pass, train, self.views)
        filling = make_filling(
            self._context,
            layout.views * layout.examples,
            "the training examples",
            is_cached=self._folder is not None,
        )
        if self._folder is None or components is None:
            return ResidentTargets(fill_memory(open_pass, layout, filling), examples=len(train))
        described = describe_entry(self.opened, self.dataset, "train")
        reason = None if self._entry else explain_miss(self._folder, components, teacher=described["teacher"])
        if reason:
            self._context.on_event(Note(reason))
        reader, self.hit = fill_cache(
            self._folder,
            components,
            open_pass,
            layout=layout,
            described=described,
            choices={"measured": list(self.texts)},
            filling=filling,
            entry=self._entry,
        )
        if layout.bytes > RESIDENT_BYTES:
            return MappedTargets(reader)
        return ResidentTargets({s.name: reader.read_all(s.name) for s in self.arrays}, examples=len(train))


@dataclass(frozen=True)
class MeasuredOutputs:
    """Precision and stored dtypes, measured on a sample.

    Args:
        precision: precision in which the teacher computes.
        arrays: logits and taps with their stored dtypes.
        texts: the measurements, in sentences.
        outputs: float32 outputs for the sample; empty if the choice comes from the cache.
    """

    precision: str
    arrays: tuple[ArraySpec, ...]
    texts: tuple[str, ...]
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that the cache stores."""
        arrays = [[spec.name, spec.dtype, list(spec.shape)] for spec in self.arrays]
        return {"precision": self.precision, "arrays": arrays, "texts": list(self.texts)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> MeasuredOutputs:
        """Read the document that the cache stores."""
        arrays = tuple(ArraySpec(name, dtype, tuple(shape)) for name, dtype, shape in document["arrays"])
        return cls(document["precision"], arrays, tuple(document["texts"]))


def measure_outputs(precision: str, split_logits: SplitLogits, taps: tuple[str, ...]) -> MeasuredOutputs:
    """Choose precision and stored dtypes; all workers use the choice of the chief.

    Args:
        precision: precision in the recipe.
        split_logits: the teacher, the data and the cache.
        taps: tapped features that losses need.

    Raises:
        UsageError: the teacher cannot compute in this precision.
        ModelError: an output is NaN or infinite.
    """
    ours: list[MeasuredOutputs] = []

    def measure() -> dict[str, Any]:
        ours.append(_measure(precision, split_logits, taps))
        return ours[0].to_json()

    document = split_logits.context.workers.broadcast_object(measure)
    return ours[0] if ours else MeasuredOutputs.from_json(document)


def _measure(precision: str, split_logits: SplitLogits, taps: tuple[str, ...]) -> MeasuredOutputs:
    """Load the choice from the cache, or measure the outputs for a sample."""
    network, sample = split_logits.network, sample_examples(split_logits.dataset.train)
    if split_logits.folder is not None and split_logits.base is not None:
        document = load_decision(split_logits.folder, _decision_components(precision, split_logits, taps))
        if document is not None:
            return MeasuredOutputs.from_json(document)
    filling = make_filling(
        split_logits.context, len(sample), "a sample of the examples", patience_seconds=PATIENCE_SECONDS
    )
    choice = choose_precision(precision, network, sample, taps=taps, on_batch=filling.on_examples)
    storage = choose_storage(choice.outputs, output_kind=network.output_kind)
    split_logits.store(SAMPLE_SPLIT, sample, choice.outputs[LOGITS])
    texts = (f"the teacher computes in {choice.text}", f"outputs are stored as {storage.text}")
    measured = MeasuredOutputs(choice.precision, storage.specs, texts, choice.outputs)
    _store_measured(precision, measured, split_logits, taps)
    return measured


def _store_measured(
    requested: str, measured: MeasuredOutputs, split_logits: SplitLogits, taps: tuple[str, ...]
) -> None:
    """Store a choice for the requested precision, and for the chosen one, which a resumed run requests."""
    if split_logits.folder is None or split_logits.base is None or split_logits.context.dry_run:
        return
    for precision in {requested, measured.precision}:
        components = _decision_components(precision, split_logits, taps)
        store_decision(split_logits.folder, components, measured.to_json())


def _decision_components(precision: str, split_logits: SplitLogits, taps: tuple[str, ...]) -> dict[str, Any]:
    sample = sample_examples(split_logits.dataset.train)
    views, memo = create_identity_views(sample), split_logits.context.memo
    examples = split_components(SAMPLE_SPLIT, sample, views, memo)
    return {**(split_logits.base or {}), **examples, "asked": precision, "taps": ", ".join(taps)}
