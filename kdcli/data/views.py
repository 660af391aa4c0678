"""Augmentation as a pure function of (seed, view number, example index).

Teacher and student see the same picture, an answer that is kept stays valid, a resumed run sees what the
uninterrupted one saw. All random numbers of a view come from one table, gathered by index; so do the partners
with which `mixup` and `cutmix` mix a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdcli.augment.mixing import Mixing
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.lazy import tf
from kdcli.spec import Augment

_TakeInputs = Callable[[Any], Mapping[str, Any]]


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
        ends = [sum(augment.draws for augment in self.augments[: n + 1]) for n in range(len(self.augments))]
        self._steps = [(a, slice(end - a.draws, end)) for a, end in zip(self.augments, ends, strict=True)]

    @property
    def mixes(self) -> bool:
        """Whether pictures, and with them labels, are mixed with others."""
        return any(isinstance(augment, Mixing) for augment in self.augments)

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
        if self.mixes and len({shape[:2] for shape in examples.shapes.values()}) > 1:
            raise UsageError("data.augment: mixing needs inputs of one height and width; here they differ")

    def select_view(self, epoch: int) -> int:
        """The view number of an epoch (both from 0)."""
        return epoch if self.count is None else epoch % self.count

    def table(self, view: int) -> Any:
        """The view's random numbers, (examples, draws) in [0, 1)."""
        shape = [self.examples if self.augments else 1, self.draws]
        return tf.random.stateless_uniform(shape, seed=tf.stack([self.seed, view]))

    def apply(
        self, inputs: Mapping[str, Any], positions: Any, table: Any, *, take: _TakeInputs | None = None
    ) -> Mapping[str, Any]:
        """The view of a raw batch at some positions; the type of the values stays as it is.

        A partner is the picture that it is in this view just before the mixing, without other mixing.

        Args:
            inputs: raw inputs by name.
            positions: example indices (batch,).
            table: of the view.
            take: raw inputs at positions, for the partners; needed where the view mixes.
        """
        if not self.augments:
            return inputs
        drawn, pictures = tf.gather(table, positions), _with_channels(inputs)
        for number, (augment, columns) in enumerate(self._steps):
            draws = drawn[:, columns]
            if not isinstance(augment, Mixing):
                pictures = {name: augment(images, draws) for name, images in pictures.items()}
                continue
            assert take is not None
            at = tf.cast(augment.partners(draws, self.examples), positions.dtype)
            others = self._unmixed(take(at), tf.gather(table, at), number)
            pictures = {name: augment.mix(images, others[name], draws) for name, images in pictures.items()}
        return {
            name: images[..., 0] if len(inputs[name].shape) == 3 else images for name, images in pictures.items()
        }

    def _unmixed(self, inputs: Mapping[str, Any], drawn: Any, steps: int) -> Mapping[str, Any]:
        """Raw inputs after the first steps, those that mix left out."""
        pictures = _with_channels(inputs)
        for augment, columns in self._steps[:steps]:
            if not isinstance(augment, Mixing):
                pictures = {name: augment(images, drawn[:, columns]) for name, images in pictures.items()}
        return pictures

    def sources(self, positions: Any, table: Any, *, size: tuple[int, int]) -> list[tuple[Any, Any]]:
        """What the pictures of a view at some positions are mixed from: (positions, shares) for each source.

        The first source is the picture itself; the shares (batch,) of a picture add up to 1.

        Args:
            positions: example indices (batch,).
            table: of the view.
            size: height and width of the pictures.
        """
        drawn = tf.gather(table, positions)
        found = [(positions, tf.ones_like(drawn[:, 0]))]
        for augment, columns in self._steps:
            if isinstance(augment, Mixing):
                draws = drawn[:, columns]
                share = augment.shares(draws, size=size)
                found = [(at, before * share) for at, before in found]
                found.append((tf.cast(augment.partners(draws, self.examples), positions.dtype), 1.0 - share))
        return found


def create_identity_views(examples: Examples) -> Views:
    """The one view of examples without augmentation."""
    return Views((), seed=0, count=1, examples=len(examples))


def _with_channels(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        name: images[..., None] if len(images.shape) == 3 else tf.convert_to_tensor(images)
        for name, images in inputs.items()
    }
