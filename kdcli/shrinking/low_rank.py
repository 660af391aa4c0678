"""Low rank: a large Dense layer split into two smaller ones by its singular values."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.models.keras.layers import Path, copy_weights, iterate_layers
from kdcli.shrinking.rebuild import build_like, finalize_layers, find_config, get_entry_name
from kdcli.tensors import KerasModel

LOW_RANK_SUFFIX = "_low_rank"


@dataclass(frozen=True)
class SplitLayer:
    """A Dense layer that was split.

    Args:
        path: of the layer.
        rank: between the two layers.
        energy: fraction of the sum of the squared singular values that stays.
    """

    path: Path
    rank: int
    energy: float


def split_dense_layers(model: KerasModel, rank: int) -> tuple[KerasModel, list[SplitLayer]]:
    """Split every Dense layer where that saves weights: rank × (inputs + units) instead of inputs × units.

    The first of the two layers has no bias and no activation; the second has those of the original.

    Args:
        model: functional or sequential.
        rank: size between the two layers.

    Returns:
        The model and the layers that were split; the same model if there are none.

    Raises:
        ModelError: a layer cannot be built from its configuration.
    """
    every = dict(iterate_layers(model))
    split_before = {path for path in every if (*path[:-1], path[-1] + LOW_RANK_SUFFIX) in every}
    found = {
        path: layer
        for path, layer in every.items()
        if _saves(layer, rank) and path not in split_before and not path[-1].endswith(LOW_RANK_SUFFIX)
    }
    if not found:
        return model, []
    config = copy.deepcopy(model.get_config())
    for path in found:
        _split(find_config(config, path[:-1]), path[-1], rank)
    smaller = build_like(model, config)
    new = {(*path[:-1], path[-1] + LOW_RANK_SUFFIX) for path in found}
    copy_weights(model, smaller, skip={*found, *new})
    finalize_layers(smaller)
    layers, splits = dict(iterate_layers(smaller)), []
    for path, layer in found.items():
        kernel, *bias = layer.get_weights()
        left, values, right = np.linalg.svd(kernel.astype(np.float64), full_matrices=False)
        roots = np.sqrt(values[:rank])
        layers[*path[:-1], path[-1] + LOW_RANK_SUFFIX].set_weights([left[:, :rank] * roots])
        layers[path].set_weights([roots[:, None] * right[:rank], *bias])
        energy = float(np.sum(values[:rank] ** 2) / max(np.sum(values**2), 1e-30))
        splits.append(SplitLayer(path, rank, energy))
    return smaller, splits


def _saves(layer: Any, rank: int) -> bool:
    if not isinstance(layer, keras.layers.Dense) or type(layer) is not keras.layers.Dense:
        return False
    if layer.lora_enabled or layer.quantization_mode:
        return False
    inputs, units = layer.kernel.shape
    return bool(rank * (inputs + units) < inputs * units)


def _split(config: dict[str, Any], name: str, rank: int) -> None:
    """Insert the first layer in front of the second one, which keeps the name."""
    position = next(at for at, entry in enumerate(config["layers"]) if get_entry_name(entry) == name)
    second = config["layers"][position]
    first = copy.deepcopy(second)
    first["config"].update(
        name=name + LOW_RANK_SUFFIX,
        units=rank,
        activation="linear",
        use_bias=False,
        bias_regularizer=None,
        bias_constraint=None,
        activity_regularizer=None,
    )
    if "name" in first:
        first["name"] = name + LOW_RANK_SUFFIX
    for number, call in enumerate(second.get("inbound_nodes", ())):
        # The input is the first argument, or the only one by name.
        _redirect(call["args"] or call["kwargs"], [name + LOW_RANK_SUFFIX, number, 0])
    config["layers"].insert(position, first)


def _redirect(value: Any, reference: list[Any]) -> None:
    """Replace the only tensor of a call."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        value["config"]["keras_history"] = reference
        return
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _redirect(item, reference)
