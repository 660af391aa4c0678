"""Whether a model file is let in: a private copy of it, and what screening finds in that copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.models.copying import private_copy
from kdcli.models.formats import OPENED, SAVED_MODEL, model_format
from kdcli.models.own_code import registered_names
from kdcli.models.signatures import choose_signature
from kdcli.runs.records import hash_model
from kdcli.screening.keras.archive import screen_keras
from kdcli.screening.keras.hdf5 import screen_hdf5, screen_weights
from kdcli.screening.litert import screen_litert
from kdcli.screening.onnx import screen_onnx
from kdcli.screening.saved_model.facts import describe_saved_model
from kdcli.screening.saved_model.screen import screen_saved_model
from kdcli.screening.verdict import NO_TRUST, Trust, Verdict


@dataclass(frozen=True)
class ScreenedFile:
    """A private copy of a model file, with what screening found in it.

    Args:
        copied: lies there as long as the `with` block of `screened_copy` lasts.
        path, format, sha256, verdict: as in `OpenedFile`.
        trusted: whether it may do whatever it wants.
    """

    copied: Path
    path: Path
    format: str
    sha256: str
    verdict: Verdict
    trusted: bool


@contextmanager
def screened_copy(
    path: Path, *, trust: Trust = NO_TRUST, signature: str | None = None, weights: bool = False
) -> Iterator[ScreenedFile]:
    """Copy a model file to where nobody else can change it, and screen the copy.

    Args:
        path: a file or a SavedModel folder.
        trust: what it may do.
        signature: which one is going to be opened.
        weights: whether only the weights of a `.h5` file are going to be read.

    Raises:
        ModelError: no model file, or it cannot be read.
    """
    form = model_format(path)
    if form not in OPENED:
        raise ModelError(
            f"{path}: an .npz file holds data or recorded answers, not a model",
            hint=f"recorded answers can teach: kd distill --teacher {path}",
        )
    with private_copy(path, form) as copied:
        verdict = _screen(copied, form, trust=trust, signature=signature, weights=weights)
        yield ScreenedFile(copied, path, form, hash_model(copied), verdict, trust.model)


def admit(file: ScreenedFile, signature: str | None, *, on_event: OnEvent) -> None:
    """Refuse what screening refuses, unless the user trusts the file: then each finding is a warning.

    Raises:
        ModelError: refused.
        UsageError: one of several signatures has to be chosen first.
    """
    if file.verdict.refused:
        # Without a choice every signature was screened: which one is meant comes first.
        require_signature(file, signature)
    if not file.trusted:
        file.verdict.require(file.path)
    for finding in file.verdict.refused:
        on_event(Note(f"{file.path} is opened because of --trust-model, although {finding}", warning=True))


def require_signature(file: ScreenedFile, wanted: str | None) -> None:
    """Refuse a choice of signature that a SavedModel does not offer, or that has to be made.

    Raises:
        UsageError: with the names.
    """
    if file.format != SAVED_MODEL:
        return
    facts = describe_saved_model(file.copied)
    names = [signature.name for signature in facts.signatures] if facts else []
    if not names:
        # What cannot be read is refused for that.
        return
    try:
        choose_signature(names, wanted)
    except UsageError as error:
        raise type(error)(f"{file.path}: {error.message}", hint=error.hint) from None


def _screen(copied: Path, form: str, *, trust: Trust, signature: str | None, weights: bool) -> Verdict:
    if form == "keras":
        return screen_keras(copied, code=registered_names())
    if form == "h5":
        return screen_weights(copied) if weights else screen_hdf5(copied, code=registered_names())
    if form == SAVED_MODEL:
        return screen_saved_model(copied, signature=signature, tables=trust.tables)
    return screen_litert(copied) if form == "tflite" else screen_onnx(copied)
