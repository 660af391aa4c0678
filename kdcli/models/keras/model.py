"""A `keras.Model` as a whole: its weights checked, made anew, turned into the bytes of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError, UsageError
from kdcli.lazy import keras, ops
from kdcli.models.keras.initialization import seed_initializers
from kdcli.models.keras.taps import find_layers
from kdcli.screening.verdict import COPY_HINT

DIVERGED_HINT = "an earlier checkpoint of it: training went wrong before it was saved"


def check_weights_finite(model: Any, name: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ModelError: with the first such weight.
    """
    for variable in model.weights:
        if "float" in str(variable.dtype) and not bool(ops.all(ops.isfinite(variable.value))):
            raise ModelError(f"{name}: the weight {variable.path} holds NaN or infinity", hint=DIVERGED_HINT)


def check_vocabularies(model: Any, name: str) -> None:
    """Refuse layers that look words up and have none: Keras loads a file without its assets in silence.

    Raises:
        ModelError: with the first such layer.
    """
    kinds = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)
    for path, layer in find_layers(model).items():
        if isinstance(layer, kinds) and not layer.get_vocabulary(include_special_tokens=False):
            raise ModelError(f"{name}: the layer {path} has no vocabulary, its file is missing", hint=COPY_HINT)


def make_fresh_copy(model: Any, *, seed: int) -> Any:
    """The same architecture with new weights that follow from the seed, also where initialisers have seeds.

    Raises:
        UsageError: a model that cannot be made anew from its configuration.
    """
    try:
        with seed_initializers(seed):
            if type(model) in (keras.Model, keras.Sequential) or hasattr(model, "operations"):
                copy = keras.models.clone_model(model)
            else:
                copy = type(model).from_config(model.get_config())
                copy.build_from_config(model.get_build_config())
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        raise UsageError(
            f"start: fresh needs a model that can be made from its configuration ({error})",
            hint="--set student.start=file keeps the file's weights",
        ) from error
    kept = find_layers(copy)
    for path, layer in find_layers(model).items():
        # What a layer has learned from the data itself is no initialisation.
        if isinstance(layer, keras.layers.Normalization) and path in kept:
            kept[path].set_weights(layer.get_weights())
    return copy


@contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """A model given from Python may be compiled: its optimizer has nothing to do with what kd trained."""
    if not getattr(model, "compiled", False):
        yield
        return
    optimizer = model.optimizer
    model.compiled, model.optimizer = False, None
    try:
        yield
    finally:
        model.compiled, model.optimizer = True, optimizer


def save_to_bytes(model: Any, folder: Path) -> bytes:
    """The model as the bytes of a `.keras` file, written first to a scratch folder, without a state of optimizers.

    Keras writes in place and crashes the interpreter when HDF5 meets a full disk, so the file is made in
    memory-backed scratch space and its bytes go through `runs.writing`.
    """
    target = folder / "model.keras"
    with _uncompiled(model):
        model.save(target)
    content = target.read_bytes()
    target.unlink()
    return content
