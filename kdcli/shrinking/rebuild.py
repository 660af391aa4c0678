"""Rebuild a model without some of its channels: a smaller configuration, and the weights that stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcli.errors import ModelError, summarize_error
from kdcli.lazy import keras
from kdcli.models.keras.layers import Path, iterate_layers
from kdcli.shrinking.channels import Binding, TracedChannels
from kdcli.shrinking.groups import Kept
from kdcli.tensors import KerasModel

# Shapes that layers were built for; the inputs determine them again.
_BUILT = ("build_config", "build_input_shape")


def rebuild(channels: TracedChannels, kept: Kept) -> KerasModel:
    """Build the smaller model with the weights that stay.

    Raises:
        ModelError: a layer cannot be built from its configuration, or its weights do not have the expected shapes.
    """
    model = channels.model
    config = copy.deepcopy(model.get_config())
    for (path, keys), compute in channels.edits.items():
        _set(find_config(config, path), keys, compute(kept.count))
    built = build_like(model, config)
    bound = bind_by_variable(channels)
    for old, new in zip(model.weights, built.weights, strict=True):
        value = take_kept(old.numpy(), bound.get(id(old), ()), kept)
        if value.shape != tuple(new.shape):
            raise ModelError(
                f"{model.name}: the weight {old.path} has the shape {tuple(new.shape)} in the smaller model, not "
                f"{value.shape}: its layer cannot be shrunk",
                hint="kd inspect zoo:cnn --data D lists students that need no shrinking",
            )
        new.assign(value)
    finalize_layers(built)
    return built


def build_like(model: KerasModel, config: Mapping[str, Any]) -> KerasModel:
    """Build a model of the same class from a configuration.

    Raises:
        ModelError: a layer cannot be built.
    """
    kind = keras.Sequential if isinstance(model, keras.Sequential) else keras.Model
    try:
        built = kind.from_config(_forget_shapes(config))
        if not built.built:
            built.build(model.input_shape)
    except (ValueError, TypeError, KeyError) as error:
        reason = summarize_error(error)
        raise ModelError(
            f"{model.name}: the smaller model cannot be built from its configuration: {reason:.200}",
            hint="write Lambda layers as classes in a --code file; kd inspect zoo:cnn --data D lists students",
        ) from error
    return built


def finalize_layers(model: KerasModel) -> None:
    """Let layers compute what they derive from their weights, as they do after loading a file."""
    for _, layer in iterate_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def bind_by_variable(channels: TracedChannels) -> dict[int, tuple[Binding, ...]]:
    """The bindings of each weight, by the identity of the weight."""
    found: dict[int, tuple[Binding, ...]] = {}
    for (variable, _), binding in channels.bindings.items():
        found[variable] = (*found.get(variable, ()), binding)
    return found


def take_kept(value: np.ndarray, bindings: tuple[Binding, ...], kept: Kept) -> np.ndarray:
    """The part of a weight that stays."""
    for binding in bindings:
        value = np.compress(kept.mask(binding.vector), value, axis=binding.axis)
    return value


def _forget_shapes(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _forget_shapes(value) for key, value in config.items() if key not in _BUILT}
    return [_forget_shapes(item) for item in config] if isinstance(config, list) else config


def get_entry_name(entry: dict[str, Any]) -> str | None:
    """The name of a layer in its entry of a configuration; a custom layer may leave it out of its own."""
    return entry.get("name") or entry["config"].get("name")


def find_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration of a layer inside that of a model."""
    for name in path:
        config = next(entry["config"] for entry in config["layers"] if get_entry_name(entry) == name)
    return config


def _set(config: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        config = config[key]
    config[keys[-1]] = value
