"""Which scale of images a network wants: read off its graph, then measured by its own loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.order import draws, limited
from kdcli.evaluation.statistics import t_quantile
from kdcli.lazy import keras, ops
from kdcli.models.answering import LOGITS, Answering
from kdcli.models.input_range import range_of
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preparation import SCALES, Preparation, Scale
from kdcli.spec import Standardization

# How many training examples are compared: most choices are clear after the first look. A look that is not the last
# demands more evidence, as there are several.
LOOKS = ((64, 0.001), (512, 0.01))
# Of the loss of guessing by the label frequencies: smaller differences decide nothing. A scale that only makes the
# network more confident in the same decisions must win by more: on examples it was trained on, any factor does.
FLOOR, FLOOR_OF_CONFIDENCE, SAME_DECISIONS = 0.02, 0.10, 0.99
WORST = 1e6
# Images whose mean and deviation are the seventh candidate; examples for the fit of BatchNorm's statistics.
STATISTICS, FITTED, NORMALIZATIONS = 2048, 32, 3
# Divergence of a channel from its stored statistics that still counts as a fit, and by what factor the next best
# scale must be worse.
FIT, FIT_RATIO = 0.5, 3.0
_SHUFFLE = 11
_INTEGERS = ("uint8", "int8", "int16", "uint16", "int32", "int64")

Take = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class ScaleChoice:
    """The chosen scale.

    Args:
        scale: what `input.scale: auto` becomes.
        reason: why, a clause for the plan; empty where nothing has to be said.
        assumed: whether nothing tells; then the reason says why not.
        losses: mean loss under each scale that was compared, by its name.
    """

    scale: Scale
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
    if not any(preparation.scaled for preparation in network.preparations.values()):
        return ScaleChoice("unit")
    return _choose(network, examples, examples.take, task=task, measured=measured, seed=seed)


def find_mismatch(network: Network, examples: Examples, *, task: str, measured: bool, seed: int) -> str | None:
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
    images = {n: p for n, p in network.preparations.items() if p.picture and p.raw_dtype != "uint8"}
    if len(images) != 1 or len(next(iter(images.values())).raw_shape) != 3:
        return None
    ((name, preparation),) = images.items()
    shown = examples.take(np.arange(min(LOOKS[0][0], len(examples))))[name]
    low, high = float(shown.min()), float(shown.max())
    stored = _stored_as(low, high)
    if stored is None:
        return None
    # The same images as if they were bytes, so that each scale can be tried on them.
    as_bytes = replace(preparation, raw_dtype="uint8", scale=stored)
    trial = network.with_preparations({**network.preparations, name: as_bytes})
    factor, offset = {"raw": (1.0, 0.0), "unit": (255.0, 0.0), "signed": (127.5, 127.5)}[stored]

    def take(positions: np.ndarray) -> Mapping[str, np.ndarray]:
        raw = examples.take(positions)
        return {**raw, name: raw[name].astype(np.float32) * np.float32(factor) + np.float32(offset)}

    choice = _choose(trial, examples, take, task=task, measured=measured, seed=seed)
    are = f"the images are {preparation.raw_dtype} from {low:.4g} to {high:.4g} and go in as they are"
    if not choice.assumed and choice.reason and choice.scale != stored:
        return f"{are}, but {choice.scale} would fit: {choice.reason}"
    plain = choice.assumed or (not measured and not choice.reason)
    if stored == "raw" and plain:
        return f"{are}: only uint8 images are scaled, and the network does not rescale them"
    return None


def _stored_as(low: float, high: float) -> str | None:
    if low >= 0 and 64 < high <= 255:
        return "raw"
    if -1 <= low and 0.5 < high <= 1:
        return "signed" if low < 0 else "unit"
    return None


def _choose(
    network: Network, examples: Examples, take: Take, *, task: str, measured: bool, seed: int
) -> ScaleChoice:
    images = {name: p for name, p in network.preparations.items() if p.scaled}
    if all(preparation.dtype in _INTEGERS for preparation in images.values()):
        return ScaleChoice("raw", "the network takes integers")
    structure, said = _structure(network, take)
    if not measured:
        return ScaleChoice(structure, said) if structure else ScaleChoice("unit")
    scales = _candidates(images, take, len(examples))
    trial = _Trial(network, take, task)
    compared = _compare(trial, scales, examples, seed=seed)
    if compared is not None and compared.indifferent:
        return ScaleChoice(structure or "unit", said)
    if compared is not None and compared.decided:
        reason = "" if compared.best == "unit" and not structure else compared.text
        if structure:
            agrees = "too" if structure == compared.best else f", which speaks for {structure}"
            reason = f"{compared.text}; {said}{' ' if agrees == 'too' else ''}{agrees}"
        return ScaleChoice(compared.best, reason, losses=compared.means)
    open_scales = compared.alive if compared is not None and compared.informed else list(scales.values())
    losses = {} if compared is None else compared.means
    if structure in open_scales:
        assert structure is not None
        return ScaleChoice(structure, said, losses=losses)
    fitting = _fitting(trial, open_scales, len(examples))
    if fitting is not None:
        return ScaleChoice(fitting, "by the stored statistics of its first BatchNorm layers", losses=losses)
    return ScaleChoice(open_scales[0], _why_assumed(compared), assumed=True, losses=losses)


def _structure(network: Network, take: Take) -> tuple[str | None, str]:
    """The scale under which a range fit for training reaches the first layer with weights, and a clause about it.

    Only a graph that changes the range says anything: convolutions of images in 0..255 may have been trained so.
    """
    first = take(np.zeros(2, np.int64))
    raw = {
        name: np.stack([np.zeros_like(first[name][0]), np.full_like(first[name][0], 255)])
        if preparation.scaled
        else first[name]
        for name, preparation in network.preparations.items()
    }
    reached = {scale: range_of(network, scale, raw) for scale in ("raw", "unit", "signed")}
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
    if not 0.1 <= half <= 130 or low > slack or high < -slack:
        return math.inf
    return abs(math.log(half))


def _candidates(images: Mapping[str, Preparation], take: Take, count: int) -> dict[str, Scale]:
    """By name, in the order in which they are assumed where nothing tells them apart."""
    channels = {p.prepared_shape[-1] if len(p.prepared_shape) == 3 else 1 for p in images.values()}
    known = [scale for scale in ("unit", "signed", "imagenet", "caffe", "raw") if scale in SCALES]
    scales: dict[str, Scale] = {s: s for s in known if s not in ("imagenet", "caffe") or channels == {3}}
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


class _Trial:
    """A network asked under one scale after another; it is compiled once."""

    def __init__(self, network: Network, take: Take, task: str) -> None:
        self.network = network
        self.task = task
        self._take = take
        # Images are scaled before they go in, so the network behind them stays the same.
        self._plain = network.with_preparations(
            {
                name: replace(p, raw_shape=p.prepared_shape, raw_dtype=p.dtype, scale="raw", size=None)
                for name, p in network.preparations.items()
            }
        )
        self._answering = Answering(self._plain, batch_size=LOOKS[0][0])

    def logits(self, scale: Scale, positions: np.ndarray) -> np.ndarray:
        """Of some examples under a scale."""
        return self._answering(self._under(scale, positions), len(positions))[LOGITS]

    def features(self, scale: Scale, positions: np.ndarray, taps: Sequence[str]) -> Mapping[str, np.ndarray]:
        """What some taps give under a scale."""
        return Answering(self._plain, taps=taps, batch_size=FITTED)(self._under(scale, positions), len(positions))

    def _under(self, scale: Scale, positions: np.ndarray) -> Take:
        preparations = self.network.with_scale(scale).preparations

        def take(some: np.ndarray) -> Mapping[str, np.ndarray]:
            raw = self._take(positions[some])
            return {name: ops.convert_to_numpy(p(raw[name])) for name, p in preparations.items()}

        return take


@dataclass(frozen=True)
class _Compared:
    """The losses of the scales.

    Args:
        alive: scales that no other one is clearly better than, in the order in which they are assumed.
        best: of the least mean loss.
        informed: whether the best is clearly better than guessing by the labels' frequencies.
        indifferent: whether the scale makes no difference to the network.
        means: by name.
        text: a clause with the figures.
    """

    alive: list[Scale]
    best: Scale
    informed: bool
    indifferent: bool
    examples: int
    means: dict[str, float]
    text: str

    @property
    def decided(self) -> bool:
        """Whether the examples tell one scale from all others."""
        return self.informed and len(self.alive) == 1


def _compare(trial: _Trial, scales: Mapping[str, Scale], examples: Examples, *, seed: int) -> _Compared | None:
    """Compare the scales on more and more examples; None where there are no labels that fit."""
    labels = examples.all_labels()
    if labels is None:
        return None
    positions = limited(labels, len(examples), limit=LOOKS[-1][0], seed=seed)
    positions = positions[np.argsort(draws(len(positions), seed, _SHUFFLE), kind="stable")]
    alive = list(scales)
    losses: dict[str, np.ndarray] = {name: np.empty(0) for name in scales}
    decisions: dict[str, np.ndarray] = {}
    confidence: dict[str, float] = {}
    for look, alpha in LOOKS:
        part = positions[:look]
        for name in alive:
            new = part[len(losses[name]) :]
            logits = trial.logits(scales[name], new).astype(np.float64)
            found = example_losses(logits, labels[new], task=trial.task, head=trial.network.head)
            if found is None:
                return None
            losses[name] = np.concatenate([losses[name], found])
            confidence[name] = float(np.std(logits, axis=-1).mean() + np.abs(logits).mean())
            decided = _decisions(logits, trial.task)
            decisions[name] = np.concatenate([decisions[name], decided]) if name in decisions else decided
        best = min(alive, key=lambda name: losses[name].mean())
        guessed = _guessing(labels[part], logits.shape, trial.task, trial.network.head)
        informed = _above_zero(guessed - losses[best], alpha)
        weight = float(guessed.mean())
        if look == LOOKS[0][0]:
            others = [losses[name] - losses[best] for name in alive]
            same = all(np.array_equal(decisions[name], decisions[best]) for name in alive)
            indifferent = same and max(float(np.abs(one).max()) for one in others) < 1e-3 * weight
        kept = [best]
        for name in alive:
            agreeing = decisions[best].size and np.mean(decisions[name] == decisions[best]) >= SAME_DECISIONS
            only_surer = agreeing and confidence[best] > confidence[name]
            floor = (FLOOR_OF_CONFIDENCE if only_surer else FLOOR) * weight
            difference = losses[name] - losses[best]
            if name != best and not (difference.mean() > floor and _above_zero(difference, alpha)):
                kept.append(name)
        alive = [name for name in alive if name in kept]
        if informed and len(alive) == 1:
            break
    means = {name: float(values.mean()) for name, values in losses.items()}
    shown = ", ".join(f"{name} {value:.3g}" for name, value in means.items())
    text = f"by the loss on {len(part)} training examples ({shown})"
    open_scales = [scales[name] for name in alive]
    return _Compared(open_scales, scales[best], informed, indifferent, len(part), means, text)


def _above_zero(differences: np.ndarray, alpha: float) -> bool:
    """Whether the paired interval of a mean lies above zero."""
    if len(differences) < 2:
        return False
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return float(differences.mean()) > t_quantile(alpha, len(differences) - 1) * error


def example_losses(logits: np.ndarray, labels: np.ndarray, *, task: str, head: str) -> np.ndarray | None:
    """The task's own loss of each example: cross-entropy, binary cross-entropy or squared error.

    Args:
        logits: (n, ..., outputs), as `head` says.
        labels: (n, ...) classes, rows of probabilities, 0 and 1, or values.
        task: of the data.
        head: `logits`, `sigmoid` or `values`.

    Returns:
        (n,) float64, at most 1e6 each; None where the labels do not fit.
    """
    outputs = logits.shape[-1]
    if task == "regression":
        if labels.size != logits.size:
            return None
        loss = np.square(logits - labels.reshape(logits.shape).astype(np.float64))
    elif task == "multilabel" or head == "sigmoid":
        truth = labels if labels.shape == logits.shape else _one_hot(labels, outputs)
        if truth.shape != logits.shape:
            return None
        loss = np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))
    else:
        truth = labels if labels.shape == logits.shape else _one_hot(labels, outputs)
        if truth.shape != logits.shape:
            return None
        shifted = logits - logits.max(-1, keepdims=True)
        loss = np.log(np.exp(shifted).sum(-1, keepdims=True)) * truth - shifted * truth
        loss = loss.sum(-1)
    with np.errstate(invalid="ignore"):
        loss = np.nan_to_num(loss, nan=WORST, posinf=WORST)
        return np.minimum(loss.reshape(len(loss), -1).mean(-1), WORST)


def _one_hot(labels: np.ndarray, outputs: int) -> np.ndarray:
    """Rows for whole numbers; what is out of range, such as void pixels, gets a row of zeros and costs nothing."""
    return (labels[..., None] == np.arange(outputs)).astype(np.float64)


def _guessing(labels: np.ndarray, shape: tuple[int, ...], task: str, head: str) -> np.ndarray:
    """The loss of each example under the one prediction that fits the labels best."""
    outputs = shape[-1]
    if task == "regression":
        values = labels.reshape(len(labels), *shape[1:]).astype(np.float64)
        constant = values.mean(0, keepdims=True)
    else:
        values = (labels if labels.ndim == len(shape) else _one_hot(labels, outputs)).astype(np.float64)
        frequencies = values.reshape(-1, outputs).mean(0) + 1e-9
        odds = np.clip(1 - frequencies, 1e-9, None) if task == "multilabel" or head == "sigmoid" else 1.0
        constant = np.log(frequencies) - np.log(odds)
    guessed = np.broadcast_to(constant, values.shape)
    found = example_losses(guessed, labels, task=task, head=head)
    assert found is not None
    return found


def _decisions(logits: np.ndarray, task: str) -> np.ndarray:
    if task == "regression":
        return np.empty(0)
    return logits > 0 if task == "multilabel" or logits.shape[-1] == 1 else logits.argmax(-1)


def _fitting(trial: _Trial, scales: Sequence[Scale], count: int) -> Scale | None:
    """The scale under which the first BatchNorm layers see what their stored statistics say; None if none does."""
    network = trial.network
    if not isinstance(network, KerasNetwork) or len(scales) < 2:
        return None
    layers = {tap: network.layer_of(tap) for tap in network.taps}
    layers = {t: one for t, one in layers.items() if isinstance(one, keras.layers.BatchNormalization)}
    taps = [tap for tap, one in layers.items() if one.axis in (-1, len(network.taps[tap]))][:NORMALIZATIONS]
    if not taps:
        return None
    positions = np.unique(np.linspace(0, count - 1, min(FITTED, count)).astype(np.int64))
    distances = {}
    for number, scale in enumerate(scales):
        features = trial.features(scale, positions, taps)
        distances[number] = float(np.mean([_misfit(features[tap], layers[tap]) for tap in taps]))
    best, second = sorted(distances, key=lambda number: distances[number])[:2]
    clear = distances[best] <= FIT and distances[second] >= FIT_RATIO * distances[best] + 0.1
    return scales[best] if clear else None


def _misfit(feature: np.ndarray, layer: object) -> float:
    """The mean over channels of the divergence between what a BatchNorm layer gets and what it has stored.

    Without its own scale and offset its output has mean 0 and variance 1 where both agree.
    """
    channels = feature.shape[-1]
    gamma, beta = (getattr(layer, name, None) for name in ("gamma", "beta"))
    scale = np.ones(channels) if gamma is None else ops.convert_to_numpy(gamma).astype(np.float64)
    offset = np.zeros(channels) if beta is None else ops.convert_to_numpy(beta).astype(np.float64)
    used = np.abs(scale) > 1e-3
    if not used.any():
        return 0.0
    plain = (feature.reshape(-1, channels).astype(np.float64)[:, used] - offset[used]) / scale[used]
    variance = np.maximum(plain.var(0), 1e-6)
    return float(np.mean(0.5 * (variance + np.square(plain.mean(0)) - 1 - np.log(variance))))


def _why_assumed(compared: _Compared | None) -> str:
    if compared is None:
        return "there are no labels to compare the loss by"
    if not compared.informed:
        return f"under no scale is its loss on {compared.examples} training examples better than guessing"
    shown = ", ".join(f"{name} {value:.3g}" for name, value in compared.means.items())
    return f"{compared.examples} training examples cannot tell (loss {shown})"
