"""The tensors between a model's layers, before it is asked for the first time: none larger than memory bears."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from kdcli.errors import ModelError
from kdcli.screening.verdict import TRUST

# Values for one example: 1 GB in float32.
MOST = 2**28


def check_tensor_sizes(model: Any, name: str) -> None:
    """Refuse a model whose layers blow up what they are given, such as ten up-samplings one behind the other.

    What has no shape before it is asked, as in a model that is no graph of layers, is not looked at.

    Args:
        model: a `keras.Model`.
        name: of the file, for the message.

    Raises:
        ModelError: with the first layer whose output is too large.
    """
    for operation in _operations(model):
        for shape in _shapes(operation):
            # Axes of any size, such as the batch, count as one.
            if prod(side for side in shape if side) > MOST:
                told = "×".join("?" if side is None else str(side) for side in shape)
                raise ModelError(
                    f"{name}: refused, size: the layer {operation.name!r:.80} answers in the shape {told:.80}",
                    hint=TRUST,
                )


def _operations(model: Any) -> Iterator[Any]:
    waiting, seen = [model], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # A graph of layers has operations, other models and wrappers at least layers.
        inside = getattr(one, "operations", None) or getattr(one, "layers", None) or []
        waiting += reversed(inside)


def _shapes(operation: Any) -> list[tuple[int | None, ...]]:
    try:
        output = operation.output
    # Never called, called in several places, or built without a graph.
    except (AttributeError, ValueError):
        return []
    outputs = (
        output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else [output]
    )
    return [tuple(one.shape) for one in outputs if getattr(one, "shape", None) is not None]
