"""The input shape of models for images."""

from __future__ import annotations

from kdcli.errors import UsageError


def check_image_shape(model: str, shape: tuple[int, ...]) -> None:
    """Refuse data that a model for images cannot take.

    Args:
        model: what the message calls the model.
        shape: shape of one example.

    Raises:
        UsageError: a shape other than (height, width, channels).
    """
    if len(shape) != 3:
        raise UsageError(
            f"{model} needs images (h, w, channels), the data has shape {shape}",
            hint="use {kind: zoo, name: mlp} for other shapes",
        )
