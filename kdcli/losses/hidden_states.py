"""Hidden states: the student's states after a transformer block imitate the teacher's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import cosine, per_example
from kdcli.formulas.layer_pairs import pair_equal_features
from kdcli.formulas.masks import MaskedLoss, mask_weights
from kdcli.lazy import ops
from kdcli.tensors import Tensor


class HiddenStates(MaskedLoss):
    """Mean of (student − teacher)² over the states of a sequence, or of 1 − cos; pairs are summed.

    A dense projection maps the student's states to the teacher's width. With `mask`, the mean is over the unmasked
    tokens of the whole batch. Patient distillation compares the first token only: its loss is twice the cosine
    distance with a mask that selects that token.

    Shapes: student, teacher (batch, steps, channels), equal after projection, or (batch, channels), or lists; mask
    (batch, steps) → (batch,).

    Args:
        distance: `mse` or `cosine`.
        mask_input: name of a data input (examples, tokens), such as a padding mask or token ids with 0 for
            padding; tokens with the value 0 are ignored. Without it, all tokens count.

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("hidden_states")
        >>> float(loss(student=[[[1.0], [3.0]]], teacher=[[[1.0], [1.0]]], mask=[[1, 0]])[0])
        0.0
    """

    known_as: ClassVar[str] = "TinyBERT, PKD"
    paper: ClassVar[str] = "Jiao et al. 2019, arXiv:1909.10351"
    notes: ClassVar[tuple[str, ...]] = (
        "Patient distillation (PKD) is `{kind: hidden_states, distance: cosine}` on the first token.",
    )
    projects: ClassVar[bool] = True
    axes: ClassVar[tuple[int, ...]] = (2, 1)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    shape_text: ClassVar[str] = (
        "student, teacher (batch, steps, channels), or lists; mask (batch, steps) → (batch,)"
    )

    kind: Literal["hidden_states"] = "hidden_states"
    distance: Literal["mse", "cosine"] = "mse"

    def __call__(self, *, student: Tensor, teacher: Tensor, mask: Tensor = None, **_: Any) -> Tensor:
        """Return the distance per example.

        Args:
            student, teacher: states, or lists of them.
            mask: 1 for tokens that count, 0 for padding; without it, all tokens count.
        """
        total = 0.0
        for feature, target in pair_equal_features(student, teacher):
            target = ops.stop_gradient(target)
            if self.distance == "mse":
                apart = ops.mean(ops.square(feature - target), axis=-1)
            else:
                apart = 1.0 - cosine(feature, target)
            total = total + per_example(apart if mask is None else apart * mask_weights(mask, apart))
        return total
