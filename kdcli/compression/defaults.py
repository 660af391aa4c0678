"""What the default recipe leaves to the data and the teacher: losses without labels, and augmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.augment.brightness import Brightness
from kdcli.augment.contrast import Contrast
from kdcli.augment.crop import Crop
from kdcli.augment.cutout import Cutout
from kdcli.augment.flip import Flip
from kdcli.augment.rotate import Rotate
from kdcli.augment.shift import Shift
from kdcli.data.dataset import Dataset
from kdcli.events import Note
from kdcli.lazy import keras
from kdcli.losses.labels import Labels
from kdcli.models.keras.network import KerasNetwork
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe
from kdcli.setup.request import Request
from kdcli.setup.run_location import open_data
from kdcli.shrinking.augmentation_layers import find_augmentation
from kdcli.spec import Augment
from kdcli.zoo import File

# Photos have color and at least this side; they are shifted by up to an eighth of it.
_SHORTEST_PHOTO, _SHIFT = 24, 8


def drop_label_losses(request: Request) -> Request:
    """The request without label losses on unlabelled data, if no recipe is named."""
    recipe = request.recipe
    if request.recipe_given or recipe.losses is None or open_data(request).labelled:
        return request
    losses = tuple(loss for loss in recipe.losses if not isinstance(loss, Labels))
    request.context.on_event(Note("the data has no labels: students learn from the teacher's outputs alone"))
    return replace(request, recipe=recipe.model_copy(update={"losses": losses}))


def add_augmentation(
    request: Request, dataset: Dataset, teacher: KerasNetwork | None
) -> tuple[Request, list[str]]:
    """The request with the teacher's own augmentation, or with light crops on photos.

    Only where neither a recipe nor an option sets the augmentation. The teacher's own is that of its run, or that
    of its layers. Images are not flipped unless the teacher's were: digits, text and signs change their meaning.

    Returns:
        The request, and notes on what was chosen.
    """
    recipe, texts = request.recipe, []
    is_default = not request.recipe_given and request.origins.of(("data", "augment")) == "default"
    if not is_default or recipe.data.augment or not _is_image(dataset):
        return request, []
    found, origin = _read_run_augmentation(request), "as in the training of the teacher"
    if not found:
        for layer in [] if teacher is None else find_augmentation(teacher.model):
            entries = convert_layer(layer, dataset.input_shape)
            found += entries
            if not entries:
                texts.append(f"augmentation layer {layer.name} of the teacher has no equivalent in kd: not used")
        origin = "as in the layers of the teacher" if found else "because the images are photos"
        padding = choose_padding(dataset)
        if padding is not None and not any(isinstance(one, Shift) for one in found):
            origin += ", with light crops" if found else ""
            found.append(Crop(padding=padding))
    if found:
        shown = ", ".join(f"{{{', '.join(f'{k}: {v}' for k, v in one.model_dump().items())}}}" for one in found)
        texts.append(f"augmentation, {origin}: {shown}")
    data = recipe.data.model_copy(update={"augment": tuple(found)})
    return replace(request, recipe=recipe.model_copy(update={"data": data})), texts


def _read_run_augmentation(request: Request) -> list[Augment]:
    """The augmentation of single images with which the run of the teacher was trained."""
    model = request.recipe.teacher.model
    if not isinstance(model, File) or "teacher" in request.models:
        return []
    path = find_run_recipe(Path(model.path))
    if path is None:
        return []
    known = (Flip, Shift, Crop, Rotate, Brightness, Contrast, Cutout)
    return [one for one in read_run_recipe(path).data.augment if isinstance(one, known)]


def _is_image(dataset: Dataset) -> bool:
    (dtype, *others) = dataset.train.dtypes.values()
    return not others and len(dataset.input_shape) in (2, 3) and dtype == np.uint8 and not dataset.is_dense


def choose_padding(dataset: Dataset) -> int | None:
    """The padding of the crops for photos; None for other images, whose positions may mean something."""
    shape = dataset.input_shape
    is_photo = len(shape) == 3 and shape[-1] == 3 and min(shape[:2]) >= _SHORTEST_PHOTO
    return max(1, min(shape[:2]) // _SHIFT) if is_photo else None


def convert_layer(layer: Any, shape: tuple[int, ...]) -> list[Augment]:
    """The augmentations that do what a Keras layer does; empty if there are none.

    Args:
        layer: from `find_augmentation`.
        shape: of a raw image.
    """
    config, layers = layer.get_config(), keras.layers
    if isinstance(layer, layers.RandomFlip):
        axes = {"horizontal": ("horizontal",), "vertical": ("vertical",)}
        return [Flip(axis=axis) for axis in axes.get(config["mode"], ("horizontal", "vertical"))]  # type: ignore[arg-type]
    if isinstance(layer, layers.RandomTranslation):
        sides = zip(("height_factor", "width_factor"), shape[:2], strict=True)
        pixels = round(max(_largest(config[name]) * side for name, side in sides))
        return [Shift(pixels=pixels)] if pixels else []
    factor = _largest(config.get("factor", 0))
    if not factor:
        return []
    if isinstance(layer, layers.RandomRotation):
        return [Rotate(degrees=min(180.0, 360.0 * factor))]
    if isinstance(layer, layers.RandomBrightness):
        return [Brightness(amount=min(1.0, factor))]
    if isinstance(layer, layers.RandomContrast):
        return [Contrast(amount=min(1.0, factor))]
    return []


def _largest(factor: Any) -> float:
    """The largest of one factor or of a range."""
    return float(max(map(abs, factor))) if isinstance(factor, list | tuple) else abs(float(factor))
