"""The weighted mixture of the outputs of an ensemble of teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcli.formulas.convention import wide
from kdcli.lazy import ops
from kdcli.loss import Loss
from kdcli.spec import value_at
from kdcli.tensors import Tensor


@dataclass(frozen=True)
class Ensemble:
    """T · log Σ wₖ softmax(tₖ / (T·Tₖ)): logits whose softmax at T is the mixture of the members' softmax at T.

    You, Xu, Xu & Tao 2017, "Learning from Multiple Teacher Networks" (KDD), average probabilities at the
    temperature of the loss; with `logits`, the logits are averaged instead. For sigmoid outputs the probability of
    each output is mixed, values are averaged. Computed with log-sum-exp, so that nothing overflows and no
    probability is clipped.

    Args:
        weights: wₖ, each above 0; they are divided by their sum.
        temperatures: Tₖ, the divisor of each member's logits.
        mix: `probabilities` or `logits`.
        output_kind: kind of the logits: `logits`, `sigmoid` or `values`.

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
        """The weights, divided by their sum."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def __call__(self, outputs: Sequence[Tensor], temperature: Tensor = 1.0) -> Tensor:
        """Mix the members' logits (batch, ..., outputs), in the same form.

        Args:
            outputs: logits of each member, in order.
            temperature: T of the loss that compares with the result.
        """
        scaled = [wide(one) / each for one, each in zip(outputs, self.temperatures, strict=True)]
        if self.output_kind == "values" or self.mix == "logits":
            return sum(fraction * one for fraction, one in zip(self.shares, scaled, strict=True))
        temperature = ops.cast(temperature, scaled[0].dtype)
        softened = [one / temperature for one in scaled]
        if self.output_kind == "sigmoid":
            # The logit of a probability is a difference of two logarithms, which needs no clipping.
            yes = self._log_mean([ops.log_sigmoid(one) for one in softened])
            return temperature * (yes - self._log_mean([ops.log_sigmoid(-one) for one in softened]))
        return temperature * self._log_mean([ops.log_softmax(one, axis=-1) for one in softened])

    def of(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Mix float32 arrays at T 1 into one array."""
        return np.asarray(ops.convert_to_numpy(self(outputs)), np.float32)

    def _log_mean(self, logarithms: Sequence[Tensor]) -> Tensor:
        """The logarithm of the weighted mean of exp(logarithms)."""
        weighted = [one + float(np.log(fraction)) for one, fraction in zip(logarithms, self.shares, strict=True)]
        return ops.logsumexp(ops.stack(weighted), axis=0)


@dataclass(frozen=True)
class MemberOutputs:
    """The logits of all members of an ensemble for one batch; each term mixes them at its own temperature.

    Args:
        outputs: logits (batch, ..., outputs) of each member.
        ensemble: how they are mixed.
    """

    outputs: tuple[Tensor, ...]
    ensemble: Ensemble

    def mix_for(self, loss: Loss, progress: Tensor) -> Tensor:
        """Mix the outputs for a term, at `progress` (0 to 1) of training."""
        return self.ensemble(self.outputs, find_temperature(loss, progress))


def find_temperature(loss: Loss, progress: Tensor) -> Tensor:
    """Return a loss's temperature: its `temperature` or `tau`; 1 if it has neither."""
    for name in ("temperature", "tau"):
        if hasattr(loss, name):
            return value_at(getattr(loss, name), progress)
    return 1.0
