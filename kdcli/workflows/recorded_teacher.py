"""A teacher that is a file of recorded answers: opened, checked against the data, understood as logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset, fingerprint, open_dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError
from kdcli.models.files.format import model_file, model_format
from kdcli.models.files.recorded import RecordedNetwork
from kdcli.models.outputs import resolve_output
from kdcli.recipe.sections import InputSection
from kdcli.workflows.asking import Asked
from kdcli.workflows.networks import Opened
from kdcli.workflows.understanding import mapped
from kdcli.zoo import File


def is_recorded(asked: Asked) -> bool:
    """Whether the teacher is a file of recorded answers."""
    model = asked.recipe.teacher.model
    if "teacher" in asked.models or not isinstance(model, File):
        return False
    return model_format(model_file(Path(model.path), trust=asked.trust)) == "npz"


def open_recorded(asked: Asked, dataset: Dataset) -> Opened:
    """Read recorded answers for the training and validation examples of the data.

    Raises:
        UsageError: settings that recorded answers cannot follow.
        ModelError: not such a file, answers to other data, or examples without one.
    """
    recipe = asked.recipe
    assert isinstance(recipe.teacher.model, File)
    _check_settings(asked, dataset)
    path = model_file(Path(recipe.teacher.model.path), trust=asked.trust)
    network = RecordedNetwork(path, name=str(path))
    _check_fingerprint(asked, network)
    for split in answered_splits(dataset):
        network.recorded(split.rows)
    section, kind = recipe.teacher, network.recorded_as
    wanted = {"logits": "logits", "values": "values"}.get(kind)
    if wanted is None:
        # Of one output, or of several that do not exclude each other, a probability is a sigmoid.
        wanted = "sigmoid" if dataset.task == "multilabel" or network.outputs == 1 else "probabilities"
    if section.output_kind not in ("auto", wanted):
        raise UsageError(
            f"teacher.output_kind is {section.output_kind}, but {path} holds {kind}", hint="leave it at auto"
        )
    understood = resolve_output(
        network,
        wanted=wanted,
        task=dataset.task,
        outputs=dataset.outputs if section.classes is None else network.outputs,
        answers=network.recorded(dataset.train.rows),
    )
    if section.classes is not None:
        understood = mapped(understood, section.classes, task=dataset.task, class_names=dataset.class_names)
    return Opened(understood, "file", path, network.sha256, "npz")


def answered_splits(dataset: Dataset) -> list[Examples]:
    """The splits that recorded answers are about: training, and validation where it was taken from that part."""
    splits = [dataset.train]
    if dataset.validation is not None and dataset.validation.inputs is dataset.train.inputs:
        splits.append(dataset.validation)
    return splits


def _check_settings(asked: Asked, dataset: Dataset) -> None:
    recipe, section = asked.recipe, asked.recipe.teacher
    if recipe.data.augment:
        raise UsageError(
            "data.augment: recorded answers hold for the examples as they are",
            hint="--set 'data.augment=[]', or a teacher that can be asked",
        )
    if section.targets == "live":
        raise UsageError("teacher.targets is live, but recorded answers cannot be asked", hint="leave it at auto")
    own: dict[str, Any] = {"targets": "memory", "precision": "float32", "views": 1}
    for name, known in own.items():
        asked_for = getattr(section, name)
        if asked_for not in ("auto", known):
            raise UsageError(
                f"teacher.{name} is {asked_for}, recorded answers are {known}", hint="leave it at auto"
            )
    given = {"signature": section.signature, "output": section.output, "input.tensor": section.input.tensor}
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"teacher.{name} is for a model file; the teacher is a file of recorded answers")
    if section.input != InputSection():
        raise UsageError("teacher.input is for a model; recorded answers take nothing in", hint="leave it out")
    if dataset.is_dense:
        raise UsageError("recorded answers are (n, outputs), and the data has maps of labels")
    if not dataset.labelled and dataset.validation is not None and len(answered_splits(dataset)) < 2:
        raise UsageError(
            "without labels the teacher's answers select the best weights, and recorded ones say nothing of a "
            "validation split of its own",
            hint="leave the validation split out: a share of the training part is taken then",
        )


def _check_fingerprint(asked: Asked, network: RecordedNetwork) -> None:
    """Refuse answers to other data."""
    if network.fingerprint is None:
        return
    recipe = asked.recipe
    # The answers are about the training part before a share of it is taken for validation.
    whole = open_dataset(
        recipe.data, seed=recipe.data_seed, arrays=asked.arrays, carve=False, outputs=recipe.outputs
    )
    own = fingerprint(whole)
    if network.fingerprint != own:
        theirs = network.fingerprint
        raise ModelError(
            f"{network.name}: answers to other data (its fingerprint {theirs:.12}, this data's {own:.12})",
            hint="kd predict MODEL --data D --split train --out FILE.npz, with the data of this run",
        )
