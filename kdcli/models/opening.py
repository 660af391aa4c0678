"""Model files: the one place that calls a load function."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError, UsageError
from kdcli.lazy import keras, ops, tf
from kdcli.models.tapping import layers_by_path
from kdcli.runs.directory import model_of_run

KNOWN = "a model is a .keras or .h5 file, or a run directory; kd evaluate, predict and inspect open .tflite too"
_HDF5 = b"\x89HDF\r\n\x1a\n"


def model_file(path: Path) -> Path:
    """The file that a path means: itself, or the model of a run directory.

    Raises:
        ModelError: there is no such file, or the folder is no finished run.
    """
    if path.is_dir():
        found = model_of_run(path)
        if found is None:
            raise ModelError(f"{path} is a folder without a finished run", hint=KNOWN)
        return found
    if not path.exists():
        raise ModelError(f"{path}: no such model file", hint=KNOWN)
    return path


def open_model(path: Path) -> Any:
    """Load a `.keras` or `.h5` model without its training configuration.

    Raises:
        ModelError: not such a file, not loadable, or with weights that are not finite.
    """
    kind = model_format(path)
    try:
        model = keras.saving.load_model(path, compile=False)
    # Keras raises whatever its deserialisation meets: every one of them means that this file does not load.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        # Keras appends the whole configuration; its first sentences say what is wrong.
        reason = reason.split(" Full object config")[0]
        raise ModelError(
            f"{path}: the {kind} file does not load: {reason:.400}",
            hint="a model with own layers: load it in Python and hand the object to kdcli.distill",
        ) from error
    if not isinstance(model, keras.Model):
        raise ModelError(f"{path}: holds a {type(model).__name__}, not a model")
    check_finite(model, str(path))
    return model


def open_exported(folder: Path) -> Any:
    """Load a SavedModel that this process wrote itself: loading one runs code that is in it.

    Returns:
        The loaded object, whose `signatures` are functions; they live as long as it does.
    """
    return tf.saved_model.load(folder)


def model_format(path: Path) -> str:
    """`keras` or `h5`, by content.

    Raises:
        ModelError: neither, or content and suffix contradict each other.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if head == _HDF5:
        kind = "h5"
    elif zipfile.is_zipfile(path) and "config.json" in _names(path):
        kind = "keras"
    else:
        raise ModelError(f"{path}: not a Keras model file", hint=KNOWN)
    wanted = (".h5", ".hdf5") if kind == "h5" else (".keras",)
    if path.suffix not in wanted:
        raise ModelError(
            f"{path}: holds a {kind} model under another suffix", hint=f"rename it to {path.stem}{wanted[0]}"
        )
    return kind


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def check_finite(model: Any, name: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        ModelError: with the first such weight.
    """
    for variable in model.weights:
        if "float" in str(variable.dtype) and not bool(ops.all(ops.isfinite(variable.value))):
            raise ModelError(f"{name}: the weight {variable.path} holds NaN or infinity")


def fresh_copy(model: Any, *, seed: int) -> Any:
    """The same architecture with new weights that follow from the seed.

    Raises:
        UsageError: a model that cannot be made anew from its configuration.
    """
    keras.utils.set_random_seed(seed)
    try:
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
    kept = layers_by_path(copy)
    for path, layer in layers_by_path(model).items():
        # What a layer has learned from the data itself is no initialisation.
        if isinstance(layer, keras.layers.Normalization) and path in kept:
            kept[path].set_weights(layer.get_weights())
    return copy


def saved_bytes(model: Any, folder: Path) -> bytes:
    """The model as the bytes of a `.keras` file, written first to a scratch folder.

    Keras writes in place and crashes the interpreter when HDF5 meets a full disk, so the file is made in
    memory-backed scratch space and its bytes go through `runs.writing`.
    """
    target = folder / "model.keras"
    model.save(target)
    content = target.read_bytes()
    target.unlink()
    return content
