"""Random negative examples for contrastive losses."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import keras, ops
from kdcli.tensors import Tensor


def sample_negatives(index: Tensor, count: int, *, examples: int, draws: Any) -> Tensor:
    """Append the indices of other examples to each index: (batch,) → (batch, 1 + count).

    Args:
        index: memory indices of the batch's examples.
        count: number of negatives per example, drawn with replacement; if it is at least the number of other
            examples, each of them is used once.
        examples: number of examples in the memory.
        draws: a `keras.random.SeedGenerator`, which advances.
    """
    if count >= examples - 1:
        steps = ops.arange(1, examples, dtype="int32")[None]
    else:
        steps = keras.random.randint((index.shape[0], count), 1, examples, dtype="int32", seed=draws)
    return ops.concatenate([index[:, None], (index[:, None] + steps) % examples], axis=1)
