"""The ranges of an 8-bit model: measured on examples, used for rounding, and trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras, ops, tf
from kdcli.models.keras.layers import wrap_calls
from kdcli.quantization.placement import Fixed, RangePlacement
from kdcli.quantization.weights import LARGEST, SMALLEST, replace_weights, round_straight_through
from kdcli.tensors import Batches, KerasModel, Tensor, Variable

# The logarithm of a bound changes faster than a weight by this factor: it may have to fall a hundredfold.
_RATE = 100.0


class Ranges:
    """Trainable ranges.

    A range starts from measured bounds and learns the logarithm of the factor by which each bound grows; Jain et
    al. 2019, arXiv:1903.08066, learn the logarithm of a threshold.

    Args:
        lows: (ranges,), at most 0.
        highs: (ranges,), at least 0.
        fixed: positions of the ranges that are not trained: those of inputs, whose values no training changes.
    """

    def __init__(self, lows: np.ndarray, highs: np.ndarray, *, fixed: Sequence[int] = ()) -> None:
        self._start = [
            keras.Variable(np.asarray(one, np.float32), trainable=False, dtype="float32", name=name)
            for one, name in ((lows, "range_lows"), (highs, "range_highs"))
        ]
        self._factors = [
            keras.Variable(np.zeros(len(lows), np.float32), dtype="float32", name=f"range_{name}_factors")
            for name in ("low", "high")
        ]
        self._rate = np.full(len(lows), _RATE, np.float32)
        self._rate[list(fixed)] = 0

    @property
    def trainable_variables(self) -> list[Variable]:
        """The logarithms of the factors."""
        return list(self._factors)

    @property
    def variables(self) -> list[Variable]:
        """The measured bounds, and the logarithms of the factors."""
        return [*self._start, *self._factors]

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The present bounds, each (ranges,)."""
        low, high = (
            start * ops.exp(factor * self._rate) for start, factor in zip(self._start, self._factors, strict=True)
        )
        return ops.convert_to_tensor(low), ops.convert_to_tensor(high)

    def to_numpy(self) -> np.ndarray:
        """The present bounds, (ranges, 2)."""
        return np.stack([ops.convert_to_numpy(one) for one in self.bounds()], axis=1)


def measure_ranges(
    model: KerasModel,
    placement: RangePlacement,
    batches: Batches,
    *,
    known: Mapping[int | Fixed, tuple[float, float]] | None = None,
) -> Ranges:
    """Measure the smallest and the largest value of each range on examples.

    Args:
        model: from `fold_model`.
        placement: of its ranges.
        batches: preprocessed examples.
        known: bounds that are not measured, by range.
    """

    def compute(batch: Any) -> list[Tensor]:
        seen: list[list[Tensor]] = [[] for _ in placement.ranges]

        def record(place: int | Fixed, tensor: Tensor) -> Tensor:
            if not isinstance(place, Fixed):
                seen[place].append(ops.stack([ops.min(tensor), ops.max(tensor)]))
            return tensor

        for place, tensor in zip(placement.inputs, keras.tree.flatten(batch), strict=True):
            record(place, tensor)
        with wrap_outputs(model, placement, record):
            model(batch, training=False)
        return [ops.stack(found) for found in seen]

    function = tf.function(compute, autograph=False, reduce_retracing=True)
    bounds = np.tile(np.array([0.0, SMALLEST], np.float32), (len(placement.ranges), 1))
    for batch in batches():
        for bound, found in zip(bounds, function(batch), strict=True):
            values = np.asarray(found)
            bound[:] = min(bound[0], values[:, 0].min()), max(bound[1], values[:, 1].max())
    for place, (low, high) in (known or {}).items():
        if not isinstance(place, Fixed):
            bounds[place] = min(low, 0.0), max(high, SMALLEST)
    return Ranges(bounds[:, 0], bounds[:, 1], fixed=placement.inputs)


@contextmanager
def wrap_outputs(
    model: KerasModel, placement: RangePlacement, change: Callable[[int | Fixed, Tensor], Tensor]
) -> Iterator[None]:
    """Change what layers return, during the block.

    Args:
        model: its layers.
        placement: which layers, with which range.
        change: from a range and a tensor to the tensor that takes its place; not called for fixed ranges whose
            activation is skipped.
    """
    operations = [one for one in model.operations if one.name in placement.outputs]

    def wrap(number: int, original: Any) -> Any:
        operation = operations[number]
        place = placement.outputs[operation.name]

        def call(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            if isinstance(place, Fixed) and is_skipped(operation):
                return output
            return change(place, output)

        return call

    with wrap_calls(operations, wrap):
        yield


def is_skipped(operation: Any) -> bool:
    """Whether an activation layer returns its input, so that logits come out."""
    return vars(operation).get("activation") is keras.activations.linear


@contextmanager
def round_calls(
    model: KerasModel,
    placement: RangePlacement,
    ranges: Ranges,
    *,
    training: bool = False,
    kernels: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Callable[[Any], Any]]:
    """Let a folded model compute with rounded kernels and outputs, during the block.

    Args:
        model: from `fold_model`.
        placement, ranges: of it.
        training: whether bounds get a gradient from values inside of them too.
        kernels: from `round_kernels`; by default the kernels of the model are rounded at each call.

    Yields:
        A function that rounds the inputs of the model.
    """
    lows, highs = ranges.bounds()

    def change(place: int | Fixed, tensor: Tensor) -> Tensor:
        low, high = place if isinstance(place, Fixed) else (lows[place], highs[place])
        rounded = keras.quantizers.fake_quant_with_min_max_vars(tensor, low, high)
        return _add_gradient(rounded, tensor, low, high) if training else rounded

    def round_inputs(inputs: Any) -> Any:
        tensors = zip(placement.inputs, keras.tree.flatten(inputs), strict=True)
        return keras.tree.pack_sequence_as(inputs, [change(place, tensor) for place, tensor in tensors])

    def find_scale(place: int | Fixed) -> Tensor:
        low, high = place if isinstance(place, Fixed) else (lows[place], highs[place])
        return (high - low) / LARGEST

    with replace_weights(model, placement, find_scale, kernels), wrap_outputs(model, placement, change):
        yield round_inputs


def _add_gradient(rounded: Tensor, tensor: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Rounded values with another gradient: that of the converter's operation never makes bounds narrower.

    Esser et al. 2019, arXiv:1902.08153: the rounding error inside the bounds narrows them.
    """
    scale = (high - low) / LARGEST
    zero = round_straight_through(-low / scale)
    number = ops.clip(round_straight_through(tensor / scale) + zero, 0, LARGEST)
    result = (number - zero) * scale
    return result + ops.stop_gradient(rounded - result)
