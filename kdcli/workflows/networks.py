"""Teacher and student, opened and understood: files, zoo models or objects, with every `auto` resolved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.scaling import choose_scale
from kdcli.events import Note, OnEvent
from kdcli.lazy import keras, ops, tf
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.opening import check_finite, fresh_copy, model_file, open_model
from kdcli.models.output_kind import resolve_output
from kdcli.models.preparation import make_preparation
from kdcli.recipe.reading import read_recipe
from kdcli.recipe.sections import InputSection
from kdcli.runs.directory import recipe_of_run, role_of_run
from kdcli.runs.recording import hash_arrays, hash_file
from kdcli.runs.results import relative
from kdcli.workflows.building import build_zoo, zoo_shape
from kdcli.zoo import File


@dataclass(frozen=True)
class Opened:
    """A network and where it came from.

    Args:
        network: ready to answer raw examples of the data.
        start: `file` or `fresh`.
        path: its file, or None for zoo models and objects.
        sha256: of the file.
    """

    network: KerasNetwork
    start: str
    path: Path | None
    sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """What the plan shows."""
        network = self.network
        return {
            "name": network.name,
            "path": relative(self.path) if self.path else None,
            "start": self.start,
            "parameters": network.parameters,
            "output_kind": network.output_kind,
            "logits_from": network.logits_from,
            "input": {name: p.to_json() for name, p in network.preparations.items()},
        }


def open_network(
    role: str,
    *,
    given: Any,
    source: Any,
    start: str,
    dataset: Dataset,
    section: Any,
    seed: int,
    on_event: OnEvent,
    teacher: KerasNetwork | None = None,
) -> Opened:
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

    Raises:
        ModelError: missing, unreadable, or it does not fit the data.
    """
    keras.utils.set_random_seed(seed)
    path, sha = None, None
    if given is not None:
        model, name = _as_model(given, dataset), f"{role} object"
        sha = hash_arrays(variable.numpy() for variable in model.weights)
    elif isinstance(source, File):
        section = _as_recorded(Path(source.path), section)
        path = model_file(Path(source.path))
        sha = hash_file(path)
        model, name = open_model(path), str(path)
    else:
        built = build_zoo(
            role,
            source,
            start=start,
            dataset=dataset,
            section=section,
            seed=seed,
            teacher=teacher,
            on_event=on_event,
        )
        model, name, start, section = built.model, built.name, built.start, built.section
        path, sha = built.path, built.sha256
    if start == "fresh" and (given is not None or isinstance(source, File)):
        model = fresh_copy(model, seed=seed)
    network = understand(
        KerasNetwork(model, name=name),
        dataset.train,
        task=dataset.task,
        outputs=dataset.outputs,
        section=section,
        role=role,
        measured=start == "file",
        seed=seed,
        on_event=on_event,
    )
    return Opened(network, start, path, sha)


def _as_recorded(path: Path, section: Any) -> Any:
    """A run directory brings its own preparation and output kind, where the recipe leaves them open."""
    own = recipe_of_run(path)
    if own is None or section.input != InputSection() or section.output_kind != "auto":
        return section
    recorded = getattr(read_recipe(own).recipe, role_of_run(path))
    return section.model_copy(update={"input": recorded.input, "output_kind": recorded.output_kind})


def understand(
    network: KerasNetwork,
    examples: Examples,
    *,
    task: str,
    outputs: int,
    section: Any,
    role: str,
    measured: bool,
    seed: int,
    on_event: OnEvent,
) -> KerasNetwork:
    """Resolve preparation and output kind on real examples.

    Args:
        measured: whether the weights mean something, so that scales can be compared.
    """
    network = network.with_preparations(_preparations(network, examples, section.input, role))
    sample = np.arange(min(256, len(examples)))
    try:
        answers = np.asarray(ops.convert_to_numpy(network.output(examples.take(sample))), np.float64)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{role} ({network.name}) cannot answer {len(sample)} examples: {reason:.300}") from error
    network = resolve_output(network, wanted=section.output_kind, task=task, outputs=outputs, answers=answers)
    if section.input.scale == "auto" and not measured and network.scales_itself and _scaled(network):
        network = network.with_scale("raw")
        on_event(Note(f"{role}: input.scale is raw, the network rescales its pictures itself"))
    if section.input.scale == "auto" and measured:
        choice = choose_scale(network, examples, seed=seed)
        network = network.with_scale(choice.scale)
        if choice.scale != "unit":
            shown = ", ".join(f"{scale} {value:.3f}" for scale, value in choice.accuracies.items())
            text = f"{role}: input.scale is {choice.scale}, by the accuracy on training examples ({shown})"
            on_event(Note(text))
    return network


def _scaled(network: KerasNetwork) -> bool:
    return any(preparation.scaled for preparation in network.preparations.values())


def _as_model(given: Any, dataset: Dataset) -> Any:
    if not isinstance(given, keras.Model):
        raise UsageError(f"a model must be a path or a keras.Model, got {type(given).__name__}")
    if not given.built:
        given.build((None, *zoo_shape(dataset, InputSection())))
    check_finite(given, given.name)
    return given


def _preparations(network: KerasNetwork, examples: Examples, section: InputSection, role: str) -> dict[str, Any]:
    names, specs = list(examples.shapes), {spec.name: spec for spec in network.inputs}
    if len(names) == 1 and len(specs) == 1:
        matched = {names[0]: next(iter(specs.values()))}
    elif set(names) == set(specs):
        matched = {name: specs[name] for name in specs}
    else:
        raise ModelError(
            f"{role} ({network.name}) takes the inputs {', '.join(specs)}, the data has {', '.join(names)}",
            hint="arrays for several inputs are called x_train.NAME",
        )
    return {
        name: make_preparation(
            section,
            raw_shape=examples.shapes[name],
            raw_dtype=str(examples.dtypes[name]),
            shape=spec.shape,
            dtype=spec.dtype,
            who=f"{role} ({network.name})",
        )
        for name, spec in matched.items()
    }
