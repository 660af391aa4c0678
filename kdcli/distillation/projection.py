"""Projections of the student's feature to the teacher's shape: built from traced shapes, never exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.tensors import Layer, Shape, Tensor, Variable


@dataclass(frozen=True)
class Projection:
    """A sequence of standard Keras layers, with a description.

    Args:
        layers: layers from the student's feature to the teacher's shape.
        text: description of the layers.
        teacher_layers: layers for the teacher's feature, without weights, which drop a class token.
        shape: resulting shape of both features, without the batch axis.
    """

    layers: tuple[Layer, ...]
    text: str
    teacher_layers: tuple[Layer, ...] = ()
    shape: Shape = ()

    def __call__(self, feature: Tensor) -> Tensor:
        """Project the student's feature."""
        for layer in self.layers:
            feature = layer(feature)
        return feature

    def project_teacher(self, feature: Tensor) -> Tensor:
        """Apply the teacher layers to the teacher's feature."""
        for layer in self.teacher_layers:
            feature = layer(feature)
        return feature

    @property
    def variables(self) -> list[Variable]:
        """The variables of all layers."""
        return [variable for layer in self.layers for variable in layer.variables]


def can_project(student: Shape, teacher: Shape) -> bool:
    """Whether a projection from a student's to a teacher's shape exists."""
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
    """Find height, width and number of class tokens (0 or 1) of image tokens; None if they are not a grid.

    Args:
        steps: length of the sequence.
        like: shape of a map that may have as many positions.
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
    """Make the projection for a pair of features, or None if the shapes are equal.

    It pools or resizes in space, reshapes between tokens and maps (without a class token), and changes the
    channels with a 1×1 convolution or a dense layer.

    Args:
        student, teacher: shapes without the batch axis: (h, w, c), (steps, c) or (c,).
        pair: name of the pair in messages.
        images: whether the tokens are those of images, which are resized as a grid.

    Raises:
        ModelError: the shapes cannot be matched.
    """
    if student == teacher:
        return None
    if None in student or None in teacher:
        raise ModelError(
            f"{pair}: the shapes {student} and {teacher} are not fixed", hint="name layers of fixed shape"
        )
    if not can_project(student, teacher):
        raise _projection_error(student, teacher, pair)
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
    rows.set_channels(target.shape[-1])
    text = ", ".join([*rows.words, *(f"{words} of the teacher" for words in target.words)])
    return Projection(tuple(rows.layers), text, teacher_layers=tuple(target.layers), shape=tuple(target.shape))


def _to_sequence(rows: _LayerChain, target: _LayerChain, images: bool) -> None:
    """Project tokens or a map to the teacher's number of steps."""
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
    if not images or grid is None or own is None or rows.shape[0] == steps:
        rows.resize((steps,))
        return
    rows.drop_tokens(own[2])
    target.drop_tokens(grid[2])
    if rows.shape[0] != target.shape[0]:
        rows.to_map(*own[:2])
        rows.resize(grid[:2])
        rows.to_steps()


def _projection_error(student: Shape, teacher: Shape, pair: str) -> ModelError:
    hint = "pair a map with a map, or a vector with any teacher vector"
    if len(student) > 1 and len(teacher) > 1 and len(student) <= 3 and len(teacher) <= 3:
        hint = "tokens can become a map if their number is a square, or a square plus a class token"
    return ModelError(f"{pair}: a student feature of shape {student} cannot be projected to {teacher}", hint=hint)


class _LayerChain:
    """A chain of layers that changes a feature's shape step by step.

    Args:
        shape: fixed shape of the feature, without the batch axis.
    """

    def __init__(self, shape: Sequence[Any]) -> None:
        self.shape = [int(side) for side in shape]
        self.layers: list[Layer] = []
        self.words: list[str] = []

    def average(self) -> None:
        """Reduce to a vector: the mean over positions or steps."""
        layers = keras.layers
        pool = layers.GlobalAveragePooling2D if len(self.shape) == 3 else layers.GlobalAveragePooling1D
        self._add(pool(name="projection_pooling"), "average over positions")

    def drop_tokens(self, tokens: int) -> None:
        """Drop the tokens before the image tokens."""
        if tokens:
            self._add(keras.layers.Cropping1D((tokens, 0), name="projection_tokens"), "without the class token")

    def to_map(self, height: int, width: int) -> None:
        """Reshape steps to the rows of a map."""
        words = f"{self.shape[0]} tokens as a map {height}×{width}"
        self._add(keras.layers.Reshape((height, width, self.shape[-1]), name="projection_map"), words)

    def to_steps(self) -> None:
        """Reshape a map to a sequence, row by row."""
        height, width, channels = self.shape
        words = f"map {height}×{width} as {height * width} tokens"
        self._add(keras.layers.Reshape((height * width, channels), name="projection_tokens"), words)

    def resize(self, target: Sequence[Any]) -> None:
        """Change height and width, or the number of steps: average pooling if it divides, else interpolation."""
        size = self.shape[:-1]
        new_size = [int(side) for side in target]
        if size == new_size:
            return
        divides = all(side % other == 0 for side, other in zip(size, new_size, strict=True))
        window = [side // other for side, other in zip(size, new_size, strict=True)]
        shown = f"{_sides(size)} → {_sides(new_size)}"
        layers = keras.layers
        if divides:
            pool = layers.AveragePooling2D if len(size) == 2 else layers.AveragePooling1D
            self._add(pool(_one_or_all(window), name="projection_pooling"), f"average pool {_sides(window)}")
        elif len(size) == 2:
            self._add(layers.Resizing(*new_size, name="projection_resizing"), f"resize {shown}")
        else:
            channels = self.shape[-1]
            self._add(layers.Reshape((*size, 1, channels), name="projection_column"))
            self._add(layers.Resizing(*new_size, 1, name="projection_resizing"), f"resize {shown} steps")
            self._add(layers.Reshape((*new_size, channels), name="projection_steps"))

    def set_channels(self, count: int) -> None:
        """Change the number of channels, with weights shared by all positions."""
        before = self.shape[-1]
        if before == count:
            return
        if len(self.shape) == 3:
            layer = keras.layers.Conv2D(count, 1, name="projection_channels")
        else:
            layer = keras.layers.Dense(count, name="projection_channels")
        self._add(layer, f"{'1×1 convolution' if len(self.shape) == 3 else 'dense'} {before} → {count}")

    def _add(self, layer: Layer, words: str | None = None) -> None:
        layer.build((None, *self.shape))
        self.shape = [int(side) for side in layer.compute_output_shape((None, *self.shape))[1:]]
        self.layers.append(layer)
        self.words.extend([words] if words else [])


def _sides(size: Sequence[int]) -> str:
    return "×".join(str(side) for side in size)


def _one_or_all(window: Sequence[int]) -> Any:
    return tuple(window) if len(window) > 1 else window[0]
