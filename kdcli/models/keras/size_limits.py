"""The most weights that a file may make while it is opened: those that it holds values for.

What a layer makes follows from all layers before it, and is known only when it is built. So it is built, and ended
at the first weight for which the file can have no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from threading import get_ident
from typing import Any

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.screening.keras.weights import SPARE_WEIGHTS, WEIGHTS_PER_VALUE
from kdcli.screening.verdict import TRUST_HINT


@contextmanager
def limit_weights(held: int, *, name: str) -> Iterator[None]:
    """Within the block, layers make no more weights than a file can fill; other threads are left alone.

    Args:
        held: values in the file's weights.
        name: of the file, for the message.

    Raises:
        ModelError: from the layer that would make too many, before it allocates them.
    """
    layer, thread, left = keras.layers.Layer, get_ident(), WEIGHTS_PER_VALUE * held + SPARE_WEIGHTS
    original = layer.add_weight

    def add_weight(self: Any, *args: Any, **more: Any) -> Any:
        nonlocal left
        if get_ident() == thread:
            shape = args[0] if args else more.get("shape")
            left -= _count(shape)
            if left < 0:
                raise ModelError(
                    f"{name}: refused, size: the layer {self.name!r:.80} asks for a weight of shape {shape}, "
                    f"the whole file holds {held} values",
                    hint=TRUST_HINT,
                )
        return original(self, *args, **more)

    layer.add_weight = add_weight
    try:
        yield
    finally:
        layer.add_weight = original


def _count(shape: Any) -> int:
    sides = shape if isinstance(shape, list | tuple) else (shape,)
    return prod(int(side) for side in sides if side is not None)


# Values for one example: 1 GB in float32.
_MAX_VALUES_PER_EXAMPLE = 2**28


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
            if prod(side for side in shape if side) > _MAX_VALUES_PER_EXAMPLE:
                told = "×".join("?" if side is None else str(side) for side in shape)
                raise ModelError(
                    f"{name}: refused, size: the layer {operation.name!r:.80} answers in the shape {told:.80}",
                    hint=TRUST_HINT,
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
