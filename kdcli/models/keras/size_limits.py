"""Size limits for a file while it is opened: weights that it has values for, and tensors that fit in memory.

The size of a layer depends on all layers before it, and is known only when it is built. So the model is built, and
stopped at the first weight for which the file cannot have a value.
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
from kdcli.tensors import KerasModel, Shape


@contextmanager
def limit_weights(held: int, *, name: str) -> Iterator[None]:
    """Stop layers that are built in the block from creating more weights than a file can fill.

    Other threads are not affected.

    Args:
        held: number of values in the file's weights.
        name: what messages call the file.

    Raises:
        ModelError: from the layer that would create too many weights, before it allocates them.
    """
    layer, thread, left = keras.layers.Layer, get_ident(), WEIGHTS_PER_VALUE * held + SPARE_WEIGHTS
    original = layer.add_weight

    def add_weight(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal left
        if get_ident() == thread:
            shape = args[0] if args else options.get("shape")
            left -= _count_values(shape)
            if left < 0:
                raise ModelError(
                    f"{name}: refused, size: the layer {self.name!r:.80} needs a weight of shape {shape}, "
                    f"but the whole file holds {held:,} values",
                    hint=TRUST_HINT,
                )
        return original(self, *args, **options)

    layer.add_weight = add_weight
    try:
        yield
    finally:
        layer.add_weight = original


def _count_values(shape: Any) -> int:
    sides = shape if isinstance(shape, list | tuple) else (shape,)
    return prod(int(side) for side in sides if side is not None)


# 1 GiB in float32.
_MAX_VALUES_PER_EXAMPLE = 2**28


def check_tensor_sizes(model: KerasModel, name: str) -> None:
    """Refuse a model whose layers enlarge their inputs too much, such as ten successive up-samplings.

    Tensors without a known shape, as in models that are not graphs of layers, are not checked.

    Args:
        model: the model.
        name: what messages call the file.

    Raises:
        ModelError: with the first layer whose output is too large.
    """
    for operation in _find_operations(model):
        for shape in _get_output_shapes(operation):
            # Axes of unknown size, such as the batch, count as 1.
            if prod(side for side in shape if side) > _MAX_VALUES_PER_EXAMPLE:
                text = "×".join("?" if side is None else str(side) for side in shape)
                raise ModelError(
                    f"{name}: refused, size: the output of the layer {operation.name!r:.80} has shape {text:.80}",
                    hint=TRUST_HINT,
                )


def _find_operations(model: Any) -> Iterator[Any]:
    waiting, seen = [model], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # Graphs of layers have operations; other models and wrappers have layers.
        inside = getattr(one, "operations", None) or getattr(one, "layers", None) or []
        waiting += reversed(inside)


def _get_output_shapes(operation: Any) -> list[Shape]:
    try:
        output = operation.output
    # The operation was never called, was called several times, or was built without a graph.
    except (AttributeError, ValueError):
        return []
    outputs = (
        output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else [output]
    )
    return [tuple(one.shape) for one in outputs if getattr(one, "shape", None) is not None]
