"""Compare the losses of a network under several input scales, on the same examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.order_and_splits import draw_numbers, limit_positions
from kdcli.evaluation.example_loss import compute_example_losses, compute_guessing_losses
from kdcli.evaluation.statistics import t_quantile
from kdcli.lazy import ops
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS, Predictor, Take
from kdcli.models.preprocessing import PixelScale

# Numbers of training examples to compare, with the level of the intervals. Most choices are clear after the first
# look; its level is stricter, because there are several looks.
LOOKS = ((64, 0.001), (512, 0.01))
# Fractions of the loss of guessing: smaller differences decide nothing. A scale that only makes the network more
# confident in the same predictions must win by more if these are all correct, because then any factor does.
FLOOR, FLOOR_OF_CONFIDENCE, SAME_DECISIONS, FAULTLESS = 0.02, 0.50, 0.99, 0.99
# Logits to hold in memory at once.
MAX_LOGITS = 4_000_000
# A network is informed if its loss is lower than that of guessing by the first fraction. If its loss is above the
# second fraction of that of guessing, more examples are not expected to help.
KNOWLEDGE, HOPELESS = 0.15, 0.97
# Mean distance of a logit from the others that training never reaches: the inputs are far too large.
SUREST = 100.0
_SHUFFLE = 11


class ScaledNetwork:
    """A network that can be run under any input scale; it is compiled once.

    Args:
        network: the network.
        take: raw examples by position.
        task: task of the data.
    """

    def __init__(self, network: Network, take: Take, task: str) -> None:
        self.network = network
        self.task = task
        self._take = take
        # Images are scaled before they go in, so that the compiled network is the same for all scales.
        self._plain = network.with_preprocessing(
            {
                name: replace(p, raw_shape=p.preprocessed_shape, raw_dtype=p.dtype, scale="raw", size=None)
                for name, p in network.preprocessing.items()
            }
        )
        self._predictor = Predictor(self._plain, batch_size=LOOKS[0][0])
        self._tapped: Predictor | None = None

    def logits(self, scale: PixelScale, positions: np.ndarray) -> np.ndarray:
        """The logits of some examples under a scale."""
        return self._predictor(self._scale(scale, positions), len(positions))[LOGITS]

    def features(self, scale: PixelScale, positions: np.ndarray, taps: Sequence[str]) -> Mapping[str, np.ndarray]:
        """The features of some examples at the taps, under a scale."""
        if self._tapped is None or self._tapped.taps != tuple(taps):
            self._tapped = Predictor(self._plain, taps=taps, batch_size=len(positions))
        return self._tapped(self._scale(scale, positions), len(positions))

    def _scale(self, scale: PixelScale, positions: np.ndarray) -> Take:
        preprocessing = self.network.with_scale(scale).preprocessing

        def take(some: np.ndarray) -> Mapping[str, np.ndarray]:
            raw = self._take(positions[some])
            return {name: ops.convert_to_numpy(p(raw[name])) for name, p in preprocessing.items()}

        return take


class _Candidate:
    """One scale, with the losses and predictions of the network for the examples so far."""

    def __init__(self, name: str, scale: PixelScale) -> None:
        self.name = name
        self.scale = scale
        self.losses = np.empty(0)
        self._predictions: list[np.ndarray] = []
        self._accuracies: list[float] = []
        self.sureness = 0.0

    def evaluate(
        self, network: ScaledNetwork, positions: np.ndarray, labels: np.ndarray
    ) -> tuple[int, ...] | None:
        """Evaluate those of the examples that are new.

        Returns:
            The shape of the logits; None if the labels do not fit them.
        """
        new = positions[len(self.losses) :]
        if not len(new):
            return None
        shape: tuple[int, ...] = ()
        # The logits of maps with many classes are large, so only a few examples are evaluated at a time.
        sides = [side or 1 for side in network.network.output_shape]
        size = int(min(LOOKS[0][0], max(1, MAX_LOGITS // math.prod(sides))))
        for start in range(0, len(new), size):
            some = new[start : start + size]
            logits = network.logits(self.scale, some).astype(np.float64)
            losses = compute_example_losses(
                logits, labels[some], task=network.task, output_kind=network.network.output_kind
            )
            if losses is None:
                return None
            distance = np.abs(logits - logits.mean(-1, keepdims=True)).mean() + np.abs(logits).mean()
            done = len(self.losses)
            self.sureness = (self.sureness * done + float(distance) * len(some)) / (done + len(some))
            self.losses = np.concatenate([self.losses, losses])
            if network.task != "regression":
                binary = network.task == "multilabel" or logits.shape[-1] == 1
                predicted = logits > 0 if binary else logits.argmax(-1).astype(np.uint16)
                self._predictions.append(predicted)
                self._accuracies.append(float(np.mean(predicted == _find_truth(labels[some], predicted))))
            shape = logits.shape
        return shape

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self.losses.mean())

    def measure_agreement(self, other: _Candidate) -> float:
        """The fraction of equal predicted classes; 0 for regression."""
        pairs = zip(self._predictions, other._predictions, strict=False)
        return float(np.mean([np.mean(mine == its) for mine, its in pairs])) if self._predictions else 0.0

    def is_informed(self, guessing: np.ndarray, alpha: float) -> bool:
        """Whether the loss is lower than that of guessing, by more than random weights can achieve."""
        return _is_above_zero((1 - KNOWLEDGE) * guessing - self.losses, alpha)

    def beats(self, other: _Candidate, alpha: float, guessing: np.ndarray) -> bool:
        """Whether the loss is lower by more than higher confidence alone can explain."""
        guessing_loss, floor = float(guessing.mean()), 0.0
        far = other.loss - self.loss > guessing_loss / 2
        if far and self.is_informed(guessing, alpha) and not other.is_informed(guessing, alpha):
            # A few enormous losses would make the interval below as wide as their mean.
            return True
        if self.sureness > other.sureness:
            same = self.measure_agreement(other) >= SAME_DECISIONS
            only_surer = same and np.mean(self._accuracies or [0]) >= FAULTLESS
            floor = FLOOR_OF_CONFIDENCE if only_surer else FLOOR
        lower = _is_above_zero(other.losses - self.losses, alpha)
        return lower and other.loss - self.loss > floor * guessing_loss


@dataclass(frozen=True)
class ScaleComparison:
    """The result of comparing scales.

    Args:
        open: scales that no other scale beats, in the order of preference.
        best: the open scale with the lowest mean loss.
        near: the open scales with a name, if the best scale is hardly better than one of them.
        informed: whether the best scale is better than guessing by the label frequencies.
        indifferent: whether the scale makes no difference to the network.
        examples: number of examples that were compared.
        means: mean losses by name.
        text: a clause with the losses.
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
        """Whether one scale beats all others."""
        return self.informed and len(self.open) == 1


def compare_scales(
    network: ScaledNetwork, scales: Mapping[str, PixelScale], examples: Examples, *, seed: int
) -> ScaleComparison | None:
    """Compare scales on more and more examples.

    Args:
        network: the network.
        scales: scales by name, in the order of preference.
        examples: examples of the training split.
        seed: RNG seed for the choice of the examples.

    Returns:
        None if there are no labels that fit the outputs.
    """
    labels = examples.all_labels()
    if labels is None:
        return None
    positions = limit_positions(labels, len(examples), limit=LOOKS[-1][0], seed=seed)
    positions = positions[np.argsort(draw_numbers(len(positions), seed, _SHUFFLE), kind="stable")]
    candidates = [_Candidate(name, scale) for name, scale in scales.items()]
    standing, indifferent = candidates, False
    looks = [look for look in LOOKS if look[0] < len(positions)]
    for size, alpha in [*looks, (len(positions), LOOKS[-1][1])]:
        part = positions[:size]
        shapes = [candidate.evaluate(network, part, labels) for candidate in standing]
        if shapes[0] is None:
            return None
        best = min(standing, key=_get_loss)
        guessing = compute_guessing_losses(
            labels[part], shapes[0], task=network.task, output_kind=network.network.output_kind
        )
        informed = best.is_informed(guessing, alpha)
        if standing is candidates:
            difference = max(float(np.abs(one.losses - best.losses).max()) for one in standing)
            same = network.task == "regression" or all(one.measure_agreement(best) == 1 for one in standing)
            indifferent = same and difference < 1e-3 * float(guessing.mean())
        standing = [one for one in standing if one is best or not best.beats(one, alpha, guessing)]
        if informed and len(standing) == 1:
            break
        if best.loss > HOPELESS * float(guessing.mean()):
            break
    standing = _prefer(standing, guessing, alpha, task=network.task)
    best = min(standing, key=_get_loss)
    # Scales with a name stay possible if the statistics of the data fit only slightly better.
    near: list[PixelScale] = [one.scale for one in standing if isinstance(one.scale, str)]
    hardly = best.loss + FLOOR * float(guessing.mean())
    return ScaleComparison(
        open=[one.scale for one in standing],
        best=best.scale,
        near=near if any(one.scale in near and one.loss <= hardly for one in standing) else [],
        informed=informed,
        indifferent=indifferent,
        examples=len(part),
        means={one.name: one.loss for one in candidates},
        text=_describe(candidates, len(part)),
    )


def _prefer(standing: list[_Candidate], guessing: np.ndarray, alpha: float, *, task: str) -> list[_Candidate]:
    """Drop scales that are implausible or rare, if others remain."""
    plausible = [one for one in standing if one.sureness <= SUREST and one.is_informed(guessing, alpha)]
    if plausible and task != "regression":
        standing = plausible
    usual = [one for one in standing if isinstance(one.scale, str)]
    if usual and len(usual) < len(standing) and min(standing, key=_get_loss) in usual:
        # The data's own statistics are a rare scale: they must win, and do not put another scale in doubt.
        standing = usual
    return standing


def _describe(candidates: Sequence[_Candidate], count: int) -> str:
    losses = [
        f"{one.name} {one.loss:.3g}" + (f" on {len(one.losses)}" if len(one.losses) < count else "")
        for one in candidates
    ]
    return f"by the loss on {count} training examples ({', '.join(losses)})"


def _find_truth(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The labels as classes, or as booleans for boolean predictions; rows of probabilities give their largest."""
    if predicted.dtype == bool:
        return labels.reshape(predicted.shape) > 0.5 if labels.size == predicted.size else np.zeros_like(predicted)
    return labels if labels.shape == predicted.shape else labels.argmax(-1)


def _get_loss(candidate: _Candidate) -> float:
    return candidate.loss


def _is_above_zero(differences: np.ndarray, alpha: float) -> bool:
    """Whether the interval of the mean difference is above zero."""
    if len(differences) < 2:
        return False
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return float(differences.mean()) > t_quantile(alpha, len(differences) - 1) * error
