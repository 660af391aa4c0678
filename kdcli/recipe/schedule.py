"""How the learning rate changes over training: one factor, from the share of training that is done."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kdcli.lazy import ops
from kdcli.spec import Fraction, PositiveFloat, Spec


class Schedule(Spec):
    """A learning rate schedule.

    Args:
        warmup: share of training over which the rate rises linearly from 0.
    """

    kind: str
    warmup: Annotated[Fraction, Field(lt=1)] = 0.0

    def factor(self, progress: Any) -> Any:
        """What multiplies the learning rate when the share `progress` (a tensor, 0 to 1) is done."""
        if self.warmup == 0:
            return self.shape(progress)
        after = ops.maximum(progress - self.warmup, 0.0) / (1.0 - self.warmup)
        return ops.where(progress < self.warmup, progress / self.warmup, self.shape(after))

    def shape(self, progress: Any) -> Any:
        """The factor after the warm-up."""
        raise TypeError(f"{type(self).__name__} has no shape")


class Constant(Schedule):
    """The learning rate as it is."""

    kind: Literal["constant"] = "constant"

    def shape(self, progress: Any) -> Any:
        """Always 1."""
        return ops.ones_like(progress)


class Cosine(Schedule):
    """Half a cosine from 1 down to `floor`.

    Args:
        floor: the factor at the end.
    """

    kind: Literal["cosine"] = "cosine"
    floor: Fraction = 0.0

    def shape(self, progress: Any) -> Any:
        """1 at the start, `floor` at the end."""
        return self.floor + (1.0 - self.floor) * (1.0 + ops.cos(math.pi * progress)) / 2.0


class Linear(Schedule):
    """A straight line from 1 down to `floor`.

    Args:
        floor: the factor at the end.
    """

    kind: Literal["linear"] = "linear"
    floor: Fraction = 0.0

    def shape(self, progress: Any) -> Any:
        """1 at the start, `floor` at the end."""
        return 1.0 - (1.0 - self.floor) * progress


class Steps(Schedule):
    """A drop by `factor` at each of the shares `at`.

    Args:
        at: shares of training, rising.
        drop: what multiplies the rate at each of them (written `factor`).
    """

    # `factor` is this class' verb, so the field has another name inside.
    kind: Literal["steps"] = "steps"
    at: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] = (0.6, 0.8)
    drop: Annotated[PositiveFloat, Field(alias="factor", lt=1)] = 0.1

    def shape(self, progress: Any) -> Any:
        """The product of the drops that lie behind."""
        passed = sum(ops.cast(progress >= share, "float32") for share in self.at)
        return ops.power(ops.cast(self.drop, "float32"), passed)


class Exponential(Schedule):
    """A steady decay that ends at `floor`.

    Args:
        floor: the factor at the end, above 0.
    """

    kind: Literal["exponential"] = "exponential"
    floor: Annotated[PositiveFloat, Field(lt=1)] = 0.01

    def shape(self, progress: Any) -> Any:
        """1 at the start, `floor` at the end."""
        return ops.exp(math.log(self.floor) * progress)


def _completed(value: Any) -> Any:
    """`cosine` alone is a kind; a mapping without `kind` changes the default's arguments."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "constant", **value} if isinstance(value, dict) else value


_Kinds = Annotated[Constant | Cosine | Linear | Steps | Exponential, Field(discriminator="kind")]
AnySchedule = Annotated[_Kinds, BeforeValidator(_completed)]
