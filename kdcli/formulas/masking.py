"""Which tokens count: padding has no part in a mean."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import ops
from kdcli.loss import FeatureLoss


class MaskedLoss(FeatureLoss):
    """A loss between features of sequences, of which some tokens are padding.

    Args:
        mask_input: name of an input of the data, (examples, tokens): tokens count where it is not 0. A padding
            mask, or token ids with 0 for padding; all tokens count when left out.
    """

    mask_input: str | None = None


def mask_weights(mask: Any, like: Any) -> Any:
    """The mask divided by its mean: a mean with these weights is one over what counts in the whole batch.

    Args:
        mask: (batch, ...) of 1 for what counts and 0 for what does not; nothing may count.
        like: a tensor of the shape that the mask must have.

    Raises:
        ValueError: another shape.
    """
    mask = ops.cast(mask, like.dtype)
    if len(mask.shape) != len(like.shape) or tuple(mask.shape[1:]) != tuple(like.shape[1:]):
        raise ValueError(f"a mask of {tuple(mask.shape)} does not fit {tuple(like.shape)}")
    counted = ops.mean(mask)
    return mask / ops.where(counted > 0, counted, ops.ones_like(counted))
