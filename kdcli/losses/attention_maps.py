"""Attention maps: the student's heads attend to what the teacher's attend to."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kdcli.formulas.convention import per_example
from kdcli.formulas.masking import MaskedLoss, mask_weights
from kdcli.formulas.matching import pair_features
from kdcli.lazy import ops

# A score below this stands for a masked key in the published code, and counts as 0.
MASKED = -1e-3
# Below this a probability carries no information in float32, and its logarithm would run away.
SMALLEST = 1e-7


class AttentionMaps(MaskedLoss):
    """Mean of (student − teacher)² over heads, queries and keys, or of the cross-entropy over the keys.

    Pairs are summed. As in TextBrewer, scores are from before the softmax, and one of −0.001 or less counts as 0:
    in both maps of `mse` without a mask, in the teacher's distribution of `cross_entropy` without one. With `mask`
    only queries and keys that count do, and the mean is over those of the whole batch. A Keras model shows
    probabilities (the softmax inside `MultiHeadAttention`): say `given: probabilities` there.

    Shapes: student, teacher (batch, heads, queries, keys), or lists of them; mask (batch, tokens) → (batch,).

    Args:
        distance: `mse` or `cross_entropy`.
        merge: what is done over the heads first: `none`, `mean`, `sum`; `auto` is `mean` where student and
            teacher differ in number, else `none`.
        given: `scores` from before the softmax, or `probabilities`.
        mask_input: name of an input of the data, (examples, tokens): tokens count where it is not 0. A padding
            mask, or token ids with 0 for padding; all tokens count when left out.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("attention_maps")
        >>> float(loss(student=[[[[1.0, 0.0]]]], teacher=[[[[0.0, 1.0]]]])[0])
        1.0
    """

    known_as: ClassVar[str] = "TinyBERT, MobileBERT"
    paper: ClassVar[str] = "Jiao et al. 2019, arXiv:1909.10351"
    notes: ClassVar[tuple[str, ...]] = (
        "MobileBERT's is `{kind: attention_maps, distance: cross_entropy}`, TinyBERT's the default.",
    )
    axes: ClassVar[tuple[int, ...]] = (3,)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    equal: ClassVar[tuple[str, ...]] = ("channels", "space")
    attention_scores: ClassVar[bool] = True
    # A cross-entropy is the teacher's entropy at its best.
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, heads, queries, keys); mask (batch, tokens) → (batch,)"

    kind: Literal["attention_maps"] = "attention_maps"
    distance: Literal["mse", "cross_entropy"] = "mse"
    merge: Literal["auto", "none", "mean", "sum"] = "auto"
    given: Literal["scores", "probabilities"] = "scores"

    @model_validator(mode="after")
    def _probabilities_are_not_summed(self) -> AttentionMaps:
        if (self.distance, self.merge, self.given) == ("cross_entropy", "sum", "probabilities"):
            raise ValueError("merge: sum makes no probabilities of probabilities; merge: mean does")
        return self

    def __call__(self, *, student: Any, teacher: Any, mask: Any = None, **_: Any) -> Any:
        """The distance, per example.

        Args:
            student, teacher: maps, or lists of them.
            mask: 1 for tokens that count, 0 for padding; all count when left out.
        """
        total = 0.0
        for ours, theirs in pair_features(student, teacher):
            ours, theirs = self._merged(ours, ops.stop_gradient(theirs))
            if tuple(ours.shape[1:]) != tuple(theirs.shape[1:]):
                raise ValueError(
                    f"student map {tuple(ours.shape)} and teacher map {tuple(theirs.shape)} differ; the numbers "
                    "of queries and keys must be equal, and those of heads with merge: none"
                )
            apart = self._squares if self.distance == "mse" else self._entropies
            total = total + per_example(apart(ours, theirs, mask))
        return total

    def _merged(self, student: Any, teacher: Any) -> tuple[Any, Any]:
        merge = self.merge
        if merge == "auto":
            merge = "none" if student.shape[1] == teacher.shape[1] else "mean"
        if merge == "none":
            return student, teacher
        over = ops.mean if merge == "mean" else ops.sum
        return over(student, axis=1, keepdims=True), over(teacher, axis=1, keepdims=True)

    def _squares(self, student: Any, teacher: Any, mask: Any) -> Any:
        """(batch, heads, queries, keys)."""
        if mask is None and self.given == "probabilities":
            return ops.square(student - teacher)
        if mask is None:
            return ops.square(_without_masked(student) - _without_masked(teacher))
        mask = ops.cast(mask, student.dtype)
        both = ops.expand_dims(mask, 2) * ops.expand_dims(mask, 1)
        return ops.square(student - teacher) * ops.expand_dims(mask_weights(both, student[:, 0]), 1)

    def _entropies(self, student: Any, teacher: Any, mask: Any) -> Any:
        """(batch, heads, queries)."""
        if self.given == "probabilities":
            chances, logs = ops.maximum(teacher, 0.0), ops.log(ops.clip(student, SMALLEST, 1.0))
        else:
            chances, logs = ops.softmax(teacher, axis=-1), ops.log_softmax(student, axis=-1)
            if mask is None:
                chances = ops.where(teacher <= MASKED, ops.zeros_like(chances), chances)
        if mask is None:
            return -ops.sum(chances * logs, axis=-1)
        mask = ops.cast(mask, student.dtype)
        entropies = -ops.sum(chances * logs * mask[:, None, None, :], axis=-1)
        return entropies * ops.expand_dims(mask_weights(mask, student[:, 0, :, 0]), 1)


def _without_masked(scores: Any) -> Any:
    return ops.where(scores <= MASKED, ops.zeros_like(scores), scores)
