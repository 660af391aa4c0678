"""A network that computes as its 8-bit file will, and that can be trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing, preprocess
from kdcli.quantization.folded_model import fold_model
from kdcli.quantization.placement import Fixed, RangePlacement, place_ranges
from kdcli.quantization.ranges import Ranges, measure_ranges, round_calls
from kdcli.quantization.weights import LARGEST
from kdcli.tensors import Batches, KerasModel, Tensor, Variable

SCHEMA = "kd.ranges/1"
# A range whose zero is midway between two levels is widened by this factor. That moves even the bytes next to zero
# further from a tie than the rounded bias of the preprocessing can move them back.
_AVOIDED_TIES, _NEAR_TIE = 1.02, 0.01


class QuantizedNetwork(KerasNetwork):
    """A folded Keras model whose kernels and outputs are rounded to 8 bits, in training too.

    Rounding passes the gradient to values inside a range, and to the bounds from values outside (Jain et al. 2019,
    arXiv:1903.08066). The model itself is plain: without the ranges it computes in float32.

    Args:
        model: from `fold_model`.
        ranges: of `place_ranges(model)`.
        name, output: as for `KerasNetwork`.
    """

    def __init__(
        self, model: KerasModel, placement: RangePlacement, ranges: Ranges, *, name: str, output: str | None = None
    ) -> None:
        super().__init__(model, name=name, output=output)
        self.placement, self.ranges = placement, ranges

    @property
    def variables(self) -> list[Variable]:
        """Every variable, the ranges included."""
        return [*super().variables, *self.ranges.variables]

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that training changes, the ranges included."""
        return [*super().trainable_variables, *self.ranges.trainable_variables]

    @property
    def converts_single(self) -> bool:
        """Whether LiteRT computes a layer in 8 bits only if the batch size is fixed."""
        return any(
            max(np.ravel(getattr(layer, "dilation_rate", 1))) > 1
            or (isinstance(layer, keras.layers.Dense) and len(layer.output.shape) > 2)
            for layer in self.model.layers
        )

    def _call_model(
        self, inputs: Any, taps: Sequence[str], *, training: bool = False, bare: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with round_calls(self.model, self.placement, self.ranges, training=training) as round_inputs:
            return super()._call_model(round_inputs(inputs), taps, training=training, bare=bare)

    def describe_ranges(self) -> dict[str, Any]:
        """`kd.ranges/1`: the bounds of each range, by the first layer that has it."""
        bounds = self.ranges.to_numpy().tolist()
        return {"schema": SCHEMA, "ranges": dict(zip(self.placement.ranges, bounds, strict=True))}


def restore_ranges(network: KerasNetwork, document: dict[str, Any]) -> QuantizedNetwork:
    """Make a trained, folded model round to the stored ranges.

    Args:
        network: from the file that was written with the ranges.
        document: from `QuantizedNetwork.describe_ranges`.

    Raises:
        ModelError: the ranges belong to another model.
    """
    placement, ranges = place_ranges(network.model), document.get("ranges", {})
    if document.get("schema") != SCHEMA or tuple(ranges) != placement.ranges:
        raise ModelError(f"{network.name}: its ranges.json belongs to another model", hint="delete ranges.json")
    lows, highs = np.array(list(ranges.values()), np.float32).T
    return _make(network, network.model, placement, Ranges(lows, highs, fixed=placement.inputs))


def quantize_network(network: KerasNetwork, batches: Batches) -> QuantizedNetwork:
    """Fold a trained network, and choose its ranges on examples.

    Args:
        network: with its preprocessing; it is not changed.
        batches: preprocessed examples.

    Raises:
        ModelError: a subclassed model, whole numbers as input, or a layer without an 8-bit form.
    """
    for one in network.model.inputs:
        if not keras.backend.is_float_dtype(one.dtype):
            raise ModelError(
                f"{network.name}: takes {one.dtype}, which 8 bits do not hold",
                hint="--quantize dynamic",
            )
    model = fold_model(network.model)
    placement = place_ranges(model)
    if all(name in placement.floats for name in placement.outputs):
        raise ModelError(
            f"{network.name}: LiteRT computes none of its layers in 8 bits: {', '.join(placement.floats)}",
            hint="--quantize dynamic",
        )
    known: dict[int | Fixed, tuple[float, float]] = {}
    for place, preprocessing in zip(placement.inputs, network.preprocessing.values(), strict=True):
        bounds = _find_bounds(preprocessing)
        if bounds is not None:
            known[place] = bounds
    ranges = measure_ranges(model, placement, batches, known=known)
    return _make(network, model, placement, ranges)


def _make(network: KerasNetwork, model: KerasModel, placement: RangePlacement, ranges: Ranges) -> QuantizedNetwork:
    output = network.output_name if len(network.all_outputs) > 1 else None
    quantized = QuantizedNetwork(model, placement, ranges, name=network.name, output=output)
    return quantized.with_preprocessing(network.preprocessing).with_outputs_like(network)


def _find_bounds(preprocessing: Preprocessing) -> tuple[float, float] | None:
    """The smallest and the largest value of preprocessed bytes; None for other data."""
    if not preprocessing.is_scaled:
        return None
    extremes = [
        np.asarray(preprocess({"": preprocessing}, {"": np.full((1, *preprocessing.raw_shape), value, np.uint8)}))
        for value in (0, 255)
    ]
    low, high = float(np.min(extremes)), float(np.max(extremes))
    # From -1 to 1 every byte is in the middle between two levels, where the runtime may round either way.
    zero = -low / (high - low) * LARGEST
    factor = _AVOIDED_TIES if abs(zero % 1 - 0.5) < _NEAR_TIE else 1.0
    return low * factor, high * factor
