"""A network and the data, brought together: preparation, output kind, columns of the data's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError, first_line
from kdcli.evaluation.scaling import choose_scale
from kdcli.events import Note, OnEvent
from kdcli.lazy import ops, tf
from kdcli.models.columns import columns_for
from kdcli.models.network import Network
from kdcli.models.output_kind import resolve_output
from kdcli.models.preparation import make_preparation
from kdcli.models.runner_network import explain
from kdcli.recipe.sections import InputSection


def understand(
    network: Any,
    examples: Examples,
    *,
    task: str,
    outputs: int,
    section: Any,
    role: str,
    measured: bool,
    seed: int,
    on_event: OnEvent,
    class_names: Sequence[str] = (),
) -> Any:
    """Resolve preparation, output kind and the columns of the data's classes, on real examples.

    Args:
        measured: whether the weights mean something, so that scales can be compared.
        class_names: of the data, among which `classes` of a teacher's section are found.
    """
    network = network.with_preparations(_preparations(network, examples, section.input, role))
    if len(network.preparations) < len(examples.shapes):
        taken, held = ", ".join(network.preparations), ", ".join(examples.shapes)
        network.notes = (*network.notes, f"takes {taken} of the data's inputs {held}")
    sample = np.arange(min(256, len(examples)))
    try:
        answers = np.asarray(ops.convert_to_numpy(network.output(examples.take(sample))), np.float64)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        if getattr(network, "failures", None):
            raise explain(network, error) from error
        reason = first_line(error)
        message = f"{role} ({network.name}) cannot answer {len(sample)} examples: {reason:.300}"
        outside = "is not in [0," in reason
        hint = "a number in the data is outside of what an embedding or a lookup of the model knows"
        raise ModelError(message, hint=hint if outside else None) from error
    classes = getattr(section, "classes", None)
    count = outputs if classes is None else network.outputs
    network = resolve_output(network, wanted=section.output_kind, task=task, outputs=count, answers=answers)
    if classes is not None:
        network = mapped(network, classes, task=task, class_names=class_names)
    if section.input.scale == "auto" and not measured and network.scales_itself and _scaled(network):
        network = network.with_scale("raw")
        on_event(Note(f"{role} ({network.name}): input.scale is raw, the network rescales its pictures itself"))
    if section.input.scale == "auto" and measured:
        choice = choose_scale(network, examples, seed=seed)
        network = network.with_scale(choice.scale)
        if choice.scale != "unit":
            shown = ", ".join(f"{scale} {value:.3f}" for scale, value in choice.accuracies.items())
            found = f"input.scale is {choice.scale}, by the accuracy on training examples ({shown})"
            text = f"{role} ({network.name}): {found}"
            on_event(Note(text))
    return network


def mapped(network: Any, classes: Any, *, task: str, class_names: Sequence[str]) -> Any:
    """The network with the columns that belong to the classes of the data.

    Raises:
        UsageError: columns or names that do not fit.
    """
    if task == "regression":
        raise UsageError("teacher.classes is for classes, and the data has values", hint="leave it out")
    return network.with_columns(columns_for(classes, outputs=network.outputs, class_names=class_names))


def _scaled(network: Network) -> bool:
    return any(preparation.scaled for preparation in network.preparations.values())


def _refuse_strings(network: Network, role: str) -> None:
    """Refuse a model that takes strings, such as text or the bytes of files: examples are numbers."""
    names = [spec.name for spec in network.inputs if spec.dtype == "string"]
    inner = getattr(network, "starts_from_bytes", None)
    if names and inner is None:
        raise ModelError(
            f"{role} ({network.name}): the input {names[0]} takes strings, the data has numbers",
            hint="save the part of the model behind its text or lookup layers, and give kd their numbers as data",
        )
    if names:
        raise ModelError(
            f"{role} ({network.name}) starts from the bytes of picture files, the data are pictures",
            hint=f"--set {role}.input.tensor={inner} starts it after decoding",
        )


def _preparations(network: Network, examples: Examples, section: InputSection, role: str) -> dict[str, Any]:
    names, specs = list(examples.shapes), {spec.name: spec for spec in network.inputs}
    _refuse_strings(network, role)
    if len(names) == 1 and len(specs) == 1:
        matched = {names[0]: next(iter(specs.values()))}
    elif set(specs) <= set(names):
        # By name: a student may take less than the data has.
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
