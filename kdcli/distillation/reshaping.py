"""Stock Keras layers one after the other, each built for what the one before gives, and what they do in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.lazy import keras


class Rows:
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
