"""Learning rate schedules: a factor as a function of the fraction of training that is done."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kdcli.lazy import ops
from kdcli.spec import Fraction, PositiveFloat, Spec
from kdcli.tensors import Tensor


class Schedule(Spec):
    """A learning rate schedule.

    Args:
        warmup: fraction of training over which the rate rises linearly from 0; in [0, 1).
    """

    kind: str
    warmup: Annotated[Fraction, Field(lt=1)] = 0.0

    def factor(self, progress: Tensor) -> Tensor:
        """Return the factor of the learning rate at the fraction `progress` (0 to 1) of training."""
        if self.warmup == 0:
            return self.shape(progress)
        after = ops.maximum(progress - self.warmup, 0.0) / (1.0 - self.warmup)
        return ops.where(progress < self.warmup, progress / self.warmup, self.shape(after))

    def shape(self, progress: Tensor) -> Tensor:
        """Return the factor after the warm-up, at a fraction (0 to 1) of the rest of training."""
        raise TypeError(f"{type(self).__name__} does not define shape")


class Constant(Schedule):
    """A constant learning rate."""

    kind: Literal["constant"] = "constant"

    def shape(self, progress: Tensor) -> Tensor:
        """Return 1."""
        return ops.ones_like(progress)


class Cosine(Schedule):
    """Half a cosine, from 1 to `floor`.

    Args:
        floor: the factor at the end.
    """

    kind: Literal["cosine"] = "cosine"
    floor: Fraction = 0.0

    def shape(self, progress: Tensor) -> Tensor:
        """Return 1 at the start, `floor` at the end."""
        return self.floor + (1.0 - self.floor) * (1.0 + ops.cos(math.pi * progress)) / 2.0


class Linear(Schedule):
    """A straight line, from 1 to `floor`.

    Args:
        floor: the factor at the end.
    """

    kind: Literal["linear"] = "linear"
    floor: Fraction = 0.0

    def shape(self, progress: Tensor) -> Tensor:
        """Return 1 at the start, `floor` at the end."""
        return 1.0 - (1.0 - self.floor) * progress


class Steps(Schedule):
    """A drop by `factor` at each of the fractions `at`.

    Args:
        at: fractions of training, in ascending order.
        drop: factor of the rate at each of them, written `factor` in recipes.
    """

    # `factor` is the method of the class, so the field has another name.
    kind: Literal["steps"] = "steps"
    at: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] = (0.6, 0.8)
    drop: Annotated[PositiveFloat, Field(alias="factor", lt=1)] = 0.1

    def shape(self, progress: Tensor) -> Tensor:
        """Return the product of the drops so far."""
        passed = sum(ops.cast(progress >= fraction, "float32") for fraction in self.at)
        return ops.power(ops.cast(self.drop, "float32"), passed)


class Exponential(Schedule):
    """An exponential decay, from 1 to `floor`.

    Args:
        floor: the factor at the end, above 0.
    """

    kind: Literal["exponential"] = "exponential"
    floor: Annotated[PositiveFloat, Field(lt=1)] = 0.01

    def shape(self, progress: Tensor) -> Tensor:
        """Return 1 at the start, `floor` at the end."""
        return ops.exp(math.log(self.floor) * progress)


def _complete_entry(value: Any) -> Any:
    """Expand `cosine` to a mapping with `kind`; a mapping without `kind` is a `constant`."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "constant", **value} if isinstance(value, dict) else value


_Kinds = Annotated[Constant | Cosine | Linear | Steps | Exponential, Field(discriminator="kind")]
AnySchedule = Annotated[_Kinds, BeforeValidator(_complete_entry)]
