"""The two sides of a run, opened: the student, the teacher, or several teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset, fill_outputs, fingerprint_dataset, open_dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.outputs import resolve_output
from kdcli.recipe.model_sections import InputSection
from kdcli.setup.ensemble_members import member_requests
from kdcli.setup.fit_to_data import select_columns
from kdcli.setup.open_models import OpenedModel, open_model
from kdcli.setup.request import Request
from kdcli.setup.run_location import data_key
from kdcli.zoo import File


def open_role(
    role: str, request: Request, dataset: Dataset, start: str | None = None, teacher: Any = None
) -> OpenedModel:
    """One side of a run; without a `start` it is no one's to train, and has its weights.

    Args:
        role: `teacher` or `student`.
        asked, dataset, around: of the run.
        start: where its weights come from.
        teacher: what a clone is made like.
    """
    section = getattr(request.recipe, role)
    return open_model(
        role,
        given=request.models.get(role),
        source=section.model,
        start="file" if start in ("auto", None) else str(start),
        dataset=dataset,
        section=section,
        seed=request.recipe.train.seed,
        on_event=request.context.on_event,
        teacher=teacher,
        trust=request.trust,
        trainable=start is not None,
        threads=request.context.threads,
    )


def open_teacher(request: Request, dataset: Dataset) -> OpenedModel:
    """One teacher, opened once."""
    section = request.recipe.teacher.model_dump_json()
    key = ("teacher", *data_key(request), section, id(request.models.get("teacher")))
    recorded = has_recorded_outputs(request)
    return request.context.memo(
        key,
        lambda: open_recorded_outputs(request, dataset) if recorded else open_role("teacher", request, dataset),
    )


def open_teachers(request: Request, dataset: Dataset) -> tuple[OpenedModel, ...]:
    """All teachers of a run, in order.

    Raises:
        ModelError: two of them answer in ways that cannot be mixed.
        UsageError: a temperature of what gives values.
    """
    if not request.recipe.is_ensemble:
        return (open_teacher(request, dataset),)
    first, *others = member_requests(request)
    opened = [open_teacher(first, dataset)]
    # Where the data does not say how many classes there are, the first teacher does.
    known = fill_outputs(dataset, opened[0].network.outputs)
    opened += [open_teacher(other, known) for other in others]
    _refuse_unlike(opened)
    for number, section in enumerate(request.recipe.teachers):
        if section.temperature not in (None, 1.0) and opened[number].network.output_kind == "values":
            raise UsageError(f"teacher.{number}.temperature is for classes, and the data has values")
    return tuple(opened)


def _refuse_unlike(opened: Sequence[OpenedModel]) -> None:
    """Refuse teachers whose answers are not the same kind of thing, or not of the same size."""
    first = opened[0].network
    for other in (one.network for one in opened[1:]):
        ours, theirs = _answers(first), _answers(other)
        sides = list(zip(ours[1], theirs[1], strict=False))
        same = len(ours[1]) == len(theirs[1]) and all(None in pair or pair[0] == pair[1] for pair in sides)
        if ours[0] != theirs[0] or not same:
            raise ModelError(
                f"two teachers cannot be mixed: {first.name} gives {_said(*ours)}, {other.name} {_said(*theirs)}",
                hint="teachers with the same kind of output; teacher.0.output_kind and teacher.0.classes say how "
                "one is read",
            )


def _answers(network: Any) -> tuple[str, tuple[int | None, ...]]:
    """What its answers are, and the shape of one."""
    return network.output_kind, (*network.output_shape[:-1], network.outputs)


def _said(output_kind: str, shape: tuple[int | None, ...]) -> str:
    return f"{output_kind} of {'×'.join('any' if side is None else str(side) for side in shape)}"


def has_recorded_outputs(request: Request) -> bool:
    """Whether the teacher is a file of recorded answers."""
    model = request.recipe.teacher.model
    if "teacher" in request.models or not isinstance(model, File):
        return False
    return detect_format(resolve_model_file(Path(model.path), trust=request.trust)) == "npz"


def open_recorded_outputs(request: Request, dataset: Dataset) -> OpenedModel:
    """Read recorded answers for the training and validation examples of the data.

    Raises:
        UsageError: settings that recorded answers cannot follow.
        ModelError: not such a file, answers to other data, or examples without one.
    """
    recipe = request.recipe
    assert isinstance(recipe.teacher.model, File)
    _check_settings(request, dataset)
    path = resolve_model_file(Path(recipe.teacher.model.path), trust=request.trust)
    network = RecordedNetwork(path, name=str(path))
    _check_fingerprint(request, network)
    for split in splits_with_outputs(dataset):
        network.recorded(split.rows)
    section, kind = recipe.teacher, network.recorded_kind
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
        setting=wanted,
        task=dataset.task,
        output_count=dataset.outputs if section.classes is None else network.outputs,
        values=network.recorded(dataset.train.rows),
    )
    if section.classes is not None:
        understood = select_columns(
            understood, section.classes, task=dataset.task, class_names=dataset.class_names
        )
    return OpenedModel(understood, "file", path, network.sha256, "npz")


def splits_with_outputs(dataset: Dataset) -> list[Examples]:
    """The splits that recorded answers are about: training, and validation where it was taken from that part."""
    splits = [dataset.train]
    if dataset.validation is not None and dataset.validation.inputs is dataset.train.inputs:
        splits.append(dataset.validation)
    return splits


def _check_settings(request: Request, dataset: Dataset) -> None:
    recipe, section = request.recipe, request.recipe.teacher
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
    if not dataset.labelled and dataset.validation is not None and len(splits_with_outputs(dataset)) < 2:
        raise UsageError(
            "without labels the teacher's answers select the best weights, and recorded ones say nothing of a "
            "validation split of its own",
            hint="leave the validation split out: a share of the training part is taken then",
        )


def _check_fingerprint(request: Request, network: RecordedNetwork) -> None:
    """Refuse answers to other data."""
    if network.fingerprint is None:
        return
    recipe = request.recipe
    # The answers are about the training part before a share of it is taken for validation.
    whole = open_dataset(
        recipe.data,
        seed=recipe.data_seed,
        arrays=request.arrays,
        split_validation=False,
        output_names=recipe.outputs,
    )
    own = fingerprint_dataset(whole)
    if network.fingerprint != own:
        theirs = network.fingerprint
        raise ModelError(
            f"{network.name}: answers to other data (its fingerprint {theirs:.12}, this data's {own:.12})",
            hint="kd predict MODEL --data D --split train --out FILE.npz, with the data of this run",
        )
