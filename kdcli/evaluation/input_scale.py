"""Which scale of images a network wants: read off its graph, then measured by its own loss."""

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

# Images whose mean and deviation are the last candidate; examples for the fit of BatchNorm's statistics.
STATISTICS, FITTED, NORMALIZATIONS = 2048, 32, 3
# Half widths of a range that networks are trained on; the widest is that of 0..255 minus a mean for each channel.
NARROWEST_RANGE, WIDEST_RANGE = 0.1, 150.0
# Divergence of a channel from its stored statistics that still counts as a fit, and by what factor the next best
# scale must be worse.
FIT, FIT_RATIO = 0.5, 3.0
# The parts of the stored statistics that may have been learned.
LEARNED = (1.0, 0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "int64")


@dataclass(frozen=True)
class ScaleChoice:
    """The chosen scale.

    Args:
        scale: what `input.scale: auto` becomes.
        reason: why, a clause for the plan; empty where nothing has to be said.
        assumed: whether nothing tells; then the reason says why not.
        losses: mean loss under each scale that was compared, by its name.
    """

    scale: PixelScale
    reason: str = ""
    assumed: bool = False
    losses: Mapping[str, float] = field(default_factory=dict)


def choose_scale(network: Network, examples: Examples, *, task: str, measured: bool, seed: int) -> ScaleChoice:
    """The scale for `uint8` images: what the graph says, and what the loss says where weights mean something.

    Args:
        network: with its preprocessing and its output kind.
        examples: of the training split.
        task: of the data.
        measured: whether the weights mean something, so that losses can be compared.
        seed: of the examples that are compared.
    """
    if not any(preparation.is_scaled for preparation in network.preprocessing.values()):
        return ScaleChoice("unit")
    return _choose(network, examples, examples.take, task=task, measured=measured, seed=seed)


def find_scale_mismatch(
    network: Network, examples: Examples, *, task: str, measured: bool, seed: int
) -> str | None:
    """Why images that are not `uint8`, and so go in as they are, do not have the range that the network wants.

    Args:
        network: with its preprocessing and its output kind.
        examples: of the training split.
        task: of the data.
        measured: whether the weights mean something.
        seed: of the examples that are compared.

    Returns:
        A sentence, or None where nothing speaks against the images as they are.
    """
    images = {n: p for n, p in network.preprocessing.items() if _is_unscaled_image(p)}
    if len(images) != 1:
        return None
    ((name, preparation),) = images.items()
    shown = examples.take(np.arange(min(LOOKS[0][0], len(examples))))[name]
    low, high = float(shown.min()), float(shown.max())
    stored = _stored_as(low, high)
    if stored is None:
        return None
    # The same images as if they were bytes, so that each scale can be tried on them.
    as_bytes = replace(preparation, raw_dtype="uint8", scale=stored)
    trial = network.with_preprocessing({**network.preprocessing, name: as_bytes})
    factor, offset = {"raw": (1.0, 0.0), "unit": (255.0, 0.0), "signed": (127.5, 127.5)}[stored]

    def take(positions: np.ndarray) -> Mapping[str, np.ndarray]:
        raw = examples.take(positions)
        return {**raw, name: raw[name].astype(np.float32) * np.float32(factor) + np.float32(offset)}

    choice = _choose(trial, examples, take, task=task, measured=measured, seed=seed)
    are = f"the images are {preparation.raw_dtype} from {low:.4g} to {high:.4g} and go in as they are"
    if not choice.assumed and choice.reason and choice.scale != stored:
        return f"{are}, but {choice.scale} would fit, {choice.reason}"
    plain = choice.assumed or (not measured and not choice.reason)
    if stored == "raw" and plain:
        return f"{are}: only uint8 images are scaled, and the network does not rescale them"
    return None


def _is_unscaled_image(preparation: Preprocessing) -> bool:
    return len(preparation.preprocessed_shape) == 3 and preparation.raw_dtype != "uint8"


def _stored_as(low: float, high: float) -> str | None:
    if low >= 0 and 64 < high <= 255:
        return "raw"
    if -1 <= low < -0.3 and high <= 1:
        return "signed"
    return "unit" if low >= 0 and 0.3 < high <= 1 else None


def _choose(
    network: Network, examples: Examples, take: Take, *, task: str, measured: bool, seed: int
) -> ScaleChoice:
    images = {name: p for name, p in network.preprocessing.items() if p.is_scaled}
    if all(preparation.dtype in _INTEGERS for preparation in images.values()):
        return ScaleChoice("raw", "the network takes integers")
    structure, said = _structure(network, take)
    if not measured:
        return ScaleChoice(structure, said) if structure else ScaleChoice("unit")
    scales = _candidates(images, take, len(examples))
    trial = ScaledNetwork(network, take, task)
    compared = compare_scales(trial, scales, examples, seed=seed)
    if compared is not None and compared.indifferent:
        return ScaleChoice(structure or "unit", said)
    if compared is not None and compared.decided:
        reason = compared.text
        if structure:
            agrees = "that fits its graph" if structure == compared.best else f"its graph speaks for {structure}"
            reason = f"{compared.text}; {agrees}: {said}"
        return ScaleChoice(compared.best, reason, losses=compared.means)
    open_scales = compared.open if compared is not None and compared.informed else list(scales.values())
    losses = {} if compared is None else compared.means
    if structure in open_scales:
        assert structure is not None
        return ScaleChoice(structure, said, losses=losses)
    fitting = _fitting(trial, open_scales, len(examples))
    if fitting is not None:
        return ScaleChoice(fitting, "by the stored statistics of its first BatchNorm layers", losses=losses)
    if compared is not None and compared.informed and len(compared.near) == 1:
        # Statistics of the data that are hardly better do not make the one usual scale doubtful.
        return ScaleChoice(compared.near[0], compared.text, losses=losses)
    return ScaleChoice(open_scales[0], _why_assumed(compared), assumed=True, losses=losses)


def _structure(network: Network, take: Take) -> tuple[str | None, str]:
    """The scale under which a range fit for training reaches the first layer with weights, and a clause about it.

    Only a graph that changes the range says anything: convolutions of images in 0..255 may have been trained so.
    """
    first = take(np.zeros(2, np.int64))
    raw = {
        name: np.stack([np.zeros_like(first[name][0]), np.full_like(first[name][0], 255)])
        if preparation.is_scaled
        else first[name]
        for name, preparation in network.preprocessing.items()
    }
    reached = {scale: measure_input_range(network, scale, raw) for scale in ("raw", "unit", "signed")}
    whole = reached["raw"]
    if whole is None or (abs(whole[0]) < 1 and abs(whole[1] - 255) < 1):
        return None, ""
    fits = {scale: _distance(*bounds) for scale, bounds in reached.items() if bounds is not None}
    scale = min(fits, key=lambda one: fits[one])
    if not math.isfinite(fits[scale]):
        return None, ""
    return scale, f"the network itself maps 0..255 to {whole[0]:.3g}..{whole[1]:.3g}"


def _distance(low: float, high: float) -> float:
    """How far a range is from that of standardised values; infinite where it excludes zero or is out of bounds."""
    half = (high - low) / 2
    slack = 0.1 * half
    if not NARROWEST_RANGE <= half <= WIDEST_RANGE or low > slack or high < -slack:
        return math.inf
    return abs(math.log(half))


def _candidates(images: Mapping[str, Preprocessing], take: Take, count: int) -> dict[str, PixelScale]:
    """By name, in the order in which they are assumed where nothing tells them apart."""
    channels = {p.preprocessed_shape[-1] if len(p.preprocessed_shape) == 3 else 1 for p in images.values()}
    named = ("unit", "signed", *(("imagenet", "caffe") if channels == {3} else ()), "raw")
    scales: dict[str, PixelScale] = {scale: scale for scale in named}
    if len(images) == 1:
        ((name, preparation),) = images.items()
        sample = take(np.unique(np.linspace(0, count - 1, min(STATISTICS, count)).astype(np.int64)))[name]
        axes = tuple(range(sample.ndim - 1)) if len(preparation.raw_shape) == 3 else None
        mean, deviation = (np.atleast_1d(f(sample, axis=axes, dtype=np.float64)) for f in (np.mean, np.std))
        if deviation.min() > 1:
            own = Standardization(
                mean=tuple(float(f"{v:.4g}") for v in mean), deviation=tuple(float(f"{v:.4g}") for v in deviation)
            )
            scales[f"the data's own {own}"] = own
    return scales


def _fitting(trial: ScaledNetwork, scales: Sequence[PixelScale], count: int) -> PixelScale | None:
    """The scale under which the first BatchNorm layers see what their stored statistics say; None if none does."""
    network = trial.network
    if not isinstance(network, KerasNetwork) or len(scales) < 2:
        return None
    layers = {tap: network.get_layer_of(tap) for tap in network.taps}
    layers = {t: one for t, one in layers.items() if isinstance(one, keras.layers.BatchNormalization)}
    layers = {t: one for t, one in layers.items() if _has_seen_data(one)}
    taps = [tap for tap, one in layers.items() if one.axis in (-1, len(network.taps[tap]))][:NORMALIZATIONS]
    if not taps:
        return None
    positions = np.unique(np.linspace(0, count - 1, min(FITTED, count)).astype(np.int64))
    distances = {}
    for number, scale in enumerate(scales):
        features = trial.features(scale, positions, taps)
        distances[number] = float(np.mean([_misfit(features[tap], layers[tap]) for tap in taps]))
    best, second = sorted(distances, key=lambda number: distances[number])[:2]
    clear = distances[best] <= FIT and distances[second] >= FIT_RATIO * distances[best] + 0.02
    return scales[best] if clear else None


def _has_seen_data(layer: Any) -> bool:
    """Whether the stored statistics are no longer those that a new layer starts with."""
    return bool(np.any(ops.convert_to_numpy(layer.moving_mean)))


def _misfit(feature: np.ndarray, layer: Any) -> float:
    """How far what a BatchNorm layer gets is from what it has stored: the mean divergence over channels.

    A layer that has seen few batches still stores a part of the mean 0 and the variance 1 that it began with, so
    the part that it has learned is fitted.
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
    # Back from the output to the input.
    plain = (feature.reshape(-1, channels).astype(np.float64)[:, used] - offset[used]) / scale[used]
    given = plain * np.sqrt(spread[used] + layer.epsilon) + stored[used]
    mean, variance = given.mean(0), given.var(0)
    return min(
        _divergence(part * mean, part * variance + 1 - part, stored[used], spread[used]) for part in LEARNED
    )


def _divergence(mean: np.ndarray, variance: np.ndarray, stored: np.ndarray, spread: np.ndarray) -> float:
    """The mean Kullback-Leibler divergence of normal distributions, with a little noise in both."""
    ratio = (variance + 1e-6) / (spread + 1e-6)
    apart = np.square(mean - stored) / (spread + 1e-6)
    return float(np.mean(0.5 * (ratio + apart - 1 - np.log(ratio))))


def _why_assumed(compared: ScaleComparison | None) -> str:
    if compared is None:
        return "there are no labels to compare the loss by"
    if not compared.informed:
        return f"its loss on {compared.examples} training examples is no better than guessing under any scale"
    shown = ", ".join(f"{name} {value:.3g}" for name, value in compared.means.items())
    return f"{compared.examples} training examples cannot tell (loss {shown})"
