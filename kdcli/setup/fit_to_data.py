"""A network and the data, brought together: preparation, output kind, columns of the data's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError, summarize_error
from kdcli.evaluation.input_scale import choose_scale, find_scale_mismatch
from kdcli.events import Note, OnEvent
from kdcli.lazy import ops, tf
from kdcli.models.network import Network
from kdcli.models.outputs import choose_columns, resolve_output
from kdcli.models.preprocessing import make_preprocessing
from kdcli.models.runtimes.network import find_failure
from kdcli.recipe.model_sections import InputSection
from kdcli.setup.class_count import check_class_count


def fit_to_data(
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
    who: str | None = None,
) -> Any:
    """Resolve preparation, output kind and the columns of the data's classes, on real examples.

    Args:
        measured: whether the weights mean something, so that scales can be compared.
        class_names: of the data, among which `classes` of a teacher's section are found.
        who: what messages call the network; its role and its name when left out.
    """
    who = who or f"{role} ({network.name})"
    network = network.with_preprocessing(_preparations(network, examples, section.input, role, who))
    if len(network.preprocessing) < len(examples.shapes):
        taken, held = ", ".join(network.preprocessing), ", ".join(examples.shapes)
        network.notes = (*network.notes, f"takes {taken} of the data's inputs {held}")
    sample = np.arange(min(256, len(examples)))
    raw = examples.take(sample)
    try:
        answers = np.asarray(ops.convert_to_numpy(network.compute_saved_output(raw)), np.float64)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        if getattr(network, "failures", None):
            raise find_failure(network, error) from error
        reason = summarize_error(error)
        hint = "a number in the data is outside of what an embedding or a lookup of the model knows"
        message = f"{who} cannot answer {len(sample)} examples: {reason:.300}"
        raise ModelError(message, hint=hint if "is not in [0," in reason else None) from error
    classes = getattr(section, "classes", None)
    count = outputs if classes is None else network.outputs
    check_class_count(network, examples, task=task, outputs=count, class_names=class_names)
    network = resolve_output(
        network,
        setting=section.output_kind,
        task=task,
        output_count=count,
        values=answers,
        map_shape=examples.label_map_shape(task),
        rescaled=_under_raw(network, section.input, raw),
    )
    if classes is not None:
        network = select_columns(network, classes, task=task, class_names=class_names)
    return _scaled_for(
        network, examples, section, role, who=who, task=task, measured=measured, seed=seed, on_event=on_event
    )


def _under_raw(network: Any, section: InputSection, raw: Any) -> np.ndarray | None:
    """What a network with an unknown last layer answers to images as they are, while its scale is open."""
    scaled = any(preparation.is_scaled for preparation in network.preprocessing.values())
    if section.scale != "auto" or not scaled or network.activation is not None or network.saved_kind != "logits":
        return None
    answers = ops.convert_to_numpy(network.with_scale("raw").compute_saved_output(raw))
    return np.nan_to_num(np.asarray(answers, np.float64), nan=np.inf)


def _scaled_for(
    network: Any,
    examples: Examples,
    section: Any,
    role: str,
    *,
    who: str,
    task: str,
    measured: bool,
    seed: int,
    on_event: OnEvent,
) -> Any:
    """The network behind the scale that it wants, with what has to be said about it."""
    scale = section.input.scale
    scaled = any(preparation.is_scaled for preparation in network.preprocessing.values())
    images = any(len(preparation.preprocessed_shape) == 3 for preparation in network.preprocessing.values())
    if scaled and scale == "auto":
        choice = choose_scale(network, examples, task=task, measured=measured, seed=seed)
        network = network.with_scale(choice.scale)
        if choice.assumed:
            way = f"--set {role}.input.scale=... sets it"
            on_event(Note(f"{who}: input.scale {choice.scale} is assumed: {choice.reason}; {way}"))
        elif choice.reason and choice.scale != "unit":
            on_event(Note(f"{who}: input.scale is {choice.scale}, {choice.reason}"))
    elif images and not scaled and scale == "auto":
        mismatch = find_scale_mismatch(network, examples, task=task, measured=measured, seed=seed)
        if mismatch:
            on_event(Note(f"{who}: {mismatch}; store them as uint8 for input.scale to apply"))
    elif images and not scaled and scale != "raw":
        on_event(Note(f"{who}: input.scale {scale} has no effect, only uint8 images are scaled"))
    return network


def select_columns(network: Any, classes: Any, *, task: str, class_names: Sequence[str]) -> Any:
    """The network with the columns that belong to the classes of the data.

    Raises:
        UsageError: columns or names that do not fit.
    """
    if task == "regression":
        raise UsageError("teacher.classes is for classes, and the data has values", hint="leave it out")
    return network.with_columns(choose_columns(classes, output_count=network.outputs, class_names=class_names))


def _refuse_strings(network: Network, role: str, who: str) -> None:
    """Refuse a model that takes strings, such as text or the bytes of files: examples are numbers."""
    names = [spec.name for spec in network.inputs if spec.dtype == "string"]
    inner = getattr(network, "decoded_images", None)
    if names and inner is None:
        raise ModelError(
            f"{who}: the input {names[0]} takes strings, the data has numbers",
            hint="save the part of the model behind its text or lookup layers; what these give is its data",
        )
    if names:
        raise ModelError(
            f"{who} starts from the bytes of picture files, the data are pictures",
            hint=f"--set {role}.input.tensor={inner} starts it after decoding",
        )


def _preparations(
    network: Network, examples: Examples, section: InputSection, role: str, who: str
) -> dict[str, Any]:
    names, specs = list(examples.shapes), {spec.name: spec for spec in network.inputs}
    _refuse_strings(network, role, who)
    if len(names) == 1 and len(specs) == 1:
        matched = {names[0]: next(iter(specs.values()))}
    elif set(specs) <= set(names):
        # By name: a student may take less than the data has.
        matched = {name: specs[name] for name in specs}
    else:
        raise ModelError(
            f"{who} takes the inputs {', '.join(specs)}, the data has {', '.join(names)}",
            hint="arrays for several inputs are called x_train.NAME",
        )
    return {
        name: make_preprocessing(
            section,
            raw_shape=examples.shapes[name],
            raw_dtype=str(examples.dtypes[name]),
            shape=spec.shape,
            dtype=spec.dtype,
            name=who,
        )
        for name, spec in matched.items()
    }
