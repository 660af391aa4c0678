"""The layers of a model by path, and copying their weights into another model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.shrinking.channels import Path
from kdcli.tensors import KerasModel


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
