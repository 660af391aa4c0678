"""Open the teacher or the student: a file, a zoo model or an object, with every `auto` resolved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.lazy import keras
from kdcli.models.files.format import resolve_model_file
from kdcli.models.files.open import ModelPart, open_file
from kdcli.models.keras.initialization import find_unseeded_weights
from kdcli.models.keras.model import check_weights_finite, make_fresh_copy
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preprocessing import PixelScale, scale_from_json
from kdcli.models.runtimes.network import RunnerNetwork
from kdcli.models.saved_model.network import SavedModelNetwork
from kdcli.recipe.model_sections import InputSection, ModelSection
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.runs.export_results import INTERFACE_FILE
from kdcli.runs.results import relativize_path
from kdcli.runs.run_environment import hash_arrays
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.checks import reinitialization_error
from kdcli.setup.fit_to_data import check_target_scale, fit_to_data
from kdcli.setup.zoo_models import LoadedModel, build_zoo_model, zoo_shape
from kdcli.spec import ModelSource, OutputKind
from kdcli.tensors import KerasModel
from kdcli.zoo import File, ZooModel

# The size up to which an `input.json` is read; kd writes far smaller ones.
_MAX_INTERFACE_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A network and its origin.

    Args:
        network: ready to compute outputs for raw examples of the data.
        start: `file` or `fresh`.
        path: of its file; None for zoo models and objects.
        sha256: hash of the file, or of an object's weights; None for fresh weights.
        format: of the file.
        findings: of the screening.
    """

    network: Any
    start: str
    path: Path | None
    sha256: str | None
    format: str | None = None
    findings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The entry of the model in the plan."""
        network = self.network
        return {
            "name": network.name,
            "path": relativize_path(self.path) if self.path else None,
            "start": self.start,
            "parameters": network.parameters,
            "output_kind": network.saved_kind,
            "logits_from": network.logits_from,
            "input": {name: preprocessing.to_json() for name, preprocessing in network.preprocessing.items()},
            "notes": list(network.notes),
            "signature": self._signature,
        }

    @property
    def _signature(self) -> dict[str, Any] | None:
        """How a SavedModel is called without kd."""
        if not isinstance(self.network, SavedModelNetwork):
            return None
        inputs = [spec.name for spec in self.network.inputs]
        return {"name": self.network.signature, "inputs": inputs, "output": self.network.output_name}

    @property
    def record(self) -> dict[str, Any]:
        """The entry of the model among the inputs of a run."""
        document: dict[str, Any] = {"path": str(self.path) if self.path else None, "sha256": self.sha256}
        return document if self.format is None else {**document, "format": self.format, "findings": self.findings}


def open_model(
    role: str,
    *,
    given: KerasModel | None,
    source: ModelSource | None,
    start: str,
    dataset: Dataset,
    section: ModelSection,
    seed: int,
    on_event: OnEvent,
    teacher: Network | None = None,
    trust: Trust = NO_TRUST,
    trainable: bool = False,
    threads: int | None = None,
) -> OpenedModel:
    """Open the teacher or the student and fit it to the data.

    Args:
        role: `teacher` or `student`.
        given, source: a `keras.Model` from Python, or else the recipe's `model`.
        start: `file` keeps the weights, `fresh` initializes them from the seed; a zoo model may override it.
        dataset: the data that the model is fitted to.
        section: the recipe's settings for the model.
        seed: RNG seed for fresh weights.
        on_event: receives notes on what was resolved.
        teacher: for a student that clones the teacher's architecture.
        trust: what a file may do.
        trainable: whether it will be trained.
        threads: number of threads of a file's runtime process.

    Raises:
        ModelError: missing, unreadable, refused, not trainable, or it does not fit the data.
    """
    keras.utils.set_random_seed(seed)
    if given is not None:
        loaded = _load_object(role, given, section, start=start, dataset=dataset)
    elif isinstance(source, File):
        loaded = _load_file(
            role,
            Path(source.path),
            section,
            start=start,
            trust=trust,
            trainable=trainable,
            threads=threads,
            on_event=on_event,
        )
    else:
        loaded = build_zoo_model(
            role,
            cast(ZooModel, source),
            start=start,
            dataset=dataset,
            section=section,
            seed=seed,
            teacher=teacher,
            trust=trust,
            on_event=on_event,
        )
    return fit_loaded_model(loaded, role, dataset=dataset, seed=seed, trainable=trainable, on_event=on_event)


def _load_object(
    role: str, model: KerasModel, section: ModelSection, *, start: str, dataset: Dataset
) -> LoadedModel:
    """A `keras.Model` from Python; its weights stand for a file.

    Raises:
        UsageError: the object is not a model.
        ModelError: weights that are not finite.
    """
    if not isinstance(model, keras.Model):
        raise UsageError(f"a model must be a path or a keras.Model (got {type(model).__name__})")
    if not model.built:
        model.build((None, *zoo_shape(dataset, InputSection())))
    check_weights_finite(model, model.name)
    sha256 = hash_arrays(variable.numpy() for variable in model.weights)
    network = KerasNetwork(model, name=f"{role} object", output=section.output)
    return LoadedModel(network=network, start=start, section=section, sha256=sha256)


def _load_file(
    role: str,
    path: Path,
    section: ModelSection,
    *,
    start: str,
    trust: Trust,
    trainable: bool,
    threads: int | None,
    on_event: OnEvent,
) -> LoadedModel:
    """A file or a run, with the settings that were recorded with it.

    Raises:
        ModelError: missing, unreadable or refused.
    """
    section = apply_run_settings(path, section)
    file = open_file(
        resolve_model_file(path, trust=trust),
        trust=trust,
        part=choice_of(section, role),
        trainable=trainable,
        threads=threads,
        on_event=on_event,
    )
    section = apply_exported_settings(
        file.path, section, file.network, role=role, is_for_file=True, on_event=on_event
    )
    return LoadedModel(
        network=file.network,
        start=start,
        section=section,
        path=file.path,
        sha256=file.sha256,
        format=file.format,
        findings=tuple(str(finding) for finding in file.verdict.findings),
    )


def fit_loaded_model(
    loaded: LoadedModel, role: str, *, dataset: Dataset, seed: int, trainable: bool, on_event: OnEvent
) -> OpenedModel:
    """Fit a model to the data, with fresh weights where they are requested.

    Args:
        loaded: from a file, an object, the zoo or the teacher.
        role: `teacher` or `student`.
        dataset: the data.
        seed: RNG seed for fresh weights.
        trainable: whether it will be trained.
        on_event: receives notes on what was resolved.

    Raises:
        ModelError: not trainable, or it does not fit the data.
    """
    network, start, section = loaded.network, loaded.start, loaded.section
    if start == "fresh" and not loaded.is_initialized:
        network = _reinitialize(network, section, role, seed=seed, on_event=on_event)
    if trainable and not isinstance(network, KerasNetwork | SavedModelNetwork):
        raise ModelError(
            f"{role} ({network.name}): a file of this format can be run, but not trained",
            hint="give the .keras file or the SavedModel it was made from",
        )
    network = fit_to_data(
        network,
        dataset.train,
        task=dataset.task,
        outputs=dataset.outputs,
        section=section,
        role=role,
        measured=start == "file",
        seed=seed,
        on_event=on_event,
        class_names=dataset.class_names,
    )
    is_trained_teacher = role == "teacher" and start == "file"
    check_target_scale(network, dataset, role=role, measured=is_trained_teacher, on_event=on_event)
    return OpenedModel(
        network=network,
        start=start,
        path=loaded.path,
        sha256=loaded.sha256,
        format=loaded.format,
        findings=loaded.findings,
    )


def _reinitialize(
    network: Network, section: ModelSection, role: str, *, seed: int, on_event: OnEvent
) -> KerasNetwork:
    if not isinstance(network, KerasNetwork):
        raise reinitialization_error(role, network.name)
    model = make_fresh_copy(network.model, seed=seed)
    same = find_unseeded_weights(model, lambda other: make_fresh_copy(network.model, seed=other), seed=seed)
    if same:
        text = (
            f"{role} ({network.name}): a custom layer initializes {', '.join(same)} from a fixed seed, so these "
            "weights start the same for every train.seed"
        )
        on_event(Note(text, warning=True))
    return KerasNetwork(model, name=network.name, output=section.output)


def choice_of(section: ModelSection, role: str = "student") -> ModelPart:
    """The part of a file that a section of the recipe selects."""
    return ModelPart(section.signature, section.output, section.input.tensor, section.input.values, role)


def apply_run_settings(path: Path, section: ModelSection) -> ModelSection:
    """The section with the settings recorded in a run directory, if it leaves input and output kind open."""
    recipe = find_run_recipe(path)
    if recipe is None or section.input != InputSection() or section.output_kind != "auto":
        return section
    return apply_recorded_settings(section, getattr(read_run_recipe(recipe), find_run_role(path)))


def apply_recorded_settings(section: ModelSection, recorded: ModelSection) -> ModelSection:
    """The section with the input and output settings that a run recorded for its model.

    The section may select another output or signature. A model that was cut at an inner tensor starts there now,
    and inputs that had a fixed value no longer exist: both settings are dropped.
    """
    written = recorded.input.model_copy(update={"tensor": None, "values": None})
    update = {"output_kind": recorded.output_kind, "input": written}
    for name in ("signature", "output"):
        if getattr(section, name) is None:
            update[name] = getattr(recorded, name)
    return section.model_copy(update=update)


def apply_exported_settings(
    path: Path, section: ModelSection, network: Network, *, role: str, is_for_file: bool, on_event: OnEvent
) -> ModelSection:
    """The section with the input and output settings in the `input.json` that kd wrote next to an exported file.

    Args:
        path: of the file.
        section: of the recipe. It may belong to the run that the file was exported from, whose own model differs
            from the file, so `input.json` takes precedence.
        network: the opened file.
        role: `teacher` or `student`.
        is_for_file: whether the section was written for this file.
        on_event: receives a note on a setting that is ignored.
    """
    exported = _read_interface(path)
    if exported.get("output_kind"):
        if section.output_kind not in ("auto", exported["output_kind"]):
            on_event(
                Note(
                    f"{path}: its outputs are {exported['output_kind']}, according to {INTERFACE_FILE}; "
                    f"{role}.output_kind {section.output_kind} is ignored"
                )
            )
        section = section.model_copy(update={"output_kind": exported["output_kind"]})
    if exported.get("prepare") == "inside" or (isinstance(network, RunnerNetwork) and network.takes_bytes):
        if section.input.scale not in ("auto", "raw") and is_for_file:
            on_event(Note(f"{path} takes raw images: {role}.input.scale {section.input.scale} is ignored"))
        return _set_scale(section, "raw")
    if section.input.scale == "auto" and (scale := scale_from_json(exported.get("scale"))) is not None:
        return _set_scale(section, scale)
    return section


def _set_scale(section: ModelSection, scale: PixelScale) -> ModelSection:
    return section.model_copy(update={"input": section.input.model_copy(update={"scale": scale})})


def _read_interface(path: Path) -> dict[str, Any]:
    """The entry of an exported file in its `input.json`; empty if kd wrote none."""
    file = path.parent / INTERFACE_FILE
    try:
        if not file.is_file() or file.stat().st_size > _MAX_INTERFACE_BYTES:
            return {}
        entry = json.loads(file.read_text("utf-8"))[path.name]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    known = isinstance(entry, dict) and entry.get("prepare") in ("inside", "outside")
    return entry if known and entry.get("output_kind") in (None, *get_args(OutputKind)) else {}
