"""Zoo models: built for the data of a run, with their own preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.lazy import ops
from kdcli.models.files.format import KERAS_FORMATS, resolve_model_file
from kdcli.models.files.screened_copy import admit, copy_and_screen
from kdcli.models.keras.model import check_weights_finite
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preprocessing import SCALES, Preprocessing
from kdcli.recipe.model_sections import InputSection, ModelSection
from kdcli.runs.run_environment import hash_arrays, hash_file
from kdcli.screening.verdict import Trust
from kdcli.tensors import KerasModel
from kdcli.zoo import Application, Clone, ZooModel, has_trained_weights


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model as loaded or built, not yet fitted to the data.

    Args:
        network: as loaded.
        start: `fresh` or `file`.
        section: the recipe's section, with the settings that belong to the model.
        path: of its file or of the file of its weights.
        sha256: hash of that file, or of weights without a file.
        format: of the file.
        findings: of the screening.
        is_initialized: whether its weights already suit `start`, as those of every zoo model do.
    """

    network: Network
    start: str
    section: ModelSection
    path: Path | None = None
    sha256: str | None = None
    format: str | None = None
    findings: tuple[str, ...] = ()
    is_initialized: bool = False


def build_zoo_model(
    role: str,
    source: ZooModel,
    *,
    start: str,
    dataset: Dataset,
    section: ModelSection,
    seed: int,
    teacher: Network | None,
    trust: Trust,
    on_event: OnEvent,
) -> LoadedModel:
    """Build a zoo model as the teacher or the student of a run.

    Args:
        role: `teacher` or `student`.
        source: an entry of `kdcli.zoo`.
        start: `file` or `fresh`; the weights of an application override a teacher's default `fresh`.
        dataset: gives the input shape and the number of classes.
        section: the recipe's settings for the model.
        seed: RNG seed for fresh weights.
        teacher: the model that a clone copies.
        trust: what a weights file may do.
        on_event: receives a note on the input scale of an application.

    Raises:
        UsageError: it cannot be built for this data.
        ModelError: its weights are not available or do not fit.
    """
    name = f"zoo {source.name}"
    if isinstance(source, Clone):
        original = _require_keras(teacher)
        model = source.build_from(original and original.model, seed=seed)
        return _wrap(model, name, "fresh", copy_preprocessing(section, original))
    if not dataset.outputs:
        raise UsageError(
            f"{name}: the number of classes is unknown, since the data has neither labels nor class names",
            hint="--set 'data.classes=[cat, dog]' names the classes",
        )
    if isinstance(source, Application):
        return _build_application(
            role, source, start=start, dataset=dataset, section=section, trust=trust, on_event=on_event
        )
    model = source.build(zoo_shape(dataset, section.input), dataset.outputs)
    return _wrap(model, name, "fresh", section)


def _build_application(
    role: str,
    source: Application,
    *,
    start: str,
    dataset: Dataset,
    section: ModelSection,
    trust: Trust,
    on_event: OnEvent,
) -> LoadedModel:
    """An architecture of `keras.applications`, with fresh, published or local weights."""
    trained = has_trained_weights(source)
    if role == "student" and start == "fresh" and trained:
        raise UsageError(
            f"student.start is fresh, but student.model.weights is {source.weights}",
            hint="--set student.start=file keeps the weights, --set student.model.weights=none removes them",
        )
    shape = zoo_shape(dataset, section.input)
    if source.path is not None:
        model = _build_with_file(source, shape, dataset.outputs, trust, on_event)
    else:
        model = source.build(shape, dataset.outputs)
    name = f"zoo {source.name} {source.architecture}"
    if source.path is None and section.input.scale == "auto":
        section = _apply_published_scale(role, source, dataset, section, on_event)
    if not trained:
        return _wrap(model, name, "fresh", section)
    name += f" ({source.weights})"
    check_weights_finite(model, name)
    if source.path is not None:
        return _wrap(model, name, "file", section, path=source.path, sha256=hash_file(source.path))
    return _wrap(model, name, "file", section, sha256=hash_arrays(weight.numpy() for weight in model.weights))


def _wrap(
    model: KerasModel,
    name: str,
    start: str,
    section: ModelSection,
    *,
    path: Path | None = None,
    sha256: str | None = None,
) -> LoadedModel:
    network = KerasNetwork(model, name=name)
    return LoadedModel(
        network=network, start=start, section=section, path=path, sha256=sha256, is_initialized=True
    )


def zoo_shape(dataset: Dataset, section: InputSection) -> tuple[int, ...]:
    """The input shape of a model built for the data: that of the examples, or of `input.resize`.

    Raises:
        UsageError: the data has several inputs.
    """
    if len(dataset.train.shapes) > 1:
        raise UsageError("zoo models have one input, the data has several", hint="give a model file")
    shape, (dtype,) = dataset.input_shape, dataset.train.dtypes.values()
    if len(shape) == 2 and dtype == np.uint8:
        shape = (*shape, 1)
    if len(shape) == 3 and section.resize != "auto":
        shape = (*section.resize, shape[2])
    return shape


def _build_with_file(
    source: Application, shape: tuple[int, ...], outputs: int, trust: Trust, on_event: OnEvent
) -> KerasModel:
    """Build an application with weights from a screened private copy of their file.

    Raises:
        ModelError: refused, or not a file of these weights.
    """
    path = resolve_model_file(Path(source.weights), trust=trust)
    with copy_and_screen(path, trust=trust, weights=True) as screened:
        admit(screened, None, on_event=on_event)
        if screened.format not in KERAS_FORMATS:
            raise ModelError(f"{path}: not a Keras weights file (got {screened.format})")
        # Keras tells weights files from model files by their names; the screened content decides here.
        named = screened.format == "h5" and path.name.endswith(".weights.h5")
        copied = screened.copied.with_name(
            f"copy.weights{screened.copied.suffix}" if named else screened.copied.name
        )
        screened.copied.rename(copied)
        try:
            return source.model_copy(update={"weights": str(copied)}).build(shape, outputs)
        except ModelError as error:
            error.message = error.message.replace(str(copied), str(path))
            raise


def _require_keras(teacher: Network | None) -> KerasNetwork | None:
    if teacher is not None and not isinstance(teacher, KerasNetwork):
        raise UsageError(
            f"zoo clone copies a Keras model, and the teacher ({teacher.name}) is not one",
            hint="name an architecture, such as {kind: zoo, name: resnet}, or give --student FILE",
        )
    return teacher


def copy_preprocessing(section: ModelSection, teacher: KerasNetwork | None) -> ModelSection:
    """The section with the teacher's preprocessing, if it has no settings of its own."""
    if teacher is None or section.input != InputSection() or not teacher.preprocessing:
        return section
    first = next(iter(teacher.preprocessing.values()))
    scale = first.scale if first.is_scaled else "auto"
    copied = InputSection(scale=scale, resize=first.size or "auto", fit=first.fit)  # type: ignore[arg-type]
    return section.model_copy(update={"input": copied})


def _apply_published_scale(
    role: str, source: Application, dataset: Dataset, section: ModelSection, on_event: OnEvent
) -> ModelSection:
    """The section with the scale of the architecture's own preprocessing, if kd has that scale."""
    shape, (dtype,) = zoo_shape(dataset, section.input), dataset.train.dtypes.values()
    found = published_scale(source)
    if dtype != np.uint8 or found is None or (found in ("imagenet", "caffe") and shape[-1] != 3):
        return section
    on_event(Note(f"{role}: input.scale is {found}, as in the preprocessing of {source.architecture}"))
    return section.model_copy(update={"input": section.input.model_copy(update={"scale": found})})


def published_scale(source: Application) -> str | None:
    """The scale that the architecture's own `preprocess_input` applies; None if kd does not have it."""
    probe = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    published = np.asarray(source.preprocessing()(probe.astype(np.float32)))
    for scale in SCALES:
        ours = Preprocessing(probe.shape[1:], "uint8", probe.shape[1:], "float32", scale)(probe)
        if np.allclose(ops.convert_to_numpy(ours), published, atol=1e-3):
            return scale
    return None
