"""The terms of an objective: each loss with its pairs of layers, projections and parts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdcli.distillation.pairing import Pair, pair_layers
from kdcli.distillation.projection import Projection, make_projection
from kdcli.errors import ModelError, UsageError, did_you_mean
from kdcli.formulas.masking import MaskedLoss
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Loss, Parts
from kdcli.models.keras.batch_norm import find_normalization, list_normalized_taps
from kdcli.models.network import Network


@dataclass(frozen=True)
class Term:
    """One loss with what it needs: pairs of layers, a projection for each of them, parts of its own."""

    loss: Loss
    pairs: tuple[Pair, ...] = ()
    projections: tuple[Projection | None, ...] = field(default=())
    parts: Parts = NO_PARTS

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The student's and the teacher's taps: pair by pair, or each once where all meet all."""
        return select_taps(self.loss, self.pairs)

    @property
    def trainable_variables(self) -> list[Any]:
        """What learns with the student."""
        projected = [variable for part in self.projections if part for variable in part.variables]
        return [variable for variable in projected if variable.trainable] + self.parts.trainable_variables

    @property
    def variables(self) -> list[Any]:
        """Everything of the term's own that a checkpoint holds."""
        return [v for part in self.projections if part for v in part.variables] + self.parts.variables


def build_terms(
    losses: Sequence[Loss],
    *,
    student: Network,
    teacher: Network | None,
    examples: int = 1,
    batch: int = 1,
    seed: int = 0,
) -> tuple[Term, ...]:
    """Pair layers, size projections from traced shapes, build what a loss owns.

    Args:
        losses: of the recipe.
        student, teacher: the two sides; no teacher where no loss asks for one.
        examples: for training, for memories by index.
        batch: examples in a batch.
        seed: of what is drawn.

    Raises:
        UsageError: a layer that does not exist.
        ModelError: features that cannot be matched.
    """
    terms = []
    for number, loss in enumerate(losses):
        pairs: tuple[Pair, ...] = ()
        projections: list[Projection | None] = []
        ours: list[Any] = [student.output_shape]
        theirs: list[Any] = [teacher.output_shape] if teacher is not None else []
        if isinstance(loss, FeatureLoss) and not loss.on_logits:
            assert teacher is not None
            _check_mask(loss, student)
            pairs = pair_layers(loss, student=student, teacher=teacher)
            taps = select_taps(loss, pairs)
            ours, theirs = [student.taps[name] for name in taps[0]], [teacher.taps[name] for name in taps[1]]
            pictures = any(len(spec.shape) == 3 for spec in student.inputs)
            for place, pair in enumerate(pairs):
                name = f"losses.{loss.label}: {pair.student} → {pair.teacher}"
                made = None
                if loss.projects:
                    made = make_projection(ours[place], theirs[place], pair=name, images=pictures)
                projections.append(made)
                if made is not None:
                    ours[place] = theirs[place] = made.shape
        parts = NO_PARTS
        # What the student has grown by is a part of it already.
        if loss.has_parts and not (isinstance(loss, FeatureLoss) and loss.grows_student):
            given = Given(
                tuple(ours),
                tuple(theirs),
                examples=examples,
                batch=batch,
                seed=seed + number,
                normalizations=_normalizations(loss, pairs, teacher),
            )
            parts = loss.build(given)
            if not isinstance(parts, Parts):
                raise ModelError(
                    f"losses.{loss.label}: build gives {type(parts).__name__}, not Parts",
                    hint="return kdcli.Parts({name: layers}); docs/custom-kinds.md",
                )
        terms.append(Term(loss, pairs, tuple(projections), parts))
    return tuple(terms)


def _check_mask(loss: FeatureLoss, student: Network) -> None:
    """Refuse a mask that the data does not hold.

    Raises:
        UsageError: with the inputs that it does.
    """
    name = loss.mask_input if isinstance(loss, MaskedLoss) else None
    if name is not None and name not in student.preprocessing:
        suggestion = did_you_mean(name, student.preprocessing)
        raise UsageError(
            f"losses.{loss.label}.mask_input: the data has no input {name!r}; {suggestion}"
            f"inputs: {', '.join(student.preprocessing)}",
            hint=f"kd losses show {loss.kind}",
        )


def _normalizations(loss: Loss, pairs: Sequence[Pair], teacher: Network | None) -> tuple[Any, ...]:
    """The scale and shift of the batch normalisation behind each of the teacher's features, where they count.

    Raises:
        ModelError: a feature that comes out of none.
    """
    if teacher is None or not (isinstance(loss, FeatureLoss) and loss.needs_normalization):
        return ()
    found = [find_normalization(teacher, pair.teacher) for pair in pairs]
    missing = [pair.teacher for pair, one in zip(pairs, found, strict=True) if one is None]
    if missing:
        known = list_normalized_taps(teacher)
        raise ModelError(
            f"losses.{loss.label}: {missing[0]} of the teacher ({teacher.name}) does not come out of batch "
            "normalisation, which the margins are taken from",
            hint=f"--set losses.{loss.label}.teacher_layer={known[-1]}, and a student_layer for it"
            if known
            else "this teacher has none that kd can see: hint compares features of any kind",
        )
    return tuple(found)


def select_taps(loss: Loss, pairs: Sequence[Pair]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The taps of both sides that a loss compares.

    Args:
        loss: decides whether a layer comes once for each pair, or once.
        pairs: of the loss.
    """
    ours, theirs = (pair.student for pair in pairs), (pair.teacher for pair in pairs)
    if isinstance(loss, FeatureLoss) and loss.all_with_all:
        return tuple(dict.fromkeys(ours)), tuple(dict.fromkeys(theirs))
    return tuple(ours), tuple(theirs)


def list_teacher_taps(terms: Sequence[Term]) -> tuple[str, ...]:
    """The teacher's features that the terms ask for, each once."""
    return tuple(dict.fromkeys(pair.teacher for term in terms for pair in term.pairs))
