"""The served model of a quantized network: its graph holds every range, so that no examples calibrate the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.models.inference import convert_output_kind
from kdcli.models.keras.served_model import ServedModel, add_preprocessing
from kdcli.quantization.folded_model import fold_model
from kdcli.quantization.network import QuantizedNetwork
from kdcli.quantization.placement import RangePlacement, place_ranges
from kdcli.quantization.ranges import Ranges, measure_ranges, round_calls
from kdcli.quantization.weights import round_kernels
from kdcli.tensors import KerasModel, Tensor


def round_served_model(serving: ServedModel, network: QuantizedNetwork) -> ServedModel:
    """Let a served model compute as its 8-bit file.

    Args:
        serving: of the network, with floats as its input.
        network: the trained network.
    """
    bounds = network.ranges.to_numpy()[network.placement.inputs[0]]
    round_preprocessing = _round_preprocessing(serving, bounds) if serving.inside else None
    round_network = _make_rounded(network.model, network.placement, network.ranges)
    kind, saved, number = serving.output_kind, network.saved_kind, network.output_index

    def compute(tensor: Tensor) -> Tensor:
        with keras.StatelessScope():
            if round_preprocessing is None:
                outputs = round_network(tensor, True)
            else:
                # The preprocessing ends in the range of the network's input: rounding again changes nothing.
                outputs = round_network(round_preprocessing(tensor, True), False)
            return convert_output_kind(keras.tree.flatten(outputs)[number], saved, kind)

    return replace(serving, compute=compute, is_rounded=True)


def _round_preprocessing(serving: ServedModel, bounds: np.ndarray) -> Callable[[Tensor, bool], Any] | None:
    """The preprocessing in 8 bits, with ranges from its smallest and largest values; None if it does nothing.

    Args:
        serving: the served model.
        bounds: (2,) of its result, which are those of the network's input.
    """
    inputs = keras.Input(serving.shape, dtype=serving.dtype)
    preprocessed = add_preprocessing(inputs, serving.preprocessing)
    if preprocessed is inputs:
        return None
    model = fold_model(keras.Model(inputs, preprocessed))
    placement = place_ranges(model)

    # Resized floats stay between the bounds of the network's input.
    ends = (0, 255) if serving.preprocessing.raw_dtype == "uint8" else bounds

    def extremes() -> Iterator[np.ndarray]:
        for value in ends:
            yield np.full((1, *serving.shape), value, serving.dtype)

    known = {placement.results[0]: (float(bounds[0]), float(bounds[1]))}
    return _make_rounded(model, placement, measure_ranges(model, placement, extremes, known=known))


def _make_rounded(model: KerasModel, placement: RangePlacement, ranges: Ranges) -> Callable[[Tensor, bool], Any]:
    """A folded model with one input as a function of a tensor and of whether that is rounded first."""
    kernels = round_kernels(model, placement)

    def compute(tensor: Tensor, rounds_input: bool) -> Any:
        with round_calls(model, placement, ranges, kernels=kernels) as round_inputs:
            structure = keras.tree.pack_sequence_as(model.input, [tensor])
            return model(round_inputs(structure) if rounds_input else structure, training=False)

    return compute
