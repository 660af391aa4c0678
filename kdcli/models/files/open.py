"""Opens model files: screens each one, then loads it in the way of its format."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError, UsageError
from kdcli.events import OnEvent, ignore_event
from kdcli.extras import require_extra
from kdcli.lazy import keras
from kdcli.models.files.format import KERAS_FORMATS, SAVED_MODEL, read_keras_version
from kdcli.models.files.keras_2 import rebuild_keras_2
from kdcli.models.files.keras_failure import explain_keras_failure
from kdcli.models.files.load import load_keras
from kdcli.models.files.screened_copy import ScreenedFile, admit, copy_and_screen
from kdcli.models.keras.model import check_vocabularies, check_weights_finite
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.size_limits import check_tensor_sizes, limit_weights
from kdcli.models.network import Network
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.screening.verdict import NO_TRUST, Trust, Verdict


@dataclass(frozen=True)
class ModelPart:
    """The part of a model file to open.

    Args:
        signature: signature of a SavedModel; by default `serving_default`, or the only one.
        output: name of one of several outputs.
        tensor: inner tensor of a SavedModel that inputs are fed into.
        values: input name → fixed value, for some inputs of a SavedModel.
        section: `teacher` or `student`, the recipe section of these settings, for hints.
    """

    signature: str | None = None
    output: str | None = None
    tensor: str | None = None
    values: Mapping[str, Any] | None = None
    section: str = "student"


WHOLE_MODEL = ModelPart()


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """A model file, screened and opened.

    Args:
        network: the model.
        path: path of the file.
        format: format, from `detect_format`.
        sha256: hash of the content that was screened and opened.
        verdict: findings of the screening.
    """

    network: Network
    path: Path
    format: str
    sha256: str
    verdict: Verdict


def open_file(
    path: Path,
    *,
    trust: Trust = NO_TRUST,
    part: ModelPart = WHOLE_MODEL,
    trainable: bool = False,
    threads: int | None = None,
    rebuild: bool = False,
    on_event: OnEvent = ignore_event,
) -> OpenedFile:
    """Screen a private copy of a model file, then open that copy.

    Args:
        path: a file or a SavedModel folder, from `resolve_model_file`.
        trust: what the file may do.
        part: the part of the file to open.
        trainable: whether the model will be trained; otherwise a SavedModel is frozen.
        threads: number of threads, for a file that runs in its own process.
        rebuild: whether a Keras 2 file that opens as a graph is rebuilt with the layers of Keras 3.
        on_event: receives a warning for each finding that the user's trust overrides.

    Raises:
        ModelError: refused, not loadable, weights that are not finite, or an option that the format lacks.
        UsageError: a part that the file does not have.
    """
    with copy_and_screen(path, trust=trust, signature=part.signature) as file:
        admit(file, part.signature, on_event=on_event)
        opened = open_screened_file(file, part=part, trainable=trainable, threads=threads)
        if rebuild and isinstance(opened.network, FrozenNetwork):
            return replace(
                opened, network=rebuild_keras_2(file.copied, file.format, opened.network, name=str(path))
            )
        return opened


def open_screened_file(
    file: ScreenedFile, *, part: ModelPart = WHOLE_MODEL, trainable: bool = False, threads: int | None = None
) -> OpenedFile:
    """Open a private copy, whatever the screening found; `open_file` refuses first.

    Args:
        file: from `copy_and_screen`.
        part: the part of the file to open.
        trainable: whether the model will be trained.
        threads: number of threads, for a file that runs in its own process.

    Raises:
        ModelError, UsageError: as `open_file`.
    """
    from kdcli.models.runtimes.network import open_runner
    from kdcli.models.saved_model.open import open_graph

    copied, name, form = file.copied, str(file.path), file.format
    _check_part(file.path, form, part)
    network: Network
    if form in KERAS_FORMATS:
        network = _open_keras(file, part, trainable=trainable, threads=threads)
    elif form == SAVED_MODEL:
        network = open_graph(
            copied,
            signature=part.signature,
            start_at=part.tensor,
            values=part.values,
            section=part.section,
            trainable=trainable,
            name=name,
            output=part.output,
            threads=threads,
        )
    else:
        network = open_runner(copied, form=form, name=name, output=part.output, threads=threads)
    return OpenedFile(network=network, path=file.path, format=form, sha256=file.sha256, verdict=file.verdict)


def _open_keras(file: ScreenedFile, part: ModelPart, *, trainable: bool, threads: int | None) -> Network:
    from kdcli.models.saved_model.open import open_legacy

    name = str(file.path)
    try:
        with nullcontext() if file.trusted else limit_weights(file.verdict.values, name=name):
            model = load_keras(file.copied, safe=not file.trusted)
    except ModelError:
        raise
    # Deserialisation may raise anything.
    except Exception as error:
        version = read_keras_version(file.copied, file.format)
        if version is None or version.startswith("3"):
            reason, hint = explain_keras_failure(error)
            raise ModelError(f"{name}: the {file.format} file does not load: {reason}", hint=hint) from error
        require_extra("legacy", subject=f"{name}: a file of Keras {version}, which Keras 3 cannot load,")
        return open_legacy(file.copied, name=name, output=part.output, trainable=trainable, threads=threads)
    if not isinstance(model, keras.Model):
        raise ModelError(f"{name}: contains a {type(model).__name__}, not a model")
    check_weights_finite(model, name)
    check_vocabularies(model, name)
    if not file.trusted:
        check_tensor_sizes(model, name)
    return KerasNetwork(model, name=name, output=part.output)


def _check_part(path: Path, form: str, part: ModelPart) -> None:
    """Refuse settings that would have no effect."""
    settings = {"signature": part.signature, "input.tensor": part.tensor, "input.values": part.values}
    for option, value in settings.items():
        if value and form != SAVED_MODEL:
            raise UsageError(f"{path}: {option} {value!r} applies to SavedModels only, the file is {form}")
