"""Augmentation as a pure function of (seed, view number, example index).

Teacher and student see the same picture, an answer that is kept stays valid, a resumed run sees what the
uninterrupted one saw. All random numbers of a view come from one table, gathered by index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.lazy import tf
from kdcli.spec import Augment


class Views:
    """The augmented views of a split.

    Args:
        augments: in the order in which they are applied; none gives one view, the example as it is.
        seed: of the draws.
        count: distinct views that epochs take in turn; None is a new one every epoch.
        examples: how many examples the split has.
    """

    def __init__(self, augments: Sequence[Augment], *, seed: int, count: int | None, examples: int) -> None:
        self.augments = tuple(augments)
        self.seed = seed
        self.count = count if self.augments else 1
        self.examples = examples
        self.draws = sum(augment.draws for augment in self.augments)

    def check(self, examples: Examples) -> None:
        """Refuse augmentation of what is no picture: three axes, or two of bytes.

        Raises:
            UsageError: the data is not pictures.
        """
        for name, shape in examples.shapes.items():
            picture = len(shape) == 3 or (len(shape) == 2 and examples.dtypes[name] == "uint8")
            if self.augments and not picture:
                kinds = ", ".join(augment.kind for augment in self.augments)
                raise UsageError(f"data.augment: {kinds} needs pictures, the input {name} has shape {shape}")

    def of_epoch(self, epoch: int) -> int:
        """The view number of an epoch (both from 0)."""
        return epoch if self.count is None else epoch % self.count

    def table(self, view: int) -> Any:
        """The view's random numbers, (examples, draws) in [0, 1)."""
        shape = [self.examples if self.augments else 1, self.draws]
        return tf.random.stateless_uniform(shape, seed=tf.stack([self.seed, view]))

    def apply(self, inputs: dict[str, Any], positions: Any, table: Any) -> dict[str, Any]:
        """The view of a raw batch at some positions; the type of the values stays as it is."""
        if not self.augments:
            return inputs
        drawn = tf.gather(table, positions)
        return {name: self._augmented(images, drawn) for name, images in inputs.items()}

    def _augmented(self, images: Any, drawn: Any) -> Any:
        flat = len(images.shape) == 3
        images = images[..., None] if flat else images
        used = 0
        for augment in self.augments:
            images = augment(images, drawn[:, used : used + augment.draws])
            used += augment.draws
        return images[..., 0] if flat else images
