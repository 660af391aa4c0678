"""What a look at some of a teacher's answers tells: its precision, and the types in which they are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcli.cache.decisions import recall, remember
from kdcli.cache.entry import ArraySpec
from kdcli.data.views import as_they_are
from kdcli.distillation.precision_choice import choose_precision
from kdcli.distillation.storage_choice import choose_storage
from kdcli.models.prediction import LOGITS
from kdcli.workflows.fingerprints import split_components
from kdcli.workflows.plain_answers import PATIENCE, SAMPLE_SPLIT, PlainAnswers, filling_in, sample_of


@dataclass(frozen=True)
class Measured:
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
    def from_json(cls, document: dict[str, Any]) -> Measured:
        """What the cache remembered."""
        arrays = tuple(ArraySpec(name, dtype, tuple(shape)) for name, dtype, shape in document["arrays"])
        return cls(document["precision"], arrays, tuple(document["texts"]))


def measure_answers(precision: str, plain: PlainAnswers, taps: tuple[str, ...]) -> Measured:
    """Precision and types, as the chief of several workers finds them."""
    own: list[Measured] = []

    def look() -> dict[str, Any]:
        own.append(_look(precision, plain, taps))
        return own[0].to_json()

    document = plain.around.workers.share(look)
    return own[0] if own else Measured.from_json(document)


def remember_measured(asked: str, measured: Measured, plain: PlainAnswers, taps: tuple[str, ...]) -> None:
    """Let the cache remember a choice for what was asked, and for what it became: a resumed run asks for that."""
    if plain.folder is not None and plain.base is not None and not plain.around.dry_run:
        for precision in {asked, measured.precision}:
            remember(plain.folder, _follows_from(precision, plain, taps), measured.to_json())


def _look(precision: str, plain: PlainAnswers, taps: tuple[str, ...]) -> Measured:
    """Precision and types, from what the cache remembers or from answers to some examples."""
    network, sample = plain.opened.network, sample_of(plain.dataset.train)
    if plain.folder is not None and plain.base is not None:
        remembered = recall(plain.folder, _follows_from(precision, plain, taps))
        if remembered is not None:
            return Measured.from_json(remembered)
    told = filling_in(plain.around, len(sample), "a sample of the examples", patience=PATIENCE).on_examples
    choice = choose_precision(precision, network, sample, taps=taps, on_batch=told)
    storage = choose_storage(choice.answers, head=network.head)
    plain.known(SAMPLE_SPLIT, sample, choice.answers[LOGITS])
    texts = (f"the teacher answers in {choice.text}", f"answers are kept as {storage.text}")
    measured = Measured(choice.precision, storage.specs, texts, choice.answers)
    remember_measured(precision, measured, plain, taps)
    return measured


def _follows_from(precision: str, plain: PlainAnswers, taps: tuple[str, ...]) -> dict[str, Any]:
    sample = sample_of(plain.dataset.train)
    examples = split_components(SAMPLE_SPLIT, sample, as_they_are(sample), plain.around.once)
    return {**(plain.base or {}), **examples, "asked": precision, "taps": ", ".join(taps)}
