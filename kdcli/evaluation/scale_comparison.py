"""The loss of a network under one input scale after another, compared on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.order import draw_numbers, limit_positions
from kdcli.evaluation.example_loss import compute_example_losses, compute_guessing_losses
from kdcli.evaluation.statistics import t_quantile
from kdcli.lazy import ops
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.models.preprocessing import PixelScale

# How many training examples are compared: most choices are clear after the first look. A look that is not the last
# demands more evidence, as there are several.
LOOKS = ((64, 0.001), (512, 0.01))
# Of the loss of guessing by the label frequencies: smaller differences decide nothing. A scale that only makes the
# network more confident in the same decisions must win by more where these are all right: then any factor does.
FLOOR, FLOOR_OF_CONFIDENCE, SAME_DECISIONS, FAULTLESS = 0.02, 0.50, 0.99, 0.99
# Logits that are held at once.
MAX_LOGITS = 4_000_000
# By what fraction of the loss of guessing a network must be better to know anything.
KNOWLEDGE, HOPELESS = 0.15, 0.97
# Mean distance of a logit from the others that no training leads to: a network fed with far too large numbers.
SUREST = 100.0
_SHUFFLE = 11

Take = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class ScaledNetwork:
    """A network asked under one scale after another; it is compiled once."""

    def __init__(self, network: Network, take: Take, task: str) -> None:
        self.network = network
        self.task = task
        self._take = take
        # Images are scaled before they go in, so the network behind them stays the same.
        self._plain = network.with_preprocessing(
            {
                name: replace(p, raw_shape=p.preprocessed_shape, raw_dtype=p.dtype, scale="raw", size=None)
                for name, p in network.preprocessing.items()
            }
        )
        self._answering = Predictor(self._plain, batch_size=LOOKS[0][0])
        self._tapped: Predictor | None = None

    def logits(self, scale: PixelScale, positions: np.ndarray) -> np.ndarray:
        """Of some examples under a scale."""
        return self._answering(self._under(scale, positions), len(positions))[LOGITS]

    def features(self, scale: PixelScale, positions: np.ndarray, taps: Sequence[str]) -> Mapping[str, np.ndarray]:
        """What some taps give under a scale."""
        if self._tapped is None or self._tapped.taps != tuple(taps):
            self._tapped = Predictor(self._plain, taps=taps, batch_size=len(positions))
        return self._tapped(self._under(scale, positions), len(positions))

    def _under(self, scale: PixelScale, positions: np.ndarray) -> Take:
        preparations = self.network.with_scale(scale).preprocessing

        def take(some: np.ndarray) -> Mapping[str, np.ndarray]:
            raw = self._take(positions[some])
            return {name: ops.convert_to_numpy(p(raw[name])) for name, p in preparations.items()}

        return take


class _Entrant:
    """One scale with what the network does under it, for as many examples as it was asked for."""

    def __init__(self, name: str, scale: PixelScale) -> None:
        self.name = name
        self.scale = scale
        self.losses = np.empty(0)
        self._decisions: list[np.ndarray] = []
        self._right: list[float] = []
        self.sureness = 0.0

    def ask(self, trial: ScaledNetwork, positions: np.ndarray, labels: np.ndarray) -> tuple[int, ...] | None:
        """Go on to all of these examples; the shape of the logits, None where the labels do not fit them."""
        new = positions[len(self.losses) :]
        if not len(new):
            return None
        shape: tuple[int, ...] = ()
        # Maps of many classes are large: a few at a time.
        sides = [side or 1 for side in trial.network.output_shape]
        size = int(min(LOOKS[0][0], max(1, MAX_LOGITS // math.prod(sides))))
        for start in range(0, len(new), size):
            some = new[start : start + size]
            logits = trial.logits(self.scale, some).astype(np.float64)
            losses = compute_example_losses(
                logits, labels[some], task=trial.task, output_kind=trial.network.output_kind
            )
            if losses is None:
                return None
            apart = np.abs(logits - logits.mean(-1, keepdims=True)).mean() + np.abs(logits).mean()
            asked = len(self.losses)
            self.sureness = (self.sureness * asked + float(apart) * len(some)) / (asked + len(some))
            self.losses = np.concatenate([self.losses, losses])
            if trial.task != "regression":
                two = trial.task == "multilabel" or logits.shape[-1] == 1
                decided = logits > 0 if two else logits.argmax(-1).astype(np.uint16)
                self._decisions.append(decided)
                self._right.append(float(np.mean(decided == _truth(labels[some], decided))))
            shape = logits.shape
        return shape

    @property
    def loss(self) -> float:
        """The mean."""
        return float(self.losses.mean())

    def agreement(self, other: _Entrant) -> float:
        """The fraction of equal decisions; 0 where nothing is decided."""
        pairs = zip(self._decisions, other._decisions, strict=False)
        return float(np.mean([np.mean(mine == its) for mine, its in pairs])) if self._decisions else 0.0

    def informed(self, guessed: np.ndarray, alpha: float) -> bool:
        """Whether its loss is lower than that of guessing, by more than a network with random weights may get."""
        return _above_zero((1 - KNOWLEDGE) * guessed - self.losses, alpha)

    def beats(self, other: _Entrant, alpha: float, guessed: np.ndarray) -> bool:
        """Whether its loss is lower by more than confidence alone could make it."""
        guessing, floor = float(guessed.mean()), 0.0
        far = other.loss - self.loss > guessing / 2
        if far and self.informed(guessed, alpha) and not other.informed(guessed, alpha):
            # A few enormous losses have an interval as wide as their mean.
            return True
        if self.sureness > other.sureness:
            only_surer = self.agreement(other) >= SAME_DECISIONS and np.mean(self._right or [0]) >= FAULTLESS
            floor = FLOOR_OF_CONFIDENCE if only_surer else FLOOR
        lower = _above_zero(other.losses - self.losses, alpha)
        return lower and other.loss - self.loss > floor * guessing


@dataclass(frozen=True)
class ScaleComparison:
    """The losses of the scales.

    Args:
        open: scales that no other one beats, in the order in which they are assumed.
        best: of the least mean loss among them.
        near: the usual scales among the open ones, where the best is hardly better than one of them.
        informed: whether the best is better than guessing by the labels' frequencies.
        indifferent: whether the scale makes no difference to the network.
        examples: how many were compared.
        means: by name.
        text: a clause with the figures.
    """

    open: list[PixelScale]
    best: PixelScale
    near: list[PixelScale]
    informed: bool
    indifferent: bool
    examples: int
    means: dict[str, float]
    text: str

    @property
    def decided(self) -> bool:
        """Whether the examples tell one scale from all others."""
        return self.informed and len(self.open) == 1


def compare_scales(
    trial: ScaledNetwork, scales: Mapping[str, PixelScale], examples: Examples, *, seed: int
) -> ScaleComparison | None:
    """Compare the scales on more and more examples; None where there are no labels that fit."""
    labels = examples.all_labels()
    if labels is None:
        return None
    positions = limit_positions(labels, len(examples), limit=LOOKS[-1][0], seed=seed)
    positions = positions[np.argsort(draw_numbers(len(positions), seed, _SHUFFLE), kind="stable")]
    entrants = [_Entrant(name, scale) for name, scale in scales.items()]
    standing, indifferent = entrants, False
    looks = [look for look in LOOKS if look[0] < len(positions)]
    for size, alpha in [*looks, (len(positions), LOOKS[-1][1])]:
        part = positions[:size]
        shapes = [entrant.ask(trial, part, labels) for entrant in standing]
        if shapes[0] is None:
            return None
        best = min(standing, key=_loss)
        guessed = compute_guessing_losses(
            labels[part], shapes[0], task=trial.task, output_kind=trial.network.output_kind
        )
        informed = best.informed(guessed, alpha)
        if standing is entrants:
            apart = max(float(np.abs(one.losses - best.losses).max()) for one in standing)
            same = trial.task == "regression" or all(one.agreement(best) == 1 for one in standing)
            indifferent = same and apart < 1e-3 * float(guessed.mean())
        standing = [one for one in standing if one is best or not best.beats(one, alpha, guessed)]
        if informed and len(standing) == 1:
            break
        if best.loss > HOPELESS * float(guessed.mean()):
            # More examples will not show that it knows anything.
            break
    plausible = [one for one in standing if one.sureness <= SUREST and one.informed(guessed, alpha)]
    if plausible and trial.task != "regression":
        standing = plausible
        best = min(standing, key=_loss)
    usual = [one for one in standing if isinstance(one.scale, str)]
    if usual and len(usual) < len(standing) and best in usual:
        # The data's own statistics are a rare scale: they must win, they do not make another one doubtful.
        standing = usual
        best = min(standing, key=_loss)
    means = {one.name: one.loss for one in entrants}
    counts = {one.name: f" on {len(one.losses)}" if len(one.losses) < len(part) else "" for one in entrants}
    shown = ", ".join(f"{name} {value:.3g}{counts[name]}" for name, value in means.items())
    text = f"by the loss on {len(part)} training examples ({shown})"
    hardly = best.loss + FLOOR * float(guessed.mean())
    near: list[PixelScale] = [one.scale for one in standing if isinstance(one.scale, str)]
    near = near if any(one.scale in near and one.loss <= hardly for one in standing) else []
    open_scales = [one.scale for one in standing]
    return ScaleComparison(open_scales, best.scale, near, informed, indifferent, len(part), means, text)


def _truth(labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """What decisions should be: classes, or 0 and 1; rows of probabilities mean their largest."""
    if decided.dtype == bool:
        return labels.reshape(decided.shape) > 0.5 if labels.size == decided.size else np.zeros_like(decided)
    return labels if labels.shape == decided.shape else labels.argmax(-1)


def _loss(entrant: _Entrant) -> float:
    return entrant.loss


def _above_zero(differences: np.ndarray, alpha: float) -> bool:
    """Whether the paired interval of a mean lies above zero."""
    if len(differences) < 2:
        return False
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return float(differences.mean()) > t_quantile(alpha, len(differences) - 1) * error
