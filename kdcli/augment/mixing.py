"""Augmentation that mixes each picture with another one, its partner."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import Field

from kdcli.lazy import tf
from kdcli.spec import Augment, PositiveFloat

# Points of the table that a share is read from; straight lines between them.
POINTS = 4096


class Mixing(Augment):
    """Mixes each picture with a partner that its draws choose from the whole split, labels in the same shares.

    Partner and share are draws of the view, so a mixed picture too is a function of (seed, view, example).

    Args:
        alpha: the share of the picture itself is drawn from Beta(alpha, alpha); 1 is uniform, small values
            leave most pictures nearly as they are.
    """

    draws: ClassVar[int] = 2

    alpha: Annotated[PositiveFloat, Field(ge=0.01, le=100)] = 1.0

    def partners(self, draws: Any, examples: int) -> Any:
        """The partner of each picture (batch,), an index below `examples`."""
        drawn = tf.cast(draws[:, 0], tf.float64) * examples
        return tf.minimum(tf.cast(drawn, tf.int64), examples - 1)

    def shares(self, draws: Any, *, size: tuple[int, int]) -> Any:
        """The share of its own label that each picture of a size (h, w) keeps, (batch,) float32."""
        raise TypeError(f"{type(self).__name__} has no formula")

    def mix(self, images: Any, partners: Any, draws: Any) -> Any:
        """Mix images with their partners, both (batch, h, w, channels) of any type, by draws (batch, `draws`)."""
        raise TypeError(f"{type(self).__name__} has no formula")


def sample_beta(draws: Any, alpha: float) -> Any:
    """Draws from [0, 1) as numbers distributed by Beta(alpha, alpha), (batch,) float32."""
    table = tf.constant(_beta_quantiles(alpha), tf.float32)
    place = draws * POINTS
    left = tf.minimum(tf.cast(place, tf.int32), POINTS - 1)
    low, high = tf.gather(table, left), tf.gather(table, left + 1)
    return low + (place - tf.cast(left, tf.float32)) * (high - low)


@lru_cache(maxsize=64)
def _beta_quantiles(alpha: float) -> tuple[float, ...]:
    """The quantiles of Beta(alpha, alpha) at 0, 1/POINTS, ... 1, by halving intervals of its distribution."""
    # Lifted out of any function that is being traced: these are numbers, not a part of the graph.
    with tf.init_scope():
        wanted = tf.linspace(tf.constant(0.0, tf.float64), 1.0, POINTS + 1)
        low, high = tf.zeros_like(wanted), tf.ones_like(wanted)
        parameter = tf.fill([POINTS + 1], tf.constant(alpha, tf.float64))
        for _ in range(60):
            middle = (low + high) / 2
            below = tf.math.betainc(parameter, parameter, middle) < wanted
            low, high = tf.where(below, middle, low), tf.where(below, high, middle)
        return tuple(((low + high) / 2).numpy().tolist())
