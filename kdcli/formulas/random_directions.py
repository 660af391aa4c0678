"""Examples to be told apart from the batch's own."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import keras, ops


def sample_negatives(index: Any, others: int, *, examples: int, draws: Any) -> Any:
    """Each place of a memory, followed by places of other examples: (batch,) → (batch, 1 + others).

    Args:
        index: places of the batch's examples.
        others: how many are drawn for each, any of them more than once; all there are, each once, where as many
            are asked for.
        examples: places in the memory.
        draws: the random state, which moves on.
    """
    if others >= examples - 1:
        steps = ops.arange(1, examples, dtype="int32")[None]
    else:
        steps = keras.random.randint((index.shape[0], others), 1, examples, dtype="int32", seed=draws)
    return ops.concatenate([index[:, None], (index[:, None] + steps) % examples], axis=1)
