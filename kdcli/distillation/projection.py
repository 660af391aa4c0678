"""From the student's feature to the shape of the teacher's: made from traced shapes, trained, never exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.loss import Shape


@dataclass(frozen=True)
class Projection:
    """Stock Keras layers in a row, and what they do in words.

    Args:
        layers: from the student's feature to the teacher's shape.
        text: what they do.
        teacher_layers: what the teacher's feature goes through: a class token is left out. They have no weights.
        shape: of both features after that, without the batch axis.
    """

    layers: tuple[Any, ...]
    text: str
    teacher_layers: tuple[Any, ...] = ()
    shape: Shape = ()

    def __call__(self, feature: Any) -> Any:
        """The projected feature of the student."""
        for layer in self.layers:
            feature = layer(feature)
        return feature

    def of_teacher(self, feature: Any) -> Any:
        """The teacher's feature as the student's is compared with it."""
        for layer in self.teacher_layers:
            feature = layer(feature)
        return feature

    @property
    def variables(self) -> list[Any]:
        """The weights of all layers."""
        return [variable for layer in self.layers for variable in layer.variables]


def can_project(student: Shape, teacher: Shape) -> bool:
    """Whether there is a projection from a student's shape to a teacher's."""
    if student == teacher:
        return True
    if None in student or None in teacher or len(student) > 3 or len(teacher) > 3:
        return False
    if len(student) == 3 and len(teacher) == 2:
        return find_grid(int(teacher[0] or 0)) is not None
    if len(student) == 2 and len(teacher) == 3:
        return find_grid(int(student[0] or 0), like=teacher) is not None
    return len(student) == len(teacher) or len(teacher) == 1


def find_grid(steps: int, *, like: Shape = ()) -> tuple[int, int, int] | None:
    """Height, width and class tokens (0 or 1) of a picture's tokens; None where they are no grid.

    Args:
        steps: length of the sequence.
        like: the shape of a map that may have as many positions.
    """
    positions = math.prod(side or 0 for side in like[:2])
    for tokens in (0, 1):
        if like and steps - tokens == positions:
            return int(like[0] or 0), int(like[1] or 0), tokens
    for tokens in (0, 1):
        side = math.isqrt(max(steps - tokens, 0))
        if side > 1 and side * side == steps - tokens:
            return side, side, tokens
    return None


def make_projection(student: Shape, teacher: Shape, *, pair: str, images: bool = False) -> Projection | None:
    """The projection that a pair of features needs, or None when the shapes are equal.

    Pooling or resizing for space, a reshape between tokens and maps (a class token is left out), a 1×1
    convolution or dense layer for channels.

    Args:
        student, teacher: shapes without the batch axis: (h, w, c), (steps, c) or (c,).
        pair: what messages call it.
        images: whether the tokens are those of pictures, which are resized as a grid.

    Raises:
        ModelError: shapes that cannot be matched.
    """
    if student == teacher:
        return None
    if None in student or None in teacher:
        raise ModelError(
            f"{pair}: shapes {student} and {teacher} are not fixed", hint="name layers of fixed shape"
        )
    if not can_project(student, teacher):
        raise _impossible(student, teacher, pair)
    rows = _LayerChain(student)
    target = _LayerChain(teacher)
    if len(teacher) == 1 and len(student) > 1:
        rows.average()
    elif len(teacher) == 2:
        _to_sequence(rows, target, images)
    elif len(teacher) == 3:
        if len(student) == 2:
            height, width, tokens = find_grid(int(student[0] or 0), like=teacher) or (0, 0, 0)
            rows.drop_tokens(tokens)
            rows.to_map(height, width)
        rows.resize(teacher[:2])
    rows.channels(target.shape[-1])
    text = ", ".join([*rows.words, *(f"{words} of the teacher" for words in target.words)])
    return Projection(tuple(rows.layers), text, tuple(target.layers), tuple(target.shape))


def _to_sequence(rows: _LayerChain, target: _LayerChain, pictures: bool) -> None:
    """Tokens or a map to as many steps as the teacher has."""
    steps = target.shape[0]
    grid = find_grid(steps)
    if len(rows.shape) == 3:
        assert grid is not None
        height, width, tokens = find_grid(steps, like=tuple(rows.shape)) or grid
        target.drop_tokens(tokens)
        rows.resize((height, width))
        rows.to_steps()
        return
    own = find_grid(rows.shape[0])
    if not pictures or grid is None or own is None or rows.shape[0] == steps:
        rows.resize((steps,))
        return
    rows.drop_tokens(own[2])
    target.drop_tokens(grid[2])
    if rows.shape[0] != target.shape[0]:
        rows.to_map(*own[:2])
        rows.resize(grid[:2])
        rows.to_steps()


def _impossible(student: Shape, teacher: Shape, pair: str) -> ModelError:
    hint = "pair a map with a map, or a vector with any teacher vector"
    if len(student) > 1 and len(teacher) > 1 and len(student) <= 3 and len(teacher) <= 3:
        hint = "tokens become a map where their number is a square, or a square and a class token"
    return ModelError(f"{pair}: a student feature of shape {student} cannot become {teacher}", hint=hint)


class _LayerChain:
    """Layers in a row that bring a feature from one shape to another.

    Args:
        shape: of the feature, without the batch axis and fixed.
    """

    def __init__(self, shape: Sequence[Any]) -> None:
        self.shape = [int(side) for side in shape]
        self.layers: list[Any] = []
        self.words: list[str] = []

    def average(self) -> None:
        """A vector: the mean over positions or steps."""
        layers = keras.layers
        pool = layers.GlobalAveragePooling2D if len(self.shape) == 3 else layers.GlobalAveragePooling1D
        self._add(pool(name="projection_pooling"), "average over positions")

    def drop_tokens(self, tokens: int) -> None:
        """Leave out what stands before the tokens of the picture."""
        if tokens:
            self._add(keras.layers.Cropping1D((tokens, 0), name="projection_tokens"), "without the class token")

    def to_map(self, height: int, width: int) -> None:
        """Steps as the rows of a map."""
        words = f"{self.shape[0]} tokens as a map {height}×{width}"
        self._add(keras.layers.Reshape((height, width, self.shape[-1]), name="projection_map"), words)

    def to_steps(self) -> None:
        """The positions of a map, row by row."""
        height, width, channels = self.shape
        words = f"map {height}×{width} as {height * width} tokens"
        self._add(keras.layers.Reshape((height * width, channels), name="projection_tokens"), words)

    def resize(self, wanted: Sequence[Any]) -> None:
        """Another height and width, or number of steps: averages where it divides, else interpolation."""
        size = self.shape[:-1]
        wanted = [int(side) for side in wanted]
        if size == wanted:
            return
        divides = all(side % other == 0 for side, other in zip(size, wanted, strict=True))
        window = [side // other for side, other in zip(size, wanted, strict=True)]
        shown = f"{_sides(size)} → {_sides(wanted)}"
        layers = keras.layers
        if divides:
            pool = layers.AveragePooling2D if len(size) == 2 else layers.AveragePooling1D
            self._add(pool(_one_or_all(window), name="projection_pooling"), f"average pool {_sides(window)}")
        elif len(size) == 2:
            self._add(layers.Resizing(*wanted, name="projection_resizing"), f"resize {shown}")
        else:
            channels = self.shape[-1]
            self._add(layers.Reshape((*size, 1, channels), name="projection_column"))
            self._add(layers.Resizing(*wanted, 1, name="projection_resizing"), f"resize {shown} steps")
            self._add(layers.Reshape((*wanted, channels), name="projection_steps"))

    def channels(self, wanted: int) -> None:
        """Another number of channels, by weights that are the same at every position."""
        own = self.shape[-1]
        if own == wanted:
            return
        if len(self.shape) == 3:
            layer = keras.layers.Conv2D(wanted, 1, name="projection_channels")
        else:
            layer = keras.layers.Dense(wanted, name="projection_channels")
        self._add(layer, f"{'1×1 convolution' if len(self.shape) == 3 else 'dense'} {own} → {wanted}")

    def _add(self, layer: Any, words: str | None = None) -> None:
        layer.build((None, *self.shape))
        self.shape = [int(side) for side in layer.compute_output_shape((None, *self.shape))[1:]]
        self.layers.append(layer)
        self.words.extend([words] if words else [])


def _sides(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size)


def _one_or_all(window: Sequence[int]) -> Any:
    return tuple(window) if len(window) > 1 else window[0]
