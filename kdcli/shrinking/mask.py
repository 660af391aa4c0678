"""Masking: a copy of the full model in which nothing reads the channels that go."""

from __future__ import annotations

import numpy as np

from kdcli.shrinking.channels import TracedChannels
from kdcli.shrinking.groups import Kept
from kdcli.shrinking.rebuild import bind_by_variable, build_like, finalize_layers
from kdcli.tensors import KerasModel


def mask_channels(channels: TracedChannels, kept: Kept) -> KerasModel:
    """Copy the model, with zeros in the rows that read removed channels: the smaller model must equal it."""
    model = channels.model
    masked = build_like(model, model.get_config())
    bound = bind_by_variable(channels)
    for old, new in zip(model.weights, masked.weights, strict=True):
        value = np.array(old.numpy())
        for binding in bound.get(id(old), ()):
            if binding.role == "reads":
                np.moveaxis(value, binding.axis, 0)[~kept.mask(binding.vector)] = 0
        new.assign(value)
    finalize_layers(masked)
    return masked
