"""What a look at some of a teacher's answers tells: its precision, and the types in which they are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcli.cache.choices import recall, remember
from kdcli.cache.entry import ArraySpec
from kdcli.distillation.precision_choice import choose_precision
from kdcli.distillation.storage_choice import choose_storage
from kdcli.models.answering import LOGITS
from kdcli.workflows.fingerprints import split_components
from kdcli.workflows.plain_answers import PlainAnswers, as_they_are
from kdcli.workflows.teaching import SAMPLE_SPLIT, sample_of


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


def _look(precision: str, plain: PlainAnswers, taps: tuple[str, ...]) -> Measured:
    """Precision and types, from what the cache remembers or from answers to some examples."""
    network, sample = plain.opened.network, sample_of(plain.dataset.train)
    asked: dict[str, Any] = {}
    if plain.folder is not None and plain.base is not None:
        examples = split_components(SAMPLE_SPLIT, sample, as_they_are(sample), plain.around.once)
        asked = {**plain.base, **examples, "asked": precision, "taps": ", ".join(taps)}
        remembered = recall(plain.folder, asked)
        if remembered is not None:
            return Measured.from_json(remembered)
    choice = choose_precision(precision, network, sample, taps=taps)
    storage = choose_storage(choice.answers, head=network.head)
    plain.known(SAMPLE_SPLIT, sample, choice.answers[LOGITS])
    measured = Measured(
        choice.precision,
        storage.specs,
        (f"the teacher answers in {choice.text}", f"kept are {storage.text}"),
        choice.answers,
    )
    if plain.folder is not None and not plain.around.dry_run:
        remember(plain.folder, asked, measured.to_json())
    return measured
