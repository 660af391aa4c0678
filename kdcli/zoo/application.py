"""The architectures of `keras.applications`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import Field

from kdcli.errors import ModelError, UsageError, did_you_mean
from kdcli.lazy import keras
from kdcli.spec import ModelSource

# The head and the names of the 1,000 ImageNet classes come with the published weights.
IMAGENET_CLASSES = 1000
_MOMENTUM = 0.9
_OFFLINE = "KD_OFFLINE is set"


class Application(ModelSource):
    """Any architecture of `keras.applications`, with fresh or with published weights.

    Pictures have the data's size, or that of the section's `input.resize`. `input.scale: auto` is the scale
    that the architecture's own `preprocess_input` gives (`raw` for those that scale inside, such as
    EfficientNet, ConvNeXt and MobileNetV3); with weights from a file it is measured, as for any model file.
    BatchNorm's momentum is at most 0.9, for runs of a few thousand steps. Taps: Keras' own layer names;
    `kd inspect` on the trained model lists them.

    Args:
        architecture: `MobileNetV2`, `ResNet50`, `EfficientNetB0`, ...
        weights: `none` (drawn by the seed), `imagenet`, or a `.weights.h5` or `.keras` file of the same
            architecture with as many classes. With `imagenet` all layers but the last have the published
            weights; 1,000 classes have them in the last one too, and need the architecture's own size.
    """

    kind: Literal["zoo"] = "zoo"
    name: Literal["application"] = "application"
    architecture: Annotated[str, Field(min_length=1, examples=["MobileNetV2", "ResNet50", "EfficientNetB0"])]
    weights: Annotated[str, Field(min_length=1)] = "none"

    @property
    def path(self) -> Path | None:
        """The file of its weights, None where they are no file."""
        return None if self.weights in ("none", "imagenet") else Path(self.weights)

    def build(self, input_shape: tuple[int, ...], classes: int) -> Any:
        """A `keras.Model` for pictures (h, w, channels) with `classes` logits.

        Raises:
            UsageError: no such architecture, or pictures that it does not take.
            ModelError: weights that cannot be had or do not fit.
        """
        make = _architecture(self.architecture)
        _check_pictures(input_shape, self)
        if self.path is not None and not self.path.is_file():
            raise ModelError(f"{self.path}: no such weights file", hint="weights: none, imagenet or a file")
        headless = self.weights == "imagenet" and classes != IMAGENET_CLASSES
        wanted: dict[str, Any] = {"include_top": False, "pooling": "avg"}
        if not headless:
            wanted = {"include_top": True, "classes": classes, "classifier_activation": None}
        weights = None if self.weights == "none" else self.weights
        try:
            with _quietly():
                model = make(weights=weights, input_shape=input_shape, **wanted)
        # Keras raises whatever it meets, a bare Exception for a failed download among it.
        except Exception as error:
            raise self._said(error, input_shape, classes) from error
        if headless:
            logits = keras.layers.Dense(classes, name="logits")(model.output)
            model = keras.Model(model.inputs, logits, name=model.name)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = min(layer.momentum, _MOMENTUM)
        return model

    def preprocessing(self) -> Any:
        """The function that makes pictures in 0..255 what the published weights were trained on."""
        _architecture(self.architecture)
        return _module_of(self.architecture).preprocess_input

    def _said(self, error: Exception, input_shape: tuple[int, ...], classes: int) -> UsageError | ModelError:
        who, text = f"zoo application {self.architecture}", str(error).strip() or type(error).__name__
        given = "×".join(str(side) for side in input_shape[:2])
        smallest = re.search(r"at least (\d+) ?x ?(\d+)", text)
        if smallest:
            low, size = f"{smallest[1]}×{smallest[2]}", f"[{smallest[1]}, {smallest[2]}]"
            return UsageError(f"{who} takes pictures of at least {low}, got {given}", hint=_resize_hint(size))
        own = re.search(r"`input_shape` should be \((\d+), (\d+)", text)
        if own:
            size = f"{own[1]}×{own[2]}"
            return UsageError(
                f"{who} with the {IMAGENET_CLASSES} classes of ImageNet takes pictures of {size}, got {given}",
                hint=_resize_hint(f"[{own[1]}, {own[2]}]"),
            )
        first = text.splitlines()[0]
        if "URL fetch failure" in text:
            reason = (
                "are not cached, and KD_OFFLINE is set" if _OFFLINE in text else f"cannot be had: {first:.300}"
            )
            return ModelError(
                f"{who}: the imagenet weights {reason}",
                hint="weights: none, or a weights file; downloads are kept where Keras caches (KERAS_HOME)",
            )
        # After its first sentence Keras goes into single layers.
        reason = first.split(" Example error message")[0]
        message = f"{who} cannot be made for {input_shape} and {classes} classes: {reason:.300}"
        if self.path is not None:
            message = f"{self.path} does not fit {who} for {input_shape} and {classes} classes: {reason:.300}"
        return ModelError(message, hint="other weights, or input.resize in the model's section")


def _architecture(name: str) -> Any:
    known = [word for word in dir(keras.applications) if word[0].isupper()]
    if name not in known:
        raise UsageError(
            f"zoo application: unknown architecture {name!r}; "
            f"{did_you_mean(name, known).strip() or 'known: ' + ', '.join(known)}",
            hint="https://keras.io/api/applications describes them",
        )
    return getattr(keras.applications, name)


def _module_of(name: str) -> ModuleType:
    """The public module of an architecture: the one that holds it, else the one named like it."""
    modules = {n: m for n, m in vars(keras.applications).items() if hasattr(m, "preprocess_input")}
    held = [module for module in modules.values() if hasattr(module, name)]
    if held:
        return held[0]
    # mobilenet_v3 holds the preprocessing of MobileNetV3Small, but not the class.
    like = [word for word in modules if name.lower().startswith(word.replace("_", ""))]
    return modules[max(like, key=len)]


def _check_pictures(shape: tuple[int, ...], source: Application) -> None:
    who = f"zoo application {source.architecture}"
    if len(shape) != 3:
        raise UsageError(
            f"{who} needs pictures (h, w, channels), the data has shape {shape}",
            hint="use {kind: zoo, name: mlp} for other shapes",
        )
    if source.weights == "imagenet" and shape[-1] != 3:
        raise UsageError(
            f"{who}: the imagenet weights are for 3 channels, the data has {shape[-1]}", hint="weights: none"
        )


def _resize_hint(size: str) -> str:
    return f"--set 'student.input.resize={size}' (teacher.input.resize for a teacher)"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Keras' words about sizes, its download on stderr; under KD_OFFLINE without a network.

    Keras downloads through urllib, whose opener can be replaced in public; a file that is cached is still
    used, and only Keras knows its name.
    """
    offline = bool(os.environ.get("KD_OFFLINE"))
    if offline:
        urllib.request.install_opener(urllib.request.build_opener(_Refusing()))
    try:
        shown = io.StringIO() if offline else sys.stderr
        with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
            warnings.simplefilter("ignore")
            yield
    finally:
        if offline:
            urllib.request.install_opener(urllib.request.build_opener())


class _Refusing(urllib.request.BaseHandler):
    """Answers every request with the reason why there is none."""

    handler_order = 0

    def default_open(self, request: urllib.request.Request) -> Any:
        """Refuse."""
        raise urllib.error.URLError(_OFFLINE)
