"""Augmentation as a pure function of (seed, view number, example index).

Teacher and student see the same image, cached teacher outputs stay valid, and a resumed run sees the same images
as an uninterrupted one. All random numbers of a view come from one table that is gathered by example index; so do
the partners that `mixup` and `cutmix` mix into an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdcli.augment.mixing import Mixing
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.lazy import tf
from kdcli.spec import Augment
from kdcli.tensors import Tensor, Tensors

_TakeInputs = Callable[[Tensor], Tensors]


class Views:
    """The augmented views of a split.

    Args:
        augments: augmentations in the order in which they are applied; without any there is one view, the
            original examples.
        seed: RNG seed for the draws.
        count: number of distinct views that epochs cycle through; None for a new view each epoch.
        examples: number of examples in the split.
    """

    def __init__(self, augments: Sequence[Augment], *, seed: int, count: int | None, examples: int) -> None:
        self.augments = tuple(augments)
        self.seed = seed
        self.count = count if self.augments else 1
        self.examples = examples
        self.draws = sum(augment.draws for augment in self.augments)
        ends = [sum(augment.draws for augment in self.augments[: n + 1]) for n in range(len(self.augments))]
        self._steps = [(a, slice(end - a.draws, end)) for a, end in zip(self.augments, ends, strict=True)]

    @property
    def mixes(self) -> bool:
        """Whether images and their labels are mixed with those of other examples."""
        return any(isinstance(augment, Mixing) for augment in self.augments)

    def check(self, examples: Examples) -> None:
        """Check that augmented inputs are images: three axes, or two axes of bytes.

        Raises:
            UsageError: an input is not an image.
        """
        for name, shape in examples.shapes.items():
            is_image = len(shape) == 3 or (len(shape) == 2 and examples.dtypes[name] == "uint8")
            if self.augments and not is_image:
                kinds = ", ".join(augment.kind for augment in self.augments)
                raise UsageError(f"data.augment: {kinds} requires images; input {name} has shape {shape}")
        sizes = {name: shape[:2] for name, shape in examples.shapes.items()}
        if self.mixes and len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
            raise UsageError(f"data.augment: mixing requires inputs of equal height and width, got {found}")

    def select_view(self, epoch: int) -> int:
        """Select the view number for an epoch; both count from 0."""
        return epoch if self.count is None else epoch % self.count

    def table(self, view: int) -> Tensor:
        """Draw the random numbers of a view, (examples, draws) in [0, 1)."""
        shape = [self.examples if self.augments else 1, self.draws]
        return tf.random.stateless_uniform(shape, seed=tf.stack([self.seed, view]))

    def apply(
        self, inputs: Tensors, positions: Tensor, table: Tensor, *, take: _TakeInputs | None = None
    ) -> Tensors:
        """Apply the view to a raw batch; values keep their type.

        A mixing partner has passed through the steps before the mixing, except for other mixing.

        Args:
            inputs: raw inputs (batch, ...) by name.
            positions: example indices (batch,).
            table: random numbers of the view.
            take: reads raw inputs at positions, for the partners; required if the view mixes.
        """
        if not self.augments:
            return inputs
        drawn, images = tf.gather(table, positions), _add_channels(inputs)
        for number, (augment, columns) in enumerate(self._steps):
            draws = drawn[:, columns]
            if not isinstance(augment, Mixing):
                images = {name: augment(batch, draws) for name, batch in images.items()}
                continue
            assert take is not None
            at = tf.cast(augment.partners(draws, self.examples), positions.dtype)
            others = self._apply_unmixed(take(at), tf.gather(table, at), steps=number)
            images = {name: augment.mix(batch, others[name], draws) for name, batch in images.items()}
        return {name: batch[..., 0] if len(inputs[name].shape) == 3 else batch for name, batch in images.items()}

    def _apply_unmixed(self, inputs: Tensors, drawn: Tensor, *, steps: int) -> Tensors:
        """Apply the first steps to raw inputs, except for those that mix."""
        images = _add_channels(inputs)
        for augment, columns in self._steps[:steps]:
            if not isinstance(augment, Mixing):
                images = {name: augment(batch, drawn[:, columns]) for name, batch in images.items()}
        return images

    def sources(self, positions: Tensor, table: Tensor, *, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """List the sources that images are mixed from, each as (positions, fractions).

        The first source is the image itself; the fractions (batch,) of an image add up to 1.

        Args:
            positions: example indices (batch,).
            table: random numbers of the view.
            size: height and width of the images.
        """
        drawn = tf.gather(table, positions)
        found = [(positions, tf.ones_like(drawn[:, 0]))]
        for augment, columns in self._steps:
            if isinstance(augment, Mixing):
                draws = drawn[:, columns]
                fraction = augment.fractions(draws, size=size)
                found = [(at, before * fraction) for at, before in found]
                found.append((tf.cast(augment.partners(draws, self.examples), positions.dtype), 1.0 - fraction))
        return found


def create_identity_views(examples: Examples) -> Views:
    """Create the single view of examples without augmentation."""
    return Views((), seed=0, count=1, examples=len(examples))


def _add_channels(inputs: Tensors) -> Tensors:
    return {
        name: batch[..., None] if len(batch.shape) == 3 else tf.convert_to_tensor(batch)
        for name, batch in inputs.items()
    }
