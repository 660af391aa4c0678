"""From the student's feature to the shape of the teacher's: made from traced shapes, trained, never exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdcli.errors import ModelError
from kdcli.lazy import keras

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Projection:
    """Stock Keras layers in a row, and what they do in words."""

    layers: tuple[Any, ...]
    text: str

    def __call__(self, feature: Any) -> Any:
        """The projected feature."""
        for layer in self.layers:
            feature = layer(feature)
        return feature

    @property
    def variables(self) -> list[Any]:
        """The weights of all layers."""
        return [variable for layer in self.layers for variable in layer.variables]


def make_projection(student: Shape, teacher: Shape, *, pair: str) -> Projection | None:
    """The projection that a pair of features needs, or None when the shapes are equal.

    Pooling or resizing for height and width, a 1×1 convolution or dense layer for channels.

    Args:
        student, teacher: shapes without the batch axis: (h, w, c), (steps, c) or (c,).
        pair: what messages call it.

    Raises:
        ModelError: shapes that cannot be matched.
    """
    if student == teacher:
        return None
    if None in student or None in teacher:
        raise ModelError(
            f"{pair}: shapes {student} and {teacher} are not fixed", hint="name layers of fixed shape"
        )
    layers: list[Any] = []
    words: list[str] = []
    shape = list(student)
    if len(shape) > 1 and len(teacher) == 1:
        pool = keras.layers.GlobalAveragePooling2D if len(shape) == 3 else keras.layers.GlobalAveragePooling1D
        layers.append(pool(name="projection_pooling"))
        words.append("average over positions")
        shape = shape[-1:]
    if len(shape) != len(teacher):
        raise ModelError(
            f"{pair}: a student feature of shape {student} cannot become {teacher}",
            hint="pair a map with a map, or a vector with any teacher vector",
        )
    if len(shape) == 3 and shape[:2] != list(teacher[:2]):
        layer, text = _resizing(shape[:2], teacher[:2])
        layers.append(layer)
        words.append(text)
        shape = [*teacher[:2], shape[2]]
    if len(shape) == 2 and shape[0] != teacher[0]:
        raise ModelError(
            f"{pair}: {shape[0]} steps cannot become {teacher[0]}", hint="name layers of equal length"
        )
    if shape[-1] != teacher[-1]:
        if len(shape) == 3:
            layers.append(keras.layers.Conv2D(teacher[-1], 1, name="projection_channels"))
        else:
            layers.append(keras.layers.Dense(teacher[-1], name="projection_channels"))
        words.append(f"{'1×1 convolution' if len(shape) == 3 else 'dense'} {shape[-1]} → {teacher[-1]}")
    built: Shape = (None, *student)
    for layer in layers:
        layer.build(built)
        built = layer.compute_output_shape(built)
    return Projection(tuple(layers), ", ".join(words))


def _resizing(size: list[Any], wanted: Any) -> tuple[Any, str]:
    height, width = wanted
    if size[0] % height == 0 and size[1] % width == 0:
        window = (size[0] // height, size[1] // width)
        layer = keras.layers.AveragePooling2D(window, name="projection_pooling")
        return layer, f"average pool {window[0]}×{window[1]}"
    layer = keras.layers.Resizing(height, width, name="projection_resizing")
    return layer, f"resize {size[0]}×{size[1]} → {height}×{width}"
