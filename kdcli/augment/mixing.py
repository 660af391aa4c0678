"""Augmentations that mix each image with that of another example, its partner."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar

from pydantic import Field

from kdcli.lazy import tf
from kdcli.spec import Augment, PositiveFloat
from kdcli.tensors import Tensor

# Intervals in the table of quantiles; values in between are interpolated linearly.
_POINTS = 4096
# Halvings of an interval, enough for float64.
_BISECTIONS = 60


class Mixing(Augment):
    """Mixes each image, and its label, with a partner that its draws select from the whole split.

    Partner and fraction are draws of the view, so a mixed image is also a function of (seed, view, example).

    Args:
        alpha: parameter of Beta(alpha, alpha), from which the fraction of the image itself is drawn; 1 is
            uniform, small values leave most images almost unchanged.
    """

    draws: ClassVar[int] = 2

    alpha: Annotated[PositiveFloat, Field(ge=0.01, le=100)] = 1.0

    def partners(self, draws: Tensor, examples: int) -> Tensor:
        """Select the partner of each image, (batch,) indices below `examples`."""
        scaled = tf.cast(draws[:, 0], tf.float64) * examples
        return tf.minimum(tf.cast(scaled, tf.int64), examples - 1)

    def fractions(self, draws: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Compute the fraction of its own label for each image of a size (h, w), (batch,) float32."""
        raise TypeError(f"{type(self).__name__} has no formula")

    def mix(self, images: Tensor, partners: Tensor, draws: Tensor) -> Tensor:
        """Mix images with their partners, both (batch, h, w, channels) of any type, by draws (batch, `draws`)."""
        raise TypeError(f"{type(self).__name__} has no formula")


def sample_beta(draws: Tensor, alpha: float) -> Tensor:
    """Map draws from [0, 1) to samples of Beta(alpha, alpha), (batch,) float32."""
    table = tf.constant(_compute_beta_quantiles(alpha), tf.float32)
    place = draws * _POINTS
    left = tf.minimum(tf.cast(place, tf.int32), _POINTS - 1)
    low, high = tf.gather(table, left), tf.gather(table, left + 1)
    return low + (place - tf.cast(left, tf.float32)) * (high - low)


@lru_cache(maxsize=64)
def _compute_beta_quantiles(alpha: float) -> tuple[float, ...]:
    """Compute the quantiles of Beta(alpha, alpha) at 0, 1/_POINTS, ... 1 by bisection of its distribution."""
    # Lifted out of any function that is being traced: the result is Python numbers, not part of the graph.
    with tf.init_scope():
        levels = tf.linspace(tf.constant(0.0, tf.float64), 1.0, _POINTS + 1)
        low, high = tf.zeros_like(levels), tf.ones_like(levels)
        parameter = tf.fill([_POINTS + 1], tf.constant(alpha, tf.float64))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = tf.math.betainc(parameter, parameter, middle) < levels
            low, high = tf.where(below, middle, low), tf.where(below, high, middle)
        return tuple(((low + high) / 2).numpy().tolist())
