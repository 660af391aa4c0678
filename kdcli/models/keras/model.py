"""Operations on a whole `keras.Model`: check its weights, reinitialize it, save it to bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcli.errors import ModelError, UsageError
from kdcli.lazy import keras, ops
from kdcli.models.keras.initialization import seed_initializers
from kdcli.models.keras.taps import find_layers
from kdcli.models.variables import DIVERGED_HINT
from kdcli.screening.verdict import COPY_HINT
from kdcli.tensors import KerasModel


def check_weights_finite(model: KerasModel, name: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ModelError: with the first such weight.
    """
    for variable in model.weights:
        if "float" in str(variable.dtype) and not bool(ops.all(ops.isfinite(variable.value))):
            raise ModelError(f"{name}: the weight {variable.path} contains NaN or infinity", hint=DIVERGED_HINT)


def check_vocabularies(model: KerasModel, name: str) -> None:
    """Refuse lookup layers without a vocabulary: Keras silently loads a file whose assets are missing.

    Raises:
        ModelError: with the first such layer.
    """
    kinds = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)
    for path, layer in find_layers(model).items():
        if isinstance(layer, kinds) and not layer.get_vocabulary(include_special_tokens=False):
            raise ModelError(f"{name}: the layer {path} has no vocabulary: its file is missing", hint=COPY_HINT)


def make_fresh_copy(model: KerasModel, *, seed: int) -> KerasModel:
    """Build the same architecture with new weights that depend on the seed only, even if initializers have seeds.

    Raises:
        UsageError: a model that cannot be built from its configuration.
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
            f"start: fresh needs a model that can be built from its configuration ({error})",
            hint="--set student.start=file keeps the file's weights",
        ) from error
    copied = find_layers(copy)
    for path, layer in find_layers(model).items():
        # Statistics of the data are not an initialization.
        if isinstance(layer, keras.layers.Normalization) and path in copied:
            copied[path].set_weights(layer.get_weights())
    return copy


@contextmanager
def _hide_optimizer(model: KerasModel) -> Iterator[None]:
    """Hide the optimizer of a model that the caller compiled: it did not take part in kd's training."""
    if not getattr(model, "compiled", False):
        yield
        return
    optimizer = model.optimizer
    model.compiled, model.optimizer = False, None
    try:
        yield
    finally:
        model.compiled, model.optimizer = True, optimizer


def save_to_bytes(model: KerasModel, folder: Path) -> bytes:
    """Save a model, without optimizer state, and return the bytes of its `.keras` file.

    Keras writes in place, and HDF5 crashes the interpreter on a full disk. So the file is made in a scratch folder
    in memory, and `runs.writer` writes its bytes.

    Args:
        model: the model.
        folder: the scratch folder.
    """
    target = folder / "model.keras"
    with _hide_optimizer(model):
        model.save(target)
    content = target.read_bytes()
    target.unlink()
    return content
