"""Zoo models of a run: built for its data, with the preparation that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.lazy import ops
from kdcli.models.files.format import KERAS_FORMATS, resolve_model_file
from kdcli.models.files.screened_copy import admit, copy_and_screen
from kdcli.models.keras.model import check_weights_finite
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import SCALES, Preprocessing
from kdcli.recipe.model_sections import InputSection
from kdcli.runs.records import hash_arrays, hash_file
from kdcli.screening.verdict import Trust
from kdcli.zoo import Application, Clone, has_trained_weights


@dataclass(frozen=True)
class ZooResult:
    """A zoo model.

    Args:
        model: the `keras.Model`.
        name: what messages call it.
        start: `fresh`, or `file` where it came with weights.
        section: the recipe's section, with the `input` that belongs to the model.
        path: the file of its weights, or None.
        sha256: of the file, or of weights that were downloaded.
    """

    model: Any
    name: str
    start: str
    section: Any
    path: Path | None = None
    sha256: str | None = None


def build_zoo_model(
    role: str,
    source: Any,
    *,
    start: str,
    dataset: Dataset,
    section: Any,
    seed: int,
    teacher: Any,
    trust: Trust,
    on_event: OnEvent,
) -> ZooResult:
    """Build the zoo model of one side of a run.

    Args:
        role: `teacher` or `student`.
        source: an entry of `kdcli.zoo`.
        start: what was asked for; the weights of an application win over a teacher's default `fresh`.
        dataset: gives the shape and the classes.
        section: the recipe's section.
        seed: of fresh weights.
        teacher: what a clone is made like.
        trust: what a file of weights may do.
        on_event: told which scale an application wants.

    Raises:
        UsageError: it cannot be built for this data.
        ModelError: weights that cannot be had or do not fit.
    """
    name = f"zoo {source.name}"
    if isinstance(source, Clone):
        model = source.build_from(_keras_model(teacher), seed=seed)
        return ZooResult(model, name, "fresh", _prepared_as(section, teacher))
    if not dataset.outputs:
        raise UsageError(
            f"{name}: neither labels nor names say how many classes there are",
            hint="--set 'data.classes=[cat, dog]' names them",
        )
    if role == "student" and start == "fresh" and has_trained_weights(source):
        raise UsageError(
            f"student.start is fresh, but student.model.weights is {source.weights}",
            hint="--set student.start=file keeps the weights, --set student.model.weights=none leaves them out",
        )
    shape = zoo_shape(dataset, section.input)
    if isinstance(source, Application) and source.path is not None:
        model = _with_file(source, shape, dataset.outputs, trust, on_event)
    else:
        model = source.build(shape, dataset.outputs)
    if not isinstance(source, Application):
        return ZooResult(model, name, "fresh", section)
    name += f" {source.architecture}"
    if source.path is None and section.input.scale == "auto":
        section = _scaled_as_published(role, source, dataset, section, on_event)
    if not has_trained_weights(source):
        return ZooResult(model, name, "fresh", section)
    name += f" ({source.weights})"
    check_weights_finite(model, name)
    if source.path is not None:
        return ZooResult(model, name, "file", section, source.path, hash_file(source.path))
    return ZooResult(model, name, "file", section, None, hash_arrays(weight.numpy() for weight in model.weights))


def zoo_shape(dataset: Dataset, section: InputSection) -> tuple[int, ...]:
    """The input shape of a model that is made for the data: its own, or that of `input.resize`.

    Raises:
        UsageError: the data has several inputs.
    """
    if len(dataset.train.shapes) > 1:
        raise UsageError("zoo models take one input; the data has several", hint="give a model file")
    shape, (dtype,) = dataset.input_shape, dataset.train.dtypes.values()
    if len(shape) == 2 and dtype == np.uint8:
        shape = (*shape, 1)
    if len(shape) == 3 and section.resize != "auto":
        shape = (*section.resize, shape[2])
    return shape


def _with_file(source: Application, shape: tuple[int, ...], outputs: int, trust: Trust, on_event: OnEvent) -> Any:
    """Built with the weights of a private copy of their file, which was screened."""
    path = resolve_model_file(Path(source.weights), trust=trust)
    with copy_and_screen(path, trust=trust, weights=True) as screened:
        admit(screened, None, on_event=on_event)
        if screened.format not in KERAS_FORMATS:
            raise ModelError(f"{path}: holds no weights of a Keras model, it is {screened.format}")
        # Keras tells files of weights from files of models by their names; what was screened decides.
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


def _keras_model(teacher: Any) -> Any:
    if teacher is not None and not isinstance(teacher, KerasNetwork):
        raise UsageError(
            f"zoo clone makes a Keras model anew, and {teacher.name} is none",
            hint="name an architecture, such as {kind: zoo, name: resnet}, or give --student FILE",
        )
    return teacher and teacher.model


def _prepared_as(section: Any, teacher: KerasNetwork | None) -> Any:
    """The section with the teacher's preparation where it leaves its own open."""
    if teacher is None or section.input != InputSection() or not teacher.preprocessing:
        return section
    first = next(iter(teacher.preprocessing.values()))
    own = InputSection(scale=first.scale, resize=first.size or "auto", fit=first.fit)  # type: ignore[arg-type]
    return section.model_copy(update={"input": own})


def _scaled_as_published(role: str, source: Application, dataset: Dataset, section: Any, on_event: OnEvent) -> Any:
    """The section with the scale of the architecture's own preprocessing, where that is one of ours."""
    shape, (dtype,) = zoo_shape(dataset, section.input), dataset.train.dtypes.values()
    found = published_scale(source)
    if dtype != np.uint8 or found is None or (found in ("imagenet", "caffe") and shape[-1] != 3):
        return section
    on_event(Note(f"{role}: input.scale is {found}, as {source.architecture} preprocesses images"))
    return section.model_copy(update={"input": section.input.model_copy(update={"scale": found})})


def published_scale(source: Application) -> str | None:
    """The scale that the architecture's own `preprocess_input` amounts to; None where it is none of ours."""
    probe = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    wanted = np.asarray(source.preprocessing()(probe.astype(np.float32)))
    for scale in SCALES:
        ours = Preprocessing(probe.shape[1:], "uint8", probe.shape[1:], "float32", scale)(probe)
        if np.allclose(ops.convert_to_numpy(ours), wanted, atol=1e-3):
            return scale
    return None
