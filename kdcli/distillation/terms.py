"""The terms of an objective: each loss with its pairs of layers, projections and parts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdcli.distillation.pairing import Pair, pair_layers
from kdcli.distillation.projection import Projection, make_projection
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Loss, Parts
from kdcli.models.network import Network


@dataclass(frozen=True)
class Term:
    """One loss with what it needs: pairs of layers, a projection for each of them, parts of its own."""

    loss: Loss
    pairs: tuple[Pair, ...] = ()
    projections: tuple[Projection | None, ...] = field(default=())
    parts: Parts = NO_PARTS

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
    steps: int = 1,
    seed: int = 0,
) -> tuple[Term, ...]:
    """Pair layers, size projections from traced shapes, build what a loss owns.

    Args:
        losses: of the recipe.
        student, teacher: the two sides; no teacher where no loss asks for one.
        examples: for training, for memories by index.
        steps: of the whole run.
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
        if isinstance(loss, FeatureLoss):
            assert teacher is not None
            pairs = pair_layers(loss, student=student, teacher=teacher)
            ours, theirs = [student.taps[p.student] for p in pairs], [teacher.taps[p.teacher] for p in pairs]
            for place, pair in enumerate(pairs):
                name = f"losses.{loss.label}: {pair.student} → {pair.teacher}"
                made = make_projection(ours[place], theirs[place], pair=name) if loss.projects else None
                projections.append(made)
                ours[place] = theirs[place] if made else ours[place]
        parts = NO_PARTS
        if loss.owns_parts:
            given = Given(tuple(ours), tuple(theirs), examples=examples, steps=steps, seed=seed + number)
            parts = loss.build(given)
        terms.append(Term(loss, pairs, tuple(projections), parts))
    return tuple(terms)


def teacher_taps(terms: Sequence[Term]) -> tuple[str, ...]:
    """The teacher's features that the terms ask for, each once."""
    return tuple(dict.fromkeys(pair.teacher for term in terms for pair in term.pairs))
