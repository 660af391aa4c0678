"""Several teachers as one: the weighted mixture of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.formulas.convention import wide
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import value_at


@dataclass(frozen=True)
class Ensemble:
    """T · log Σ wₖ softmax(tₖ / (T·Tₖ)): logits whose softmax at T is the mixture of the teachers' at T.

    You, Xu, Xu & Tao 2017, "Learning from Multiple Teacher Networks" (KDD), average probabilities at the
    temperature of the loss; `logits` is the mean of logits instead. Sigmoids mix the chance of each output,
    values are averaged. As log-sum-exp nothing overflows, and no probability is clipped.

    Args:
        weights: wₖ, above 0; they are divided by their sum.
        temperatures: Tₖ, what each teacher's logits are divided by first.
        mix: `probabilities` or `logits`.
        output_kind: what the logits are: `logits`, `sigmoid` or `values`.

    Example:
        >>> Ensemble((3.0, 1.0), (1.0, 1.0)).shares
        (0.75, 0.25)
    """

    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    mix: str = "probabilities"
    output_kind: str = "logits"

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, with the sum 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def __call__(self, answers: Sequence[Any], temperature: Any = 1.0) -> Any:
        """The mixture of the teachers' logits (batch, ..., outputs), one for each of them, in their form.

        Args:
            answers: in the teachers' order.
            temperature: T of the loss that is going to compare with it.
        """
        own = [wide(one) / each for one, each in zip(answers, self.temperatures, strict=True)]
        if self.output_kind == "values" or self.mix == "logits":
            return sum(share * one for share, one in zip(self.shares, own, strict=True))
        temperature = ops.cast(temperature, own[0].dtype)
        softened = [one / temperature for one in own]
        if self.output_kind == "sigmoid":
            # The logit of a chance is the difference of two logarithms: it needs no clipping.
            yes = self._mean_of([ops.log_sigmoid(one) for one in softened])
            return temperature * (yes - self._mean_of([ops.log_sigmoid(-one) for one in softened]))
        return temperature * self._mean_of([ops.log_softmax(one, axis=-1) for one in softened])

    def of(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        """The mixture at T 1 of float32 arrays, as one."""
        return np.asarray(ops.convert_to_numpy(self(answers)), np.float32)

    def _mean_of(self, logarithms: Sequence[Any]) -> Any:
        """The logarithm of the weighted mean of what they are the logarithms of."""
        weighted = [one + float(np.log(share)) for one, share in zip(logarithms, self.shares, strict=True)]
        return ops.logsumexp(ops.stack(weighted), axis=0)


@dataclass(frozen=True)
class MemberOutputs:
    """What several teachers say to one batch; each term mixes it at a temperature of its own.

    Args:
        answers: logits (batch, ..., outputs), one for each teacher.
        ensemble: how they are mixed.
    """

    answers: tuple[Any, ...]
    ensemble: Ensemble

    def to(self, loss: Loss, progress: Any) -> Any:
        """The teachers' one answer, as a term compares with it at the share `progress` of training."""
        return self.ensemble(self.answers, find_temperature(loss, progress))


def find_temperature(loss: Loss, progress: Any) -> Any:
    """The temperature at which a loss softens logits: its `temperature` or `tau`; 1 where it has no single one."""
    for name in ("temperature", "tau"):
        if hasattr(loss, name):
            return value_at(getattr(loss, name), progress)
    return 1.0
