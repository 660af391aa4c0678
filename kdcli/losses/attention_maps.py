"""Attention maps: the student's attention heads imitate the teacher's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.masks import MaskedLoss, mask_weights
from kdcli.lazy import ops
from kdcli.tensors import Tensor

# In the published code, scores up to this value stand for masked keys and count as 0.
_MASKED_SCORE = -1e-3
# Smaller probabilities carry no information in float32, and their logarithm would dominate.
_MIN_PROBABILITY = 1e-7


class AttentionMaps(MaskedLoss):
    """Mean of (student − teacher)² over heads, queries and keys, or of the cross-entropy over the keys.

    Pairs are summed. As in TextBrewer, the scores are those before the softmax, and a score of −0.001 or less
    counts as 0: in both maps of `mse` without a mask, in the teacher's distribution of `cross_entropy` without
    one. With `mask`, only unmasked queries and keys count, and the mean is over those of the whole batch. A Keras
    model exposes probabilities (the softmax inside `MultiHeadAttention`): set `given: probabilities` for it.

    Shapes: student, teacher (batch, heads, queries, keys), or lists of them; mask (batch, tokens) → (batch,).

    Args:
        distance: `mse` or `cross_entropy`.
        merge: reduction over the heads before the comparison: `none`, `mean` or `sum`; `auto` is `mean` where
            student and teacher have different numbers of heads, else `none`.
        given: `scores` from before the softmax, or `probabilities`.
        mask_input: name of a data input (examples, tokens), such as a padding mask or token ids with 0 for
            padding; tokens with the value 0 are ignored. Without it, all tokens count.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("attention_maps")
        >>> float(loss(student=[[[[1.0, 0.0]]]], teacher=[[[[0.0, 1.0]]]])[0])
        1.0
    """

    known_as: ClassVar[str] = "TinyBERT, MobileBERT"
    paper: ClassVar[str] = "Jiao et al. 2019, arXiv:1909.10351"
    notes: ClassVar[tuple[str, ...]] = (
        "`{kind: attention_maps, distance: cross_entropy}` is MobileBERT's loss, the default is TinyBERT's.",
    )
    axes: ClassVar[tuple[int, ...]] = (3,)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    equal: ClassVar[tuple[str, ...]] = ("channels", "space")
    attention_scores: ClassVar[bool] = True
    # The minimum of a cross-entropy is the teacher's entropy.
    zero_when_equal: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, heads, queries, keys); mask (batch, tokens) → (batch,)"

    kind: Literal["attention_maps"] = "attention_maps"
    distance: Literal["mse", "cross_entropy"] = "mse"
    merge: Literal["auto", "none", "mean", "sum"] = "auto"
    given: Literal["scores", "probabilities"] = "scores"

    @model_validator(mode="after")
    def _check_merge(self) -> AttentionMaps:
        if (self.distance, self.merge, self.given) == ("cross_entropy", "sum", "probabilities"):
            raise ValueError("merge: sum of probabilities is not a distribution; use merge: mean")
        return self

    def __call__(self, *, student: Tensor, teacher: Tensor, mask: Tensor = None, **_: Any) -> Tensor:
        """Return the distance per example.

        Args:
            student, teacher: attention maps, or lists of them.
            mask: 1 for tokens that count, 0 for padding; without it, all tokens count.
        """
        total = 0.0
        for ours, theirs in pair_features(student, teacher):
            ours, theirs = self._merge_heads(ours, ops.stop_gradient(theirs))
            if tuple(ours.shape[1:]) != tuple(theirs.shape[1:]):
                raise ValueError(
                    f"student map {tuple(ours.shape)} and teacher map {tuple(theirs.shape)} differ; the numbers "
                    "of queries and keys must be equal, and with merge: none also those of heads"
                )
            apart = self._squares if self.distance == "mse" else self._entropies
            total = total + per_example(apart(ours, theirs, mask))
        return total

    def _merge_heads(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        merge = self.merge
        if merge == "auto":
            merge = "none" if student.shape[1] == teacher.shape[1] else "mean"
        if merge == "none":
            return student, teacher
        over = ops.mean if merge == "mean" else ops.sum
        return over(student, axis=1, keepdims=True), over(teacher, axis=1, keepdims=True)

    def _squares(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """(batch, heads, queries, keys)."""
        if mask is None and self.given == "probabilities":
            return ops.square(student - teacher)
        if mask is None:
            return ops.square(_zero_masked(student) - _zero_masked(teacher))
        mask = ops.cast(mask, student.dtype)
        both = ops.expand_dims(mask, 2) * ops.expand_dims(mask, 1)
        return ops.square(student - teacher) * ops.expand_dims(mask_weights(both, student[:, 0]), 1)

    def _entropies(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """(batch, heads, queries)."""
        if self.given == "probabilities":
            chances, logs = ops.maximum(teacher, 0.0), ops.log(ops.clip(student, _MIN_PROBABILITY, 1.0))
        else:
            chances, logs = ops.softmax(teacher, axis=-1), ops.log_softmax(student, axis=-1)
            if mask is None:
                chances = ops.where(teacher <= _MASKED_SCORE, ops.zeros_like(chances), chances)
        if mask is None:
            return -ops.sum(chances * logs, axis=-1)
        mask = ops.cast(mask, student.dtype)
        entropies = -ops.sum(chances * logs * mask[:, None, None, :], axis=-1)
        return entropies * ops.expand_dims(mask_weights(mask, student[:, 0, :, 0]), 1)


def _zero_masked(scores: Tensor) -> Tensor:
    return ops.where(scores <= _MASKED_SCORE, ops.zeros_like(scores), scores)
