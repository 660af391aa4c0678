"""Fit a network to the data: preprocessing, output kind, class columns, checks of labels and targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcli.data.classes import REGRESSION_HINT, format_classes_setting
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.named_arrays import list_first
from kdcli.errors import DataError, ModelError, UsageError, summarize_error
from kdcli.evaluation.input_scale import choose_scale, find_scale_mismatch
from kdcli.events import Note, OnEvent
from kdcli.lazy import ops, tf
from kdcli.models.network import Network
from kdcli.models.outputs import choose_columns, resolve_output
from kdcli.models.preprocessing import Preprocessing, make_preprocessing
from kdcli.models.runtimes.network import RunnerNetwork, find_failure
from kdcli.recipe.model_sections import InputSection, ModelSection
from kdcli.recipe.types import ClassColumns
from kdcli.tensors import Tensors

# Number of examples from which outputs are understood, and on which targets are compared.
_SAMPLE_EXAMPLES, _TARGET_EXAMPLES = 256, 64
# Input values of a model at a time: its activations take many times as much memory.
_SAMPLE_VALUES = 2_000_000
# Up to this fraction of labels beyond the model's outputs are typing errors; above it the model is a wrong one.
_MAX_WRONG_LABELS = 0.05
# The range of bounded activations, the tolerance around it, and the fraction of targets that may be outside.
_RANGES = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0)}
_RANGE_TOLERANCE, _MAX_OUTSIDE = 0.05, 0.01
# The width of each target scale; another scale is the right one when its error is smaller by this factor.
_SCALE_WIDTHS = {"unit": 1.0, "signed": 2.0, "raw": 255.0}
_ERROR_FACTOR = 0.5
# Outputs and targets whose largest values differ by more than this factor are reported.
_SIZE_RATIO = 20


def fit_to_data(
    network: Network,
    examples: Examples,
    *,
    task: str,
    outputs: int,
    section: ModelSection,
    role: str,
    measured: bool,
    seed: int,
    on_event: OnEvent,
    class_names: Sequence[str] = (),
    who: str | None = None,
) -> Network:
    """Resolve the preprocessing, the output kind and the columns of the classes, from real examples.

    Args:
        network: as opened.
        examples: the training split.
        task: of the data.
        outputs: number of outputs that the data needs; 0 when the data does not say.
        section: the settings of the network.
        role: `teacher` or `student`, whose settings hints name.
        measured: whether the weights are trained, so that input scales can be compared by their loss.
        seed: RNG seed for the examples on which scales are compared.
        on_event: receives notes on the input scale.
        class_names: of the data, among which the `classes` of a teacher's section are found.
        who: what messages call the network; its role and its name when None.

    Raises:
        ModelError: the network does not fit the data.
        UsageError: a setting does not fit the network.
    """
    who = who or f"{role} ({network.name})"
    network = network.with_preprocessing(_match_inputs(network, examples, section.input, role, who))
    if len(network.preprocessing) < len(examples.shapes):
        used, available = ", ".join(network.preprocessing), ", ".join(examples.shapes)
        network.notes = (*network.notes, f"uses only {used} of the data's inputs {available}")
    raw = examples.take(np.arange(min(_SAMPLE_EXAMPLES, len(examples))))
    values = _compute_sample(network, raw, who)
    classes = getattr(section, "classes", None)
    count = outputs if classes is None else network.outputs
    _check_class_count(network, examples, task=task, outputs=count, class_names=class_names)
    network = resolve_output(
        network,
        setting=section.output_kind,
        task=task,
        output_count=count,
        values=values,
        map_shape=examples.label_map_shape(task),
        rescaled=_compute_unscaled(network, section.input, raw),
    )
    if classes is not None:
        network = select_columns(network, classes, task=task, class_names=class_names)
    return _choose_input_scale(
        network, examples, section, role, who=who, task=task, measured=measured, seed=seed, on_event=on_event
    )


def _compute_sample(network: Network, raw: Tensors, who: str) -> np.ndarray:
    """The saved model's outputs for some examples, as float64.

    Raises:
        ModelError: the model fails on them.
    """
    try:
        return _compute_in_parts(network, raw)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        if isinstance(network, RunnerNetwork) and network.failures:
            raise find_failure(network, error) from error
        reason, count = summarize_error(error), len(next(iter(raw.values())))
        hint = "a number in the data is outside the range of an embedding or lookup layer of the model"
        message = f"{who} fails on {count} examples: {reason:.300}"
        raise ModelError(message, hint=hint if "is not in [0," in reason else None) from error


def _compute_unscaled(network: Network, section: InputSection, raw: Tensors) -> np.ndarray | None:
    """The outputs for unscaled images, while both the scale and the last activation are unknown; else None."""
    scaled = any(preprocessing.is_scaled for preprocessing in network.preprocessing.values())
    if section.scale != "auto" or not scaled or network.activation is not None or network.saved_kind != "logits":
        return None
    return np.nan_to_num(_compute_in_parts(network.with_scale("raw"), raw), nan=np.inf)


def _compute_in_parts(network: Network, raw: Tensors) -> np.ndarray:
    """The saved model's outputs as float64, for so many examples at a time that large images fit into memory."""
    count = len(next(iter(raw.values())))
    values = sum(int(np.prod(one.preprocessed_shape)) for one in network.preprocessing.values())
    size = max(1, _SAMPLE_VALUES // max(1, values))
    parts = [
        network.compute_saved_output({name: array[start : start + size] for name, array in raw.items()})
        for start in range(0, count, size)
    ]
    return np.concatenate([np.asarray(ops.convert_to_numpy(part), np.float64) for part in parts])


def _choose_input_scale(
    network: Network,
    examples: Examples,
    section: ModelSection,
    role: str,
    *,
    who: str,
    task: str,
    measured: bool,
    seed: int,
    on_event: OnEvent,
) -> Network:
    """The network with its input scale resolved; a note says what was assumed or has no effect."""
    scale = section.input.scale
    scaled = any(preprocessing.is_scaled for preprocessing in network.preprocessing.values())
    images = any(len(preprocessing.preprocessed_shape) == 3 for preprocessing in network.preprocessing.values())
    if scaled and scale == "auto":
        choice = choose_scale(network, examples, task=task, measured=measured, seed=seed)
        network = network.with_scale(choice.scale)
        if choice.assumed:
            option = f"--set {role}.input.scale=... sets it"
            on_event(Note(f"{who}: input.scale {choice.scale} is assumed: {choice.reason}; {option}"))
        elif choice.reason and choice.scale != "unit":
            on_event(Note(f"{who}: input.scale is {choice.scale}, {choice.reason}"))
    elif images and not scaled and scale == "auto":
        mismatch = find_scale_mismatch(network, examples, task=task, measured=measured, seed=seed)
        if mismatch:
            on_event(Note(f"{who}: {mismatch}; store them as uint8 for input.scale to apply"))
    elif images and not scaled and scale != "raw":
        on_event(Note(f"{who}: input.scale {scale} has no effect: only uint8 images are scaled"))
    return network


def select_columns(network: Network, classes: ClassColumns, *, task: str, class_names: Sequence[str]) -> Network:
    """The network with the output columns that belong to the classes of the data, in their order.

    Raises:
        UsageError: columns or names that do not fit.
    """
    if task == "regression":
        raise UsageError("teacher.classes applies to classes, and the task is regression", hint="remove it")
    return network.with_columns(choose_columns(classes, output_count=network.outputs, class_names=class_names))


def _match_inputs(
    network: Network, examples: Examples, section: InputSection, role: str, who: str
) -> dict[str, Preprocessing]:
    """The preprocessing of each input that the network takes.

    Raises:
        ModelError: the inputs of the network and of the data do not match.
    """
    names, specs = list(examples.shapes), {spec.name: spec for spec in network.inputs}
    _refuse_strings(network, role, who)
    if len(names) == 1 and len(specs) == 1:
        matched = {names[0]: next(iter(specs.values()))}
    elif set(specs) <= set(names):
        # By name: a student may use fewer inputs than the data has.
        matched = {name: specs[name] for name in specs}
    else:
        raise ModelError(
            f"{who} takes the inputs {', '.join(specs)}, the data has {', '.join(names)}",
            hint="name the arrays of several inputs x_train.NAME",
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


def _refuse_strings(network: Network, role: str, who: str) -> None:
    """Refuse a model that takes strings, such as text or encoded images: examples are numbers."""
    names = [spec.name for spec in network.inputs if spec.dtype == "string"]
    decoded = getattr(network, "decoded_images", None)
    if names and decoded is None:
        raise ModelError(
            f"{who}: the input {names[0]} takes strings, the data has numbers",
            hint="save the part of the model after its text or lookup layers, and use their outputs as the data",
        )
    if names:
        raise ModelError(
            f"{who} takes encoded image files, the data has decoded images",
            hint=f"--set {role}.input.tensor={decoded} feeds the images in after the decoding step",
        )


def _check_class_count(
    network: Network, examples: Examples, *, task: str, outputs: int, class_names: Sequence[str]
) -> None:
    """Refuse labels that do not match the number of outputs, where only the labels count the classes.

    Args:
        network: behind its preprocessing.
        examples: the training split.
        task: of the data.
        outputs: number of classes in the labels.
        class_names: of the data; numbers where the data has no names.

    Raises:
        DataError: a few labels are out of range.
        ModelError: the model has a different number of outputs.
    """
    counted = task in ("classification", "segmentation") and list(class_names) == [str(n) for n in range(outputs)]
    labels = examples.all_labels()
    both = (network.outputs, outputs)
    if not counted or labels is None or examples.soft_labels is not None or both[0] == both[1] or both == (1, 2):
        return
    message = f"{network.name} has {network.outputs} outputs, the data has {outputs} classes"
    if network.outputs == 1:
        raise ModelError(message, hint=REGRESSION_HINT)
    seen = labels[labels >= 0]
    if seen.min() == 1 and seen.max() == network.outputs:
        raise ModelError(
            f"{message}: the labels are 1 to {network.outputs}, and 0 never occurs",
            hint=f"{format_classes_setting(range(1, network.outputs + 1))} if label 1 is the first output",
        )
    beyond = labels >= network.outputs
    if beyond.any():
        rows = examples.rows[np.flatnonzero(beyond.reshape(len(labels), -1).any(axis=1))]
        values = ", ".join(str(value) for value in np.unique(labels[beyond])[:5])
        if len(rows) > _MAX_WRONG_LABELS * len(labels):
            raise ModelError(message, hint="--set 'teacher.classes=[...]' selects outputs of a teacher")
        raise DataError(
            f"y_{examples.split} has {len(rows)} labels outside 0..{network.outputs - 1}, the outputs of "
            f"{network.name} (values {values}; at {list_first(rows)})",
            hint="correct these labels, or use a model with outputs for them",
        )
    raise ModelError(
        f"{message}: the labels range from {seen.min()} to {seen.max()}",
        hint=f"{format_classes_setting(range(network.outputs))} if the data lacks some of the model's classes; "
        "--set 'teacher.classes=[...]' selects outputs of a teacher",
    )


def check_target_scale(
    network: Network, dataset: Dataset, *, role: str, measured: bool, on_event: OnEvent
) -> None:
    """Refuse a model whose outputs have another scale than the targets: [0, 1], [-1, 1] or 0 to 255.

    The activation of the last layer decides first; a trained model is then compared with targets in each scale.

    Args:
        network: behind its preprocessing.
        dataset: checked only if its task is regression.
        role: `teacher` or `student`.
        measured: whether its weights are trained.
        on_event: receives a warning about different ranges that no scale explains.

    Raises:
        ModelError: the hint names the scale that fits.
    """
    if dataset.task != "regression" or dataset.train.labels is None:
        return
    count = min(_TARGET_EXAMPLES, len(dataset.train))
    positions = np.linspace(0, len(dataset.train) - 1, count).astype(int)
    targets = np.asarray(dataset.train.labels_at(positions), np.float64)
    _refuse_outside_range(network, targets, dataset, role)
    if not measured:
        return
    raw = dataset.train.take(positions)
    outputs = np.asarray(ops.convert_to_numpy(network.compute_saved_output(raw)), np.float64)
    _compare_scales(network, outputs, targets, dataset.target_scale, role)
    if network.activation == "softmax":
        text = "its last layer is a softmax, which is for classes; its probabilities are compared with the targets"
        on_event(Note(f"{role} ({network.name}): {text}", warning=True))
    largest, expected = np.abs(outputs).max(), np.abs(targets).max()
    if max(largest, expected) > _SIZE_RATIO * min(largest, expected):
        text = f"its outputs reach {largest:.4g}, but the targets {expected:.4g}: their scales seem to differ"
        on_event(Note(f"{role} ({network.name}): {text}", warning=True))


def _refuse_outside_range(network: Network, targets: np.ndarray, dataset: Dataset, role: str) -> None:
    """Refuse targets outside the range of the last layer's activation."""
    activation = network.activation
    if activation not in _RANGES:
        return
    low, high = _RANGES[activation]
    outside = (targets < low - _RANGE_TOLERANCE) | (targets > high + _RANGE_TOLERANCE)
    if np.mean(outside) <= _MAX_OUTSIDE:
        return
    scales = ["unit", "signed"] if activation != "tanh" else ["signed", "unit"]
    known = _convert_to_scales(targets, dataset.target_scale)
    fitting = [
        scale for scale in scales if scale in known and low <= known[scale].min() and known[scale].max() <= high
    ]
    raise ModelError(
        f"{role} ({network.name}): its last layer ({activation}) gives {low:g} to {high:g}, but the targets range "
        f"from {targets.min():.4g} to {targets.max():.4g}",
        hint=f"--set data.target_scale={fitting[0]}"
        if fitting
        else "use targets in that range, or a model with another last layer",
    )


def _compare_scales(
    network: Network, outputs: np.ndarray, targets: np.ndarray, target_scale: str, role: str
) -> None:
    """Refuse outputs that are much closer to the targets in another scale."""
    known = _convert_to_scales(targets, target_scale)
    errors = {
        scale: float(np.sqrt(np.mean(np.square(outputs - values)))) / _SCALE_WIDTHS[scale]
        for scale, values in known.items()
    }
    best = min(errors, key=lambda scale: errors[scale], default=target_scale)
    # Outputs that are no better than a constant are not evidence.
    evident = best in known and errors[best] * _SCALE_WIDTHS[best] < known[best].std()
    if evident and best != target_scale and errors[best] < _ERROR_FACTOR * errors[target_scale]:
        raise ModelError(
            f"{role} ({network.name}): its outputs ({outputs.min():.4g} to {outputs.max():.4g}) fit targets of "
            f"the scale {best} (error {errors[best]:.3f} of the range), not {target_scale} "
            f"({errors[target_scale]:.3f})",
            hint=f"--set data.target_scale={best}",
        )


def _convert_to_scales(targets: np.ndarray, scale: str) -> dict[str, np.ndarray]:
    """Targets of images in each scale; empty for values of another kind."""
    raw = {"unit": targets * 255, "signed": (targets + 1) * 127.5}.get(scale, targets)
    if targets.ndim < 2 or raw.min() < 0 or raw.max() > 255 or raw.max() < 100:
        return {}
    return {"unit": raw / 255, "signed": raw / 127.5 - 1, "raw": raw}
