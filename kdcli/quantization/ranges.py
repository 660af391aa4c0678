"""The ranges of an 8-bit model: measured on examples, rounded to, and trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras, ops, tf
from kdcli.models.keras.layers import wrap_calls
from kdcli.quantization.folded_model import WEIGHTED
from kdcli.quantization.placement import Fixed, RangePlacement
from kdcli.tensors import Batches, KerasModel, Tensor, Variable

# The largest of the numbers by which 8 bits stand for values.
_LARGEST = 255
_SMALLEST = 1e-6
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
    inputs: Sequence[tuple[float, float] | None] = (),
) -> Ranges:
    """Measure the smallest and the largest value of each range on examples.

    Args:
        model: from `fold_model`.
        placement: of its ranges.
        batches: preprocessed examples.
        inputs: the bounds of each input that are known, in order; None where they are measured too.
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
    bounds = np.tile(np.array([0.0, _SMALLEST], np.float32), (len(placement.ranges), 1))
    for batch in batches():
        for bound, found in zip(bounds, function(batch), strict=True):
            values = np.asarray(found)
            bound[:] = min(bound[0], values[:, 0].min()), max(bound[1], values[:, 1].max())
    for place, known in zip(placement.inputs, inputs, strict=False):
        if known is not None:
            bounds[place] = min(known[0], 0.0), max(known[1], _SMALLEST)
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
        place, joined = placement.outputs[operation.name], placement.joined.get(operation.name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if joined is not None:
                args = keras.tree.map_structure(lambda one: change(joined, one), args)
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

    with _replace_kernels(_list_rounded(model, placement), kernels), wrap_outputs(model, placement, change):
        yield round_inputs


def round_kernels(model: KerasModel, placement: RangePlacement) -> dict[str, np.ndarray]:
    """The rounded kernels of a folded model, by name of the layer.

    A file gets them as constants: the converter rounds them to the same values, and it supports no rounding
    operation in front of the transposed kernel of a Dense layer.
    """
    layers = _list_rounded(model, placement)
    return {layer.name: ops.convert_to_numpy(round_kernel(layer, layer.kernel)) for layer in layers}


def _list_rounded(model: KerasModel, placement: RangePlacement) -> list[Any]:
    return [one for one in model.layers if type(one).__name__ in WEIGHTED and one.name not in placement.floats]


@contextmanager
def _replace_kernels(layers: Sequence[Any], kernels: Mapping[str, np.ndarray] | None) -> Iterator[None]:
    def wrap(number: int, original: Any) -> Any:
        layer = layers[number]

        def call(*args: Any, **kwargs: Any) -> Any:
            kernel = layer.kernel
            value = round_kernel(layer, kernel) if kernels is None else ops.convert_to_tensor(kernels[layer.name])
            with keras.StatelessScope(state_mapping=[(kernel, value)]):
                return original(*args, **kwargs)

        return call

    with wrap_calls(layers, wrap):
        yield


def round_kernel(layer: Any, kernel: Tensor) -> Tensor:
    """A kernel rounded to 8 bits, symmetric and in a narrow range, for each output channel; the gradient passes.

    Jacob et al. 2018, arXiv:1712.05877; per channel as in Krishnamoorthi 2018, arXiv:1806.08342.
    """
    value, shape = ops.convert_to_tensor(kernel), tuple(kernel.shape)
    if type(layer).__name__ == "DepthwiseConv2D":
        value = ops.reshape(value, (*shape[:2], shape[2] * shape[3]))
    axis = WEIGHTED[type(layer).__name__] % len(value.shape)
    others = [one for one in range(len(value.shape)) if one != axis]
    bound = ops.stop_gradient(ops.maximum(ops.max(ops.abs(value), axis=others), _SMALLEST))
    rounded = keras.quantizers.fake_quant_with_min_max_vars(value, -bound, bound, narrow_range=True, axis=axis)
    return ops.reshape(rounded, shape)


def _add_gradient(rounded: Tensor, tensor: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Rounded values with another gradient: that of the converter's operation never makes bounds narrower.

    Esser et al. 2019, arXiv:1902.08153: the error of rounding inside of the bounds tells them to become narrower.
    """
    scale = (high - low) / _LARGEST
    zero = _round_straight_through(-low / scale)
    number = ops.clip(_round_straight_through(tensor / scale) + zero, 0, _LARGEST)
    result = (number - zero) * scale
    return result + ops.stop_gradient(rounded - result)


def _round_straight_through(value: Tensor) -> Tensor:
    return value + ops.stop_gradient(ops.floor(value + 0.5) - value)
