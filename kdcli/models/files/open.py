"""Model files: the one place that screens them and calls a load function."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError, UsageError
from kdcli.events import OnEvent, ignore_event
from kdcli.extras import require_extra
from kdcli.lazy import keras
from kdcli.models.files.format import KERAS_FORMATS, SAVED_MODEL, read_keras_version
from kdcli.models.files.keras_failure import explain_keras_failure
from kdcli.models.files.load import load_keras
from kdcli.models.files.screened_copy import ScreenedFile, admit, copy_and_screen
from kdcli.models.keras.model import check_vocabularies, check_weights_finite
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.size_limits import check_tensor_sizes, limit_weights
from kdcli.models.network import Network
from kdcli.screening.verdict import NO_TRUST, Trust, Verdict


@dataclass(frozen=True)
class ModelPart:
    """Which part of a file is opened.

    Args:
        signature: of a SavedModel; `serving_default`, or the only one, when left out.
        output: which of several outputs.
        tensor: the inner tensor of a SavedModel that inputs are fed into.
        values: what some inputs of a SavedModel hold in every answer, by name.
        section: `teacher` or `student`, whose settings these are; for hints.
    """

    signature: str | None = None
    output: str | None = None
    tensor: str | None = None
    values: Mapping[str, Any] | None = None
    section: str = "student"


WHOLE_MODEL = ModelPart()


@dataclass(frozen=True)
class OpenedFile:
    """A model file, screened and opened.

    Args:
        network: a `KerasNetwork`, `SavedModelNetwork` or `RunnerNetwork`.
        path: where it lies.
        format: from `model_format`.
        sha256: of what was screened and opened.
        verdict: what screening found.
    """

    network: Any
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
    on_event: OnEvent = ignore_event,
) -> OpenedFile:
    """Screen a private copy of a model file, then open that copy.

    Args:
        path: a file or a SavedModel folder, from `formats.model_file`.
        trust: what it may do.
        part: which part of it.
        trainable: whether it is to be trained; without it a SavedModel is frozen.
        threads: of a file that runs in a process of its own.
        on_event: warned of what is opened although it was refused.

    Raises:
        ModelError: refused, not loadable, weights that are not finite, or the format cannot do what is asked.
        UsageError: a choice that the file does not offer.
    """
    with copy_and_screen(path, trust=trust, signature=part.signature) as file:
        admit(file, part.signature, on_event=on_event)
        return open_screened_file(file, part=part, trainable=trainable, threads=threads)


def open_screened_file(
    file: ScreenedFile, *, part: ModelPart = WHOLE_MODEL, trainable: bool = False, threads: int | None = None
) -> OpenedFile:
    """Open a private copy, whatever screening found: `open_file` refuses before.

    Raises:
        ModelError, UsageError: as `open_file`.
    """
    from kdcli.models.runtimes.network import open_runner
    from kdcli.models.saved_model.open import open_graph

    copied, name, form = file.copied, str(file.path), file.format
    _check_choice(file.path, form, part)
    asked: dict[str, Any] = {"name": name, "output": part.output, "threads": threads}
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
            **asked,
        )
    else:
        network = open_runner(copied, form=form, **asked)
    return OpenedFile(network, file.path, form, file.sha256, file.verdict)


def _open_keras(file: ScreenedFile, choice: ModelPart, *, trainable: bool, threads: int | None) -> Network:
    from kdcli.models.saved_model.open import open_legacy

    name = str(file.path)
    try:
        with nullcontext() if file.trusted else limit_weights(file.verdict.values, name=name):
            model = load_keras(file.copied, safe=not file.trusted)
    except ModelError:
        raise
    # Keras raises whatever its deserialisation meets: every one of them means that this file does not load.
    except Exception as error:
        version = read_keras_version(file.copied, file.format)
        if version is None or version.startswith("3"):
            reason, hint = explain_keras_failure(error)
            raise ModelError(f"{name}: the {file.format} file does not load: {reason}", hint=hint) from error
        require_extra("legacy", subject=f"{name}: a file of Keras {version}, which Keras 3 does not load,")
        return open_legacy(file.copied, name=name, output=choice.output, trainable=trainable, threads=threads)
    if not isinstance(model, keras.Model):
        raise ModelError(f"{name}: holds a {type(model).__name__}, not a model")
    check_weights_finite(model, name)
    check_vocabularies(model, name)
    if not file.trusted:
        check_tensor_sizes(model, name)
    return KerasNetwork(model, name=name, output=choice.output)


def _check_choice(path: Path, form: str, choice: ModelPart) -> None:
    """Refuse choices that would have no effect."""
    choices = {"signature": choice.signature, "input.tensor": choice.tensor, "input.values": choice.values}
    for option, value in choices.items():
        if value and form != SAVED_MODEL:
            raise UsageError(f"{path}: {option} {value!r} is for SavedModels, the file is {form}")
