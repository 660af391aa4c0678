"""Teacher and student, opened and understood: files, zoo models or objects, with every `auto` resolved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.lazy import keras
from kdcli.models.files.format import resolve_model_file
from kdcli.models.files.open import ModelPart, open_file
from kdcli.models.keras.initialization import find_unseeded_weights
from kdcli.models.keras.model import check_weights_finite, make_fresh_copy
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.saved_model.network import SavedModelNetwork
from kdcli.recipe.model_sections import InputSection
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.runs.records import hash_arrays
from kdcli.runs.results import relativize_path
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.checks import reinitialization_error
from kdcli.setup.exported_file import apply_exported_settings
from kdcli.setup.fit_to_data import fit_to_data
from kdcli.setup.target_scale import check_target_scale
from kdcli.setup.zoo_models import build_zoo_model, zoo_shape
from kdcli.zoo import File


@dataclass(frozen=True)
class OpenedModel:
    """A network and where it came from.

    Args:
        network: ready to answer raw examples of the data.
        start: `file` or `fresh`.
        path: its file, or None for zoo models and objects.
        sha256: of the file.
        format: of the file.
        findings: what screening said of it.
    """

    network: Any
    start: str
    path: Path | None
    sha256: str | None
    format: str | None = None
    findings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What the plan shows."""
        network = self.network
        return {
            "name": network.name,
            "path": relativize_path(self.path) if self.path else None,
            "start": self.start,
            "parameters": network.parameters,
            "output_kind": network.saved_kind,
            "logits_from": network.logits_from,
            "input": {name: p.to_json() for name, p in network.preprocessing.items()},
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
        """What the run keeps of where it came from."""
        document: dict[str, Any] = {"path": str(self.path) if self.path else None, "sha256": self.sha256}
        return document if self.format is None else {**document, "format": self.format, "findings": self.findings}


def open_model(
    role: str,
    *,
    given: Any,
    source: Any,
    start: str,
    dataset: Dataset,
    section: Any,
    seed: int,
    on_event: OnEvent,
    teacher: Any = None,
    trust: Trust = NO_TRUST,
    trainable: bool = False,
    threads: int | None = None,
) -> OpenedModel:
    """Open one side of a run.

    Args:
        role: `teacher` or `student`.
        given: a `keras.Model` from Python, or None.
        source: the recipe's `model`, used when nothing is given.
        start: `file` keeps the weights, `fresh` draws new ones from the seed; a zoo model has its own word on it.
        dataset: what it will answer.
        section: the recipe's section, for its `input` and `output_kind`.
        seed: of fresh weights.
        on_event: told what was resolved.
        teacher: for the student, what a `clone` is made like.
        trust: what a file may do.
        trainable: whether it is going to be trained.
        threads: of a file that runs in a process of its own.

    Raises:
        ModelError: missing, unreadable, refused, or it does not fit the data or what it is wanted for.
    """
    keras.utils.set_random_seed(seed)
    path, sha, form = None, None, None
    findings: tuple[str, ...] = ()
    network: Any
    if given is not None:
        model = _as_model(given, dataset)
        sha = hash_arrays(variable.numpy() for variable in model.weights)
        network = KerasNetwork(model, name=f"{role} object", output=section.output)
    elif isinstance(source, File):
        section = apply_run_settings(Path(source.path), section)
        opened = open_file(
            resolve_model_file(Path(source.path), trust=trust),
            trust=trust,
            part=choice_of(section, role),
            trainable=trainable,
            threads=threads,
            on_event=on_event,
        )
        network, path, sha, form = opened.network, opened.path, opened.sha256, opened.format
        section = apply_exported_settings(path, section, network, role=role, asked_for=True, on_event=on_event)
        findings = tuple(str(finding) for finding in opened.verdict.findings)
    else:
        built = build_zoo_model(
            role,
            source,
            start=start,
            dataset=dataset,
            section=section,
            seed=seed,
            teacher=teacher,
            trust=trust,
            on_event=on_event,
        )
        start, section, path, sha = built.start, built.section, built.path, built.sha256
        network = KerasNetwork(built.model, name=built.name)
    if start == "fresh" and (given is not None or isinstance(source, File)):
        network = _renewed(network, section, role, seed=seed, on_event=on_event)
    if trainable and not isinstance(network, KerasNetwork | SavedModelNetwork):
        raise ModelError(
            f"{role} ({network.name}): a file of this format answers, but cannot be trained",
            hint="give the .keras file or the SavedModel that it was made from",
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
    check_target_scale(
        network, dataset, role=role, measured=role == "teacher" and start == "file", on_event=on_event
    )
    return OpenedModel(network, start, path, sha, form, findings)


def choice_of(section: Any, role: str = "student") -> ModelPart:
    """Which part of a file a section of the recipe asks for."""
    return ModelPart(section.signature, section.output, section.input.tensor, section.input.values, role)


def apply_run_settings(path: Path, section: Any) -> Any:
    """A run directory brings its own preparation, output and output kind, where the recipe leaves them open."""
    own = find_run_recipe(path)
    if own is None or section.input != InputSection() or section.output_kind != "auto":
        return section
    recorded = getattr(read_run_recipe(own), find_run_role(path))
    return apply_recorded_settings(section, recorded)


def apply_recorded_settings(section: Any, recorded: Any) -> Any:
    """A section with what a run recorded of the model that it left; another output or signature may be asked for.

    One that started further in starts there now, and inputs that had a value are inputs no more.
    """
    written = recorded.input.model_copy(update={"tensor": None, "values": None})
    update = {"output_kind": recorded.output_kind, "input": written}
    for name in ("signature", "output"):
        if getattr(section, name) is None:
            update[name] = getattr(recorded, name)
    return section.model_copy(update=update)


def _renewed(network: Any, section: Any, role: str, *, seed: int, on_event: OnEvent) -> KerasNetwork:
    if not isinstance(network, KerasNetwork):
        raise reinitialization_error(role, network.name)
    model = make_fresh_copy(network.model, seed=seed)
    same = find_unseeded_weights(model, lambda other: make_fresh_copy(network.model, seed=other), seed=seed)
    if same:
        text = f"{role} ({network.name}): the code of a custom layer draws {', '.join(same)} from a fixed seed, "
        on_event(Note(text + "so every train.seed starts from the same values there", warning=True))
    return KerasNetwork(model, name=network.name, output=section.output)


def _as_model(given: Any, dataset: Dataset) -> Any:
    if not isinstance(given, keras.Model):
        raise UsageError(f"a model must be a path or a keras.Model, got {type(given).__name__}")
    if not given.built:
        given.build((None, *zoo_shape(dataset, InputSection())))
    check_weights_finite(given, given.name)
    return given
