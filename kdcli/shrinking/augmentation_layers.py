"""The augmentation layers of a model: they act in training only, so a student need not inherit them."""

from __future__ import annotations

import copy
from typing import Any

from kdcli.lazy import keras
from kdcli.models.keras.layers import copy_weights, iterate_layers
from kdcli.shrinking.rebuild import build_like, finalize_layers, get_entry_name
from kdcli.tensors import KerasModel

# Layers that return their input unchanged outside of training.
_NAMES = (
    "RandomFlip",
    "RandomRotation",
    "RandomTranslation",
    "RandomZoom",
    "RandomContrast",
    "RandomBrightness",
    "RandomHue",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomPerspective",
    "RandomPosterization",
    "RandomGrayscale",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomGaussianBlur",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomInvert",
    "RandAugment",
    "AugMix",
    "CutMix",
    "MixUp",
)


def find_augmentation(model: KerasModel) -> list[Any]:
    """The augmentation layers of a model, nested models included."""
    kinds = tuple(getattr(keras.layers, name) for name in _NAMES if hasattr(keras.layers, name))
    return [layer for _, layer in iterate_layers(model) if isinstance(layer, kinds)]


def remove_augmentation(model: KerasModel) -> KerasModel:
    """Build the model with an identity in the place of each augmentation layer; a model without any is returned.

    Raises:
        ModelError: a layer cannot be built from its configuration.
    """
    names = {layer.name for layer in find_augmentation(model)}
    if not names:
        return model
    config = copy.deepcopy(model.get_config())
    _replace(config, names)
    built = build_like(model, config)
    old = {path: layer for path, layer in iterate_layers(model) if layer.name not in names}
    copy_weights(model, built, skip=[path for path, _ in iterate_layers(built) if path not in old])
    finalize_layers(built)
    return built


def _replace(config: dict[str, Any], names: set[str]) -> None:
    for entry in config.get("layers", ()):
        if get_entry_name(entry) in names:
            entry["module"], entry["class_name"] = "keras.layers", "Identity"
            entry["registered_name"] = None
            entry["config"] = {"name": get_entry_name(entry)}
            entry.pop("build_config", None)
        elif isinstance(entry["config"], dict):
            _replace(entry["config"], names)
