"""Masks of sequences: padding tokens are excluded from means."""

from __future__ import annotations

from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.tensors import Tensor


class MaskedLoss(FeatureLoss):
    """A loss between features of sequences with padding tokens.

    Args:
        mask_input: name of a data input (examples, tokens), such as a padding mask or token ids with 0 for
            padding; tokens with the value 0 are ignored. Without it, all tokens count.
    """

    mask_input: str | None = None


def mask_weights(mask: Tensor, like: Tensor) -> Tensor:
    """Divide a mask by its mean: a mean with these weights is the mean over the unmasked values of the batch.

    Args:
        mask: tensor (batch, ...) of 1 for values that count and 0 for the others; may be all 0.
        like: a tensor with the shape that the mask must have.

    Raises:
        ValueError: the mask has another shape.
    """
    mask = ops.cast(mask, like.dtype)
    if len(mask.shape) != len(like.shape) or tuple(mask.shape[1:]) != tuple(like.shape[1:]):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} does not fit {tuple(like.shape)}")
    counted = ops.mean(mask)
    return mask / ops.where(counted > 0, counted, ops.ones_like(counted))
