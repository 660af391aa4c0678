"""Open the models of a run: the student, a teacher, an ensemble, or recorded teacher outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.data.dataset import Dataset, fill_outputs, fingerprint_dataset, open_dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.network import Network
from kdcli.models.outputs import resolve_output
from kdcli.recipe.model_sections import InputSection
from kdcli.setup.ensemble_requests import member_requests
from kdcli.setup.fit_to_data import select_columns
from kdcli.setup.open_models import OpenedModel, fit_loaded_model, open_model
from kdcli.setup.request import Request
from kdcli.setup.run_location import data_key
from kdcli.setup.shrunk_student import build_shrunk_student
from kdcli.tensors import Shape
from kdcli.zoo import File, Shrunk


def open_role(
    role: str, request: Request, dataset: Dataset, start: str | None = None, teacher: Network | None = None
) -> OpenedModel:
    """Open the teacher or the student of a run.

    Args:
        role: `teacher` or `student`.
        request: what to open, and with which settings.
        dataset: the data that the model is fitted to.
        start: `auto`, `file` or `fresh` for a model that will be trained; None for one that only computes outputs.
        teacher: the model that a cloned or shrunk student comes from.
    """
    section = getattr(request.recipe, role)
    seed, on_event = request.recipe.train.seed, request.context.on_event
    if isinstance(section.model, Shrunk) and role not in request.models:
        loaded = build_shrunk_student(
            section.model,
            start=str(start),
            dataset=dataset,
            section=section,
            seed=seed,
            data_seed=request.recipe.data_seed,
            teacher=teacher,
            teacher_file=getattr(request.recipe.teachers[0].model, "path", None),
            trust=request.trust,
            on_event=on_event,
        )
        for variable in loaded.network.variables if request.context.workers.count > 1 else ():
            # Sums over examples may differ between machines, and with them the ranks of channels.
            variable.assign(request.context.workers.broadcast(variable.numpy()))
        return fit_loaded_model(
            loaded, role, dataset=dataset, seed=seed, trainable=start is not None, on_event=on_event
        )
    return open_model(
        role,
        given=request.models.get(role),
        source=section.model,
        start="file" if start in ("auto", None) else str(start),
        dataset=dataset,
        section=section,
        seed=seed,
        on_event=on_event,
        teacher=teacher,
        trust=request.trust,
        trainable=start is not None,
        threads=request.context.threads,
    )


def open_teacher(request: Request, dataset: Dataset) -> OpenedModel:
    """Open a single teacher, or its recorded outputs; once per command."""
    section = request.recipe.teacher.model_dump_json()
    key = ("teacher", *data_key(request), section, id(request.models.get("teacher")))
    recorded = _has_recorded_outputs(request)
    return request.context.memo(
        key,
        lambda: _open_recorded_outputs(request, dataset) if recorded else open_role("teacher", request, dataset),
    )


def open_teachers(request: Request, dataset: Dataset) -> tuple[OpenedModel, ...]:
    """Open all teachers of a run, in order.

    Raises:
        ModelError: their outputs cannot be mixed.
        UsageError: a temperature for a teacher that outputs values.
    """
    if not request.recipe.is_ensemble:
        return (open_teacher(request, dataset),)
    first, *others = member_requests(request)
    opened = [open_teacher(first, dataset)]
    # If the data does not tell the number of classes, the first teacher does.
    known = fill_outputs(dataset, opened[0].network.outputs)
    opened += [open_teacher(other, known) for other in others]
    _refuse_different_outputs(opened)
    for number, section in enumerate(request.recipe.teachers):
        if section.temperature not in (None, 1.0) and opened[number].network.output_kind == "values":
            raise UsageError(f"teacher.{number}.temperature applies to classes, and this teacher outputs values")
    return tuple(opened)


def _refuse_different_outputs(opened: Sequence[OpenedModel]) -> None:
    """Refuse teachers whose outputs differ in kind or size."""
    first = opened[0].network
    expected = _output_shape(first)
    for other in (model.network for model in opened[1:]):
        shape = _output_shape(other)
        same = len(shape) == len(expected) and all(
            None in pair or pair[0] == pair[1] for pair in zip(shape, expected, strict=True)
        )
        if other.output_kind != first.output_kind or not same:
            raise ModelError(
                f"the teachers cannot be mixed: {first.name} outputs {_describe_output(first)}, {other.name} "
                f"{_describe_output(other)}",
                hint="use teachers with the same kind and number of outputs; teacher.0.output_kind and "
                "teacher.0.classes set how the outputs of one are read",
            )


def _output_shape(network: Network) -> Shape:
    """The shape of the outputs for one example, after columns were selected."""
    return *network.output_shape[:-1], network.outputs


def _describe_output(network: Network) -> str:
    sides = ("any" if side is None else str(side) for side in _output_shape(network))
    return f"{network.output_kind} of the size {'×'.join(sides)}"


def _has_recorded_outputs(request: Request) -> bool:
    """Whether the teacher is a file of recorded outputs."""
    model = request.recipe.teacher.model
    if "teacher" in request.models or not isinstance(model, File):
        return False
    return detect_format(resolve_model_file(Path(model.path), trust=request.trust)) == "npz"


def _open_recorded_outputs(request: Request, dataset: Dataset) -> OpenedModel:
    """Read recorded teacher outputs for the training and validation examples of the data.

    Raises:
        UsageError: a setting that recorded outputs cannot satisfy.
        ModelError: the file is invalid, was recorded for other data, or lacks examples.
    """
    recipe = request.recipe
    assert isinstance(recipe.teacher.model, File)
    _check_recorded_settings(request, dataset)
    path = resolve_model_file(Path(recipe.teacher.model.path), trust=request.trust)
    network = RecordedNetwork(path, name=str(path))
    _check_fingerprint(request, network)
    for split in splits_with_outputs(dataset):
        network.recorded(split.rows)
    section, kind = recipe.teacher, network.recorded_kind
    output_kind = {"logits": "logits", "values": "values"}.get(kind)
    if output_kind is None:
        # The probability of a single output, or of one that does not exclude others, is a sigmoid.
        output_kind = "sigmoid" if dataset.task == "multilabel" or network.outputs == 1 else "probabilities"
    if section.output_kind not in ("auto", output_kind):
        raise UsageError(
            f"teacher.output_kind is {section.output_kind}, but {path} holds {kind}", hint="set it to auto"
        )
    resolved = resolve_output(
        network,
        setting=output_kind,
        task=dataset.task,
        output_count=dataset.outputs if section.classes is None else network.outputs,
        values=network.recorded(dataset.train.rows),
    )
    if section.classes is not None:
        resolved = select_columns(resolved, section.classes, task=dataset.task, class_names=dataset.class_names)
    return OpenedModel(network=resolved, start="file", path=path, sha256=network.sha256, format="npz")


def splits_with_outputs(dataset: Dataset) -> list[Examples]:
    """The splits that recorded outputs cover: training, and validation if it was split off from training."""
    splits = [dataset.train]
    if dataset.validation is not None and dataset.validation.inputs is dataset.train.inputs:
        splits.append(dataset.validation)
    return splits


def _check_recorded_settings(request: Request, dataset: Dataset) -> None:
    recipe, section = request.recipe, request.recipe.teacher
    if recipe.data.augment:
        raise UsageError(
            "data.augment: recorded outputs belong to examples without augmentation",
            hint="--set 'data.augment=[]', or give a teacher model",
        )
    if section.targets == "live":
        raise UsageError(
            "teacher.targets is live, but recorded outputs cannot be computed again", hint="set it to auto"
        )
    supported: dict[str, str | int] = {"targets": "memory", "precision": "float32", "views": 1}
    for name, only in supported.items():
        setting = getattr(section, name)
        if setting not in ("auto", only):
            raise UsageError(
                f"teacher.{name} is {setting}, but recorded outputs support only {only}", hint="set it to auto"
            )
    model_settings = {
        "signature": section.signature,
        "output": section.output,
        "input.tensor": section.input.tensor,
    }
    for name, value in model_settings.items():
        if value is not None:
            raise UsageError(
                f"teacher.{name} applies to a model file, and the teacher is a file of recorded outputs"
            )
    if section.input != InputSection():
        raise UsageError("teacher.input applies to a model, and recorded outputs have no input", hint="remove it")
    if dataset.is_dense:
        raise UsageError("recorded outputs have the shape (examples, outputs), and the data has label maps")
    if not dataset.labelled and dataset.validation is not None and len(splits_with_outputs(dataset)) < 2:
        raise UsageError(
            "without labels the teacher's outputs select the best weights, and the recorded outputs do not cover "
            "a separate validation split",
            hint="remove the validation split: a fraction of the training split is used instead",
        )


def _check_fingerprint(request: Request, network: RecordedNetwork) -> None:
    """Refuse outputs that were recorded for other data."""
    if network.fingerprint is None:
        return
    recipe = request.recipe
    # The outputs cover the training split before validation examples are split off.
    whole = open_dataset(
        recipe.data,
        seed=recipe.data_seed,
        arrays=request.arrays,
        split_validation=False,
        output_names=recipe.outputs,
    )
    expected = fingerprint_dataset(whole)
    if network.fingerprint != expected:
        raise ModelError(
            f"{network.name}: recorded for other data (fingerprint {network.fingerprint:.12}; this data: "
            f"{expected:.12})",
            hint="kd predict MODEL --data D --split train --out FILE.npz, with the data of this run",
        )
