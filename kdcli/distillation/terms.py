"""The terms of an objective: each loss with its pairs of layers, projections and parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdcli.distillation.pairing import Pair, pair_layers
from kdcli.distillation.projection import Projection, make_projection
from kdcli.errors import ModelError, UsageError, did_you_mean
from kdcli.formulas.masks import MaskedLoss
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Loss, Parts
from kdcli.models.keras.batch_norm import find_normalization, list_normalized_taps
from kdcli.models.network import Network
from kdcli.tensors import Shape, Tensor, Variable


@dataclass(frozen=True)
class Term:
    """One loss with its pairs of layers, a projection for each pair, and its parts."""

    loss: Loss
    pairs: tuple[Pair, ...] = ()
    projections: tuple[Projection | None, ...] = field(default=())
    parts: Parts = NO_PARTS

    @property
    def taps(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The student's and the teacher's taps."""
        return select_taps(self.loss, self.pairs)

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that learn with the student."""
        projected = [variable for part in self.projections if part for variable in part.variables]
        return [variable for variable in projected if variable.trainable] + self.parts.trainable_variables

    @property
    def variables(self) -> list[Variable]:
        """All variables of the projections and parts, as stored in checkpoints."""
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
    """Pair layers, make projections for the traced shapes, and build the losses' parts.

    Args:
        losses: losses of the recipe.
        student, teacher: the two networks; the teacher is None if no loss needs one.
        examples: number of training examples, for memories by index.
        batch: number of examples in a batch.
        seed: RNG seed for the parts; each loss has its own.

    Raises:
        UsageError: a named layer or input does not exist.
        ModelError: features cannot be matched.
    """
    terms = []
    for number, loss in enumerate(losses):
        pairs: tuple[Pair, ...] = ()
        projections: tuple[Projection | None, ...] = ()
        ours: list[Shape] = [student.output_shape]
        theirs: list[Shape] = [teacher.output_shape] if teacher is not None else []
        if isinstance(loss, FeatureLoss) and not loss.on_logits:
            assert teacher is not None
            _check_mask(loss, student)
            pairs = pair_layers(loss, student=student, teacher=teacher)
            projections, ours, theirs = _project(loss, pairs, student=student, teacher=teacher)
        parts = NO_PARTS
        # A loss that grows the student has its layers in the student already.
        if loss.has_parts and not (isinstance(loss, FeatureLoss) and loss.grows_student):
            given = Given(
                tuple(ours),
                tuple(theirs),
                examples=examples,
                batch=batch,
                seed=seed + number,
                normalizations=_find_normalizations(loss, pairs, teacher),
            )
            parts = _build_parts(loss, given)
        terms.append(Term(loss, pairs=pairs, projections=projections, parts=parts))
    return tuple(terms)


def _project(
    loss: FeatureLoss, pairs: Sequence[Pair], *, student: Network, teacher: Network
) -> tuple[tuple[Projection | None, ...], list[Shape], list[Shape]]:
    """The projection of each pair, and the shapes of both sides' features after it."""
    our_taps, their_taps = select_taps(loss, pairs)
    ours, theirs = [student.taps[name] for name in our_taps], [teacher.taps[name] for name in their_taps]
    if not loss.projects:
        return (None,) * len(pairs), ours, theirs
    images = any(len(spec.shape) == 3 for spec in student.inputs)
    projections = []
    for place, pair in enumerate(pairs):
        name = f"losses.{loss.label}: {pair.student} → {pair.teacher}"
        projection = make_projection(ours[place], theirs[place], pair=name, images=images)
        projections.append(projection)
        if projection is not None:
            ours[place] = theirs[place] = projection.shape
    return tuple(projections), ours, theirs


def _build_parts(loss: Loss, given: Given) -> Parts:
    parts = loss.build(given)
    if not isinstance(parts, Parts):
        raise ModelError(
            f"losses.{loss.label}: build returns {type(parts).__name__}, not Parts",
            hint="return kdcli.Parts({name: layers}); docs/custom-kinds.md",
        )
    return parts


def _check_mask(loss: FeatureLoss, student: Network) -> None:
    """Refuse a mask input that the data does not have.

    Raises:
        UsageError: the input does not exist; the message lists the existing ones.
    """
    name = loss.mask_input if isinstance(loss, MaskedLoss) else None
    if name is not None and name not in student.preprocessing:
        suggestion = did_you_mean(name, student.preprocessing)
        raise UsageError(
            f"losses.{loss.label}.mask_input: the data has no input {name!r}; {suggestion}"
            f"inputs: {', '.join(student.preprocessing)}",
            hint=f"kd losses show {loss.kind}",
        )


def _find_normalizations(
    loss: Loss, pairs: Sequence[Pair], teacher: Network | None
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Scale and shift of the batch normalisation of each teacher feature, for losses that need them.

    Raises:
        ModelError: a feature has no batch normalisation.
    """
    if teacher is None or not (isinstance(loss, FeatureLoss) and loss.needs_normalization):
        return ()
    found = [find_normalization(teacher, pair.teacher) for pair in pairs]
    missing = [pair.teacher for pair, one in zip(pairs, found, strict=True) if one is None]
    if missing:
        known = list_normalized_taps(teacher)
        raise ModelError(
            f"losses.{loss.label}: the teacher ({teacher.name}) has no batch normalisation at {missing[0]}, "
            "which the margins are computed from",
            hint=f"--set losses.{loss.label}.teacher_layer={known[-1]}, and a student_layer for it"
            if known
            else "kd finds no batch normalisation in this teacher: hint compares features of any kind",
        )
    return tuple(one for one in found if one is not None)


def select_taps(loss: Loss, pairs: Sequence[Pair]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the student's and the teacher's taps that a loss compares.

    Args:
        loss: decides whether a tap occurs once per pair, or once in total.
        pairs: pairs of the loss.
    """
    ours, theirs = (pair.student for pair in pairs), (pair.teacher for pair in pairs)
    if isinstance(loss, FeatureLoss) and loss.all_with_all:
        return tuple(dict.fromkeys(ours)), tuple(dict.fromkeys(theirs))
    return tuple(ours), tuple(theirs)


def list_teacher_taps(terms: Sequence[Term]) -> tuple[str, ...]:
    """List the teacher taps that the terms need, each once."""
    return tuple(dict.fromkeys(pair.teacher for term in terms for pair in term.pairs))
