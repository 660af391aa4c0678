"""The models of `keras.applications`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field

from kdcli.errors import ModelError, UsageError, did_you_mean
from kdcli.lazy import keras
from kdcli.spec import ModelSource
from kdcli.tensors import KerasModel, Tensor
from kdcli.zoo.image_shape import check_image_shape

# The published weights include a classifier for the 1,000 classes of ImageNet.
_IMAGENET_CLASSES = 1000
_MAX_MOMENTUM = 0.9
_OFFLINE = "KD_OFFLINE is set"


class Application(ModelSource):
    """Any architecture of `keras.applications`, with fresh or published weights.

    Images have the data's size, or that of the section's `input.resize`. `input.scale: auto` is the scale of the
    architecture's `preprocess_input` (`raw` for those that scale inside the model, such as EfficientNet, ConvNeXt
    and MobileNetV3); with weights from a file it is measured, as for any model file. The momentum of BatchNorm is
    at most 0.9, for runs of a few thousand steps. Taps: the layer names of Keras; `kd inspect` on the trained
    model lists them.

    Args:
        architecture: `MobileNetV2`, `ResNet50`, `EfficientNetB0`, ...
        weights: `none` (drawn from the seed), `imagenet`, or a `.weights.h5` or `.keras` file of the same
            architecture and number of classes. With `imagenet`, all layers except the last have the published
            weights; for 1,000 classes the last layer has them too, and images need the architecture's own size.
    """

    kind: Literal["zoo"] = "zoo"
    name: Literal["application"] = "application"
    architecture: Annotated[str, Field(min_length=1, examples=["MobileNetV2", "ResNet50", "EfficientNetB0"])]
    weights: Annotated[str, Field(min_length=1)] = "none"

    @property
    def _label(self) -> str:
        """What messages call the model."""
        return f"zoo application {self.architecture}"

    @property
    def path(self) -> Path | None:
        """The weights file; None for other weights."""
        return None if self.weights in ("none", "imagenet") else Path(self.weights)

    def build(self, input_shape: tuple[int, ...], classes: int) -> KerasModel:
        """Build a `keras.Model` for images (h, w, channels) with `classes` logits.

        Raises:
            UsageError: no such architecture, or images that it does not accept.
            ModelError: weights that cannot be downloaded or do not fit.
        """
        make = _find_architecture(self.architecture)
        check_image_shape(self._label, input_shape)
        if self.weights == "imagenet" and input_shape[-1] != 3:
            raise UsageError(
                f"{self._label}: the imagenet weights are for 3 channels, the data has {input_shape[-1]}",
                hint="weights: none",
            )
        if self.path is not None and not self.path.is_file():
            raise ModelError(f"{self.path}: no such weights file", hint="weights: none, imagenet or a file")
        new_classifier = self.weights == "imagenet" and classes != _IMAGENET_CLASSES
        options: dict[str, Any] = {"include_top": False, "pooling": "avg"}
        if not new_classifier:
            options = {"include_top": True, "classes": classes, "classifier_activation": None}
        weights = None if self.weights == "none" else self.weights
        try:
            with _silence_keras():
                model = make(weights=weights, input_shape=input_shape, **options)
        # Keras may raise anything, such as a bare Exception for a failed download.
        except Exception as error:
            raise self._explain(error, input_shape, classes) from error
        if new_classifier:
            logits = keras.layers.Dense(classes, name="logits")(model.output)
            model = keras.Model(model.inputs, logits, name=model.name)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = min(layer.momentum, _MAX_MOMENTUM)
        return model

    def preprocessing(self) -> Callable[[Tensor], Tensor]:
        """The function that converts images in 0..255 to the input of the published weights."""
        _find_architecture(self.architecture)
        return _find_module(self.architecture).preprocess_input

    def _explain(self, error: Exception, input_shape: tuple[int, ...], classes: int) -> UsageError | ModelError:
        """Explain an error of Keras in one sentence, with a hint."""
        label, text = self._label, str(error).strip() or type(error).__name__
        size = "×".join(str(side) for side in input_shape[:2])
        smallest = re.search(r"at least (\d+) ?x ?(\d+)", text)
        if smallest:
            return UsageError(
                f"{label} takes images of at least {smallest[1]}×{smallest[2]}, got {size}",
                hint=_resize_hint(smallest[1], smallest[2]),
            )
        fixed = re.search(r"`input_shape` should be \((\d+), (\d+)", text)
        if fixed:
            return UsageError(
                f"{label} with the {_IMAGENET_CLASSES:,} classes of ImageNet takes images of "
                f"{fixed[1]}×{fixed[2]}, got {size}",
                hint=_resize_hint(fixed[1], fixed[2]),
            )
        first = text.splitlines()[0]
        if "URL fetch failure" in text:
            reason = f"cannot be downloaded: {first:.300}"
            if _OFFLINE in text:
                reason = "are not cached, and KD_OFFLINE is set"
            return ModelError(
                f"{label}: the imagenet weights {reason}",
                hint="weights: none, or a weights file; Keras caches downloads (KERAS_HOME)",
            )
        # After the first sentence, the message of Keras is about individual layers.
        reason = first.split(" Example error message")[0]
        message = f"{label} cannot be built for {input_shape} and {classes} classes: {reason:.300}"
        if self.path is not None:
            message = f"{self.path} does not fit {label} for {input_shape} and {classes} classes: {reason:.300}"
        return ModelError(message, hint="use other weights, or set input.resize in the model's section")


def _find_architecture(name: str) -> Any:
    known = [word for word in dir(keras.applications) if word[0].isupper()]
    if name not in known:
        raise UsageError(
            f"zoo application: unknown architecture {name!r}; "
            f"{did_you_mean(name, known).strip() or 'known: ' + ', '.join(known)}",
            hint="https://keras.io/api/applications lists them",
        )
    return getattr(keras.applications, name)


def _find_module(name: str) -> ModuleType:
    """Find the public module of an architecture: the one that contains it, or else the one named like it."""
    modules = {n: m for n, m in vars(keras.applications).items() if hasattr(m, "preprocess_input")}
    containing = [module for module in modules.values() if hasattr(module, name)]
    if containing:
        return containing[0]
    # mobilenet_v3 contains the preprocessing of MobileNetV3Small, but not the class.
    like = [word for word in modules if name.lower().startswith(word.replace("_", ""))]
    return modules[max(like, key=len)]


def _resize_hint(height: str, width: str) -> str:
    return f"--set 'student.input.resize=[{height}, {width}]' (teacher.input.resize for a teacher)"


@contextlib.contextmanager
def _silence_keras() -> Iterator[None]:
    """Suppress Keras' warnings about sizes, and send its download progress to stderr; KD_OFFLINE blocks downloads.

    Keras downloads through urllib, whose opener can be replaced. A cached file is still used: only Keras knows its
    name.
    """
    offline = bool(os.environ.get("KD_OFFLINE"))
    if offline:
        urllib.request.install_opener(urllib.request.build_opener(_OfflineHandler()))
    try:
        shown = io.StringIO() if offline else sys.stderr
        with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
            warnings.simplefilter("ignore")
            yield
    finally:
        if offline:
            urllib.request.install_opener(urllib.request.build_opener())


class _OfflineHandler(urllib.request.BaseHandler):
    """Fails every request."""

    handler_order = 0

    def default_open(self, request: urllib.request.Request) -> Any:
        """Fail with the reason."""
        raise urllib.error.URLError(_OFFLINE)
