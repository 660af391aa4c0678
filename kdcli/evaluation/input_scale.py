"""Choose the input scale of a network: from its graph, then from its loss, then from its BatchNorm statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.evaluation.scale_comparison import LOOKS, ScaleComparison, ScaledNetwork, Take, compare_scales
from kdcli.lazy import keras, ops
from kdcli.models.input_range import measure_input_range
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preprocessing import PixelScale, Preprocessing
from kdcli.spec import Standardization

# Images to compute the data's own statistics from; examples and layers to compare with BatchNorm statistics.
STATISTICS_EXAMPLES, FIT_EXAMPLES, FIT_LAYERS = 2048, 32, 3
# Half widths of the input ranges that networks are trained on; the widest is 0..255 minus a mean per channel.
NARROWEST_RANGE, WIDEST_RANGE = 0.1, 150.0
# The largest mean divergence from the stored statistics that counts as a fit, and the factor by which the second
# best scale must be worse.
FIT, FIT_RATIO = 0.5, 3.0
# Possible fractions of the stored statistics that come from data rather than from their initial values.
LEARNED = (1.0, 0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "int64")


@dataclass(frozen=True)
class ScaleChoice:
    """The chosen scale.

    Args:
        scale: the value for `input.scale: auto`.
        reason: a clause for the plan, or empty.
        assumed: whether the scale could not be determined; the reason then says why.
        losses: mean loss under each scale that was compared, by name.
    """

    scale: PixelScale
    reason: str = ""
    assumed: bool = False
    losses: Mapping[str, float] = field(default_factory=dict)


def choose_scale(network: Network, examples: Examples, *, task: str, measured: bool, seed: int) -> ScaleChoice:
    """Choose the scale for `uint8` images.

    Args:
        network: network with its preprocessing and output kind.
        examples: examples of the training split.
        task: task of the data.
        measured: whether to compare losses, which needs trained weights.
        seed: RNG seed for the choice of the compared examples.
    """
    if not any(preprocessing.is_scaled for preprocessing in network.preprocessing.values()):
        return ScaleChoice("unit")
    return _choose(network, examples, examples.take, task=task, measured=measured, seed=seed)


def find_scale_mismatch(
    network: Network, examples: Examples, *, task: str, measured: bool, seed: int
) -> str | None:
    """Find out whether images that are not `uint8`, and therefore not scaled, have the wrong range for a network.

    Args:
        network, examples, task, measured, seed: as in `choose_scale`.

    Returns:
        A sentence about the mismatch, or None.
    """
    images = {n: p for n, p in network.preprocessing.items() if _is_unscaled_image(p)}
    if len(images) != 1:
        return None
    ((name, preprocessing),) = images.items()
    sample = examples.take(np.arange(min(LOOKS[0][0], len(examples))))[name]
    low, high = float(sample.min()), float(sample.max())
    stored = _guess_stored_scale(low, high)
    if stored is None:
        return None
    # The images as if they were bytes, so that each scale can be tried.
    as_bytes = replace(preprocessing, raw_dtype="uint8", scale=stored)
    trial = network.with_preprocessing({**network.preprocessing, name: as_bytes})
    factor, offset = {"raw": (1.0, 0.0), "unit": (255.0, 0.0), "signed": (127.5, 127.5)}[stored]

    def take(positions: np.ndarray) -> Mapping[str, np.ndarray]:
        raw = examples.take(positions)
        return {**raw, name: raw[name].astype(np.float32) * np.float32(factor) + np.float32(offset)}

    choice = _choose(trial, examples, take, task=task, measured=measured, seed=seed)
    images_are = f"the images are {preprocessing.raw_dtype} from {low:.4g} to {high:.4g} and are not scaled"
    if not choice.assumed and choice.reason and choice.scale != stored:
        return f"{images_are}, but {choice.scale} would fit, {choice.reason}"
    unscaled = choice.assumed or (not measured and not choice.reason)
    if stored == "raw" and unscaled:
        return f"{images_are}: only uint8 images are scaled, and the network does not rescale them"
    return None


def _is_unscaled_image(preprocessing: Preprocessing) -> bool:
    return len(preprocessing.preprocessed_shape) == 3 and preprocessing.raw_dtype != "uint8"


def _guess_stored_scale(low: float, high: float) -> str | None:
    if low >= 0 and 64 < high <= 255:
        return "raw"
    if -1 <= low < -0.3 and high <= 1:
        return "signed"
    return "unit" if low >= 0 and 0.3 < high <= 1 else None


def _choose(
    network: Network, examples: Examples, take: Take, *, task: str, measured: bool, seed: int
) -> ScaleChoice:
    images = {name: p for name, p in network.preprocessing.items() if p.is_scaled}
    if all(preprocessing.dtype in _INTEGERS for preprocessing in images.values()):
        return ScaleChoice("raw", "the network takes integers")
    structure, clause = _read_graph(network, take)
    if not measured:
        return ScaleChoice(structure, clause) if structure else ScaleChoice("unit")
    scales = _list_candidates(images, take, len(examples))
    scaled = ScaledNetwork(network, take, task)
    comparison = compare_scales(scaled, scales, examples, seed=seed)
    if comparison is not None and comparison.indifferent:
        return ScaleChoice(structure or "unit", clause)
    if comparison is not None and comparison.decided:
        reason = comparison.text
        if structure:
            same = structure == comparison.best
            graph = "consistent with its graph" if same else f"its graph suggests {structure}"
            reason = f"{comparison.text}; {graph}: {clause}"
        return ScaleChoice(comparison.best, reason, losses=comparison.means)
    informed = comparison is not None and comparison.informed
    open_scales = comparison.open if comparison is not None and informed else list(scales.values())
    losses = {} if comparison is None else comparison.means
    if structure in open_scales:
        assert structure is not None
        return ScaleChoice(structure, clause, losses=losses)
    fit = _fit_statistics(scaled, open_scales, len(examples))
    if fit is not None:
        return ScaleChoice(fit, "by the stored statistics of its first BatchNorm layers", losses=losses)
    if comparison is not None and informed and len(comparison.near) == 1:
        # The data's own statistics are hardly better, which does not put the only named scale in doubt.
        return ScaleChoice(comparison.near[0], comparison.text, losses=losses)
    return ScaleChoice(open_scales[0], _explain_assumption(comparison), assumed=True, losses=losses)


def _read_graph(network: Network, take: Take) -> tuple[str | None, str]:
    """The scale under which the first layer with weights gets a plausible range, and a clause about it.

    None if the graph does not change the range: a network may have been trained on images in 0..255.
    """
    first = take(np.zeros(2, np.int64))
    raw = {
        name: np.stack([np.zeros_like(first[name][0]), np.full_like(first[name][0], 255)])
        if preprocessing.is_scaled
        else first[name]
        for name, preprocessing in network.preprocessing.items()
    }
    reached = {scale: measure_input_range(network, scale, raw) for scale in ("raw", "unit", "signed")}
    whole = reached["raw"]
    if whole is None or (abs(whole[0]) < 1 and abs(whole[1] - 255) < 1):
        return None, ""
    fits = {scale: _measure_distance(*bounds) for scale, bounds in reached.items() if bounds is not None}
    scale = min(fits, key=lambda one: fits[one])
    if not math.isfinite(fits[scale]):
        return None, ""
    return scale, f"the network itself maps 0..255 to {whole[0]:.3g}..{whole[1]:.3g}"


def _measure_distance(low: float, high: float) -> float:
    """How far a range is from that of standardized values; infinite if it excludes 0 or is out of bounds."""
    half = (high - low) / 2
    slack = 0.1 * half
    if not NARROWEST_RANGE <= half <= WIDEST_RANGE or low > slack or high < -slack:
        return math.inf
    return abs(math.log(half))


def _list_candidates(images: Mapping[str, Preprocessing], take: Take, count: int) -> dict[str, PixelScale]:
    """The scales to compare, by name, in the order of preference."""
    channels = {p.preprocessed_shape[-1] if len(p.preprocessed_shape) == 3 else 1 for p in images.values()}
    named = ("unit", "signed", *(("imagenet", "caffe") if channels == {3} else ()), "raw")
    scales: dict[str, PixelScale] = {scale: scale for scale in named}
    if len(images) == 1:
        ((name, preprocessing),) = images.items()
        sample = take(np.unique(np.linspace(0, count - 1, min(STATISTICS_EXAMPLES, count)).astype(np.int64)))[name]
        axes = tuple(range(sample.ndim - 1)) if len(preprocessing.raw_shape) == 3 else None
        mean, deviation = (np.atleast_1d(f(sample, axis=axes, dtype=np.float64)) for f in (np.mean, np.std))
        if deviation.min() > 1:
            standardization = Standardization(
                mean=tuple(float(f"{v:.4g}") for v in mean), deviation=tuple(float(f"{v:.4g}") for v in deviation)
            )
            scales[f"the data's own {standardization}"] = standardization
    return scales


def _fit_statistics(scaled: ScaledNetwork, scales: Sequence[PixelScale], count: int) -> PixelScale | None:
    """The scale under which the first BatchNorm layers get inputs with their stored statistics, or None."""
    network = scaled.network
    if not isinstance(network, KerasNetwork) or len(scales) < 2:
        return None
    layers = {tap: network.get_layer_of(tap) for tap in network.taps}
    layers = {t: one for t, one in layers.items() if isinstance(one, keras.layers.BatchNormalization)}
    layers = {t: one for t, one in layers.items() if _has_seen_data(one)}
    taps = [tap for tap, one in layers.items() if one.axis in (-1, len(network.taps[tap]))][:FIT_LAYERS]
    if not taps:
        return None
    positions = np.unique(np.linspace(0, count - 1, min(FIT_EXAMPLES, count)).astype(np.int64))
    distances = {}
    for number, scale in enumerate(scales):
        features = scaled.features(scale, positions, taps)
        distances[number] = float(np.mean([_measure_misfit(features[tap], layers[tap]) for tap in taps]))
    best, second = sorted(distances, key=lambda number: distances[number])[:2]
    clear = distances[best] <= FIT and distances[second] >= FIT_RATIO * distances[best] + 0.02
    return scales[best] if clear else None


def _has_seen_data(layer: Any) -> bool:
    """Whether the stored statistics differ from the initial ones."""
    return bool(np.any(ops.convert_to_numpy(layer.moving_mean)))


def _measure_misfit(feature: np.ndarray, layer: Any) -> float:
    """The divergence of the inputs of a BatchNorm layer from its stored statistics, as the mean over channels.

    After few batches the stored statistics still contain a fraction of the initial mean 0 and variance 1, so the
    fraction that comes from data is fitted.
    """
    channels = feature.shape[-1]
    stored, spread, gamma, beta = (
        None if value is None else ops.convert_to_numpy(value).astype(np.float64)
        for value in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    assert stored is not None and spread is not None
    scale = np.ones(channels) if gamma is None else gamma
    offset = np.zeros(channels) if beta is None else beta
    used = np.abs(scale) > 1e-3
    if not used.any():
        return 0.0
    # The inputs, computed back from the outputs.
    normalized = (feature.reshape(-1, channels).astype(np.float64)[:, used] - offset[used]) / scale[used]
    inputs = normalized * np.sqrt(spread[used] + layer.epsilon) + stored[used]
    mean, variance = inputs.mean(0), inputs.var(0)
    return min(
        _compute_divergence(part * mean, part * variance + 1 - part, stored[used], spread[used])
        for part in LEARNED
    )


def _compute_divergence(mean: np.ndarray, variance: np.ndarray, stored: np.ndarray, spread: np.ndarray) -> float:
    """The mean Kullback-Leibler divergence of normal distributions, with a little noise added to both."""
    ratio = (variance + 1e-6) / (spread + 1e-6)
    apart = np.square(mean - stored) / (spread + 1e-6)
    return float(np.mean(0.5 * (ratio + apart - 1 - np.log(ratio))))


def _explain_assumption(comparison: ScaleComparison | None) -> str:
    if comparison is None:
        return "there are no labels to compare losses with"
    if not comparison.informed:
        return f"its loss on {comparison.examples} training examples is no better than guessing under any scale"
    losses = ", ".join(f"{name} {value:.3g}" for name, value in comparison.means.items())
    return f"{comparison.examples} training examples do not decide it (loss {losses})"
