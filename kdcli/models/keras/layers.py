"""The layers of a model by path, and copying their weights into another model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.tensors import KerasModel

# The path of a layer: its name, after the names of the nested models around it.
Path = tuple[str, ...]


def iterate_layers(model: KerasModel, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each layer with its path; a nested model is replaced by its layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from iterate_layers(layer, (*path, layer.name))
        else:
            yield (*path, layer.name), layer


def copy_weights(old: KerasModel, new: KerasModel, *, skip: Collection[Path] = ()) -> None:
    """Copy the weights of every layer of the new model from the layer with the same path, except those to skip."""
    layers = dict(iterate_layers(old))
    for path, layer in iterate_layers(new):
        if path not in skip:
            values: Sequence[np.ndarray] = layers[path].get_weights()
            layer.set_weights(values)


@contextmanager
def wrap_calls(layers: Sequence[Any], wrap: Callable[[int, Any], Any]) -> Iterator[None]:
    """Replace the `call` of layers or operations during the block.

    Args:
        layers: each once.
        wrap: makes the new `call` from the number of the layer and its own `call`.
    """
    try:
        for number, layer in enumerate(layers):
            # Set in the instance's dictionary, so that Keras does not track the attribute.
            vars(layer)["call"] = wrap(number, layer.call)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("call", None)
