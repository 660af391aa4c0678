"""The inputs and the output of a SavedModel that a network uses, and their batch axis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from kdcli.errors import UsageError, did_you_mean
from kdcli.lazy import tf
from kdcli.models.network import TensorSpec, UnusableModel, choose_output
from kdcli.models.saved_model.frozen_graph import FrozenGraph, GraphTensor
from kdcli.models.saved_model.trace import GraphTrace
from kdcli.tensors import Shape


def choose_graph_output(frozen: FrozenGraph, option: str | None, *, name: str) -> GraphTensor:
    """The output named by the option, else the only one.

    Raises:
        UsageError: no such output, or several to choose from.
        ModelError: the signature has no output, or the output does not hold floats.
    """
    names = [output.name for output in frozen.outputs]
    if not names:
        raise UnusableModel(f"{name}: the signature {frozen.signature} has no output")
    chosen = frozen.outputs[names.index(choose_output(names, option, name=name))]
    if not tf.dtypes.as_dtype(chosen.dtype).is_floating:
        raise UnusableModel(
            f"{name}: the output {chosen.name} holds {chosen.dtype}; logits, probabilities or values are floats",
            hint=f"--output NAME, one of {', '.join(names)}" if len(names) > 1 else None,
        )
    return chosen


def find_batch_size(feeds: Sequence[GraphTensor]) -> int | None:
    """The only batch size that the inputs take; None for any."""
    return next((feed.shape[0] for feed in feeds if feed.shape), None)


def check_batch_size(feeds: Sequence[GraphTensor], *, name: str, hint: str | None = None) -> int | None:
    """The only batch size that the inputs take, None for any; refuse inputs without a common one.

    Args:
        feeds: inputs of the network.
        name: name of the model in messages.
        hint: hint of the errors.

    Raises:
        ModelError: an input without a batch axis, or inputs of different batch sizes.
    """
    for feed in feeds:
        if feed.shape is None:
            raise UnusableModel(
                f"{name}: the shape of the input {feed.name} is unknown",
                hint=hint or "save it with input_signature=[tf.TensorSpec([None, HEIGHT, WIDTH, CHANNELS])]",
            )
        if not feed.shape:
            raise UnusableModel(f"{name}: the input {feed.name} has no batch axis (its shape is ())", hint=hint)
    sizes = {feed.shape[0] for feed in feeds if feed.shape}
    if not sizes:
        raise UnusableModel(f"{name}: the signature has no input", hint=hint)
    if len(sizes) > 1:
        shapes = ", ".join(f"{feed.name} {feed.shape}" for feed in feeds)
        raise UnusableModel(f"{name}: the inputs have different batch sizes ({shapes})", hint=hint)
    return sizes.pop()


def require_fixed_values(feeds: Sequence[GraphTensor], *, name: str, section: str) -> None:
    """Refuse inputs with one value for all examples, such as `keep_prob`, that have no fixed value.

    Args:
        feeds: inputs without a fixed value.
        name: name of the model in messages.
        section: `teacher` or `student`, for the hint.

    Raises:
        ModelError: names those inputs.
    """
    batched = any(feed.shape and feed.shape[0] is None for feed in feeds)
    single = [feed for feed in feeds if feed.shape == () or (batched and feed.shape == (1,))]
    if not single or len(single) == len(feeds):
        return
    values = ", ".join(f"{_quote_key(feed.name)}: {_suggest_value(feed)}" for feed in single)
    names = ", ".join(feed.name for feed in single)
    verb = "is an input" if len(single) == 1 else "are inputs"
    raise UnusableModel(
        f"{name}: {names} {verb} with one value for all examples, which is not set",
        hint=f"--set '{section}.input.values={{{values}}}'",
    )


def _quote_key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _suggest_value(feed: GraphTensor) -> str:
    """The usual value of such an input in inference, guessed from its type and its name."""
    if feed.dtype == "bool":
        return "false"
    if not tf.dtypes.as_dtype(feed.dtype).is_floating:
        return "0"
    return "0.0" if any(word in feed.name.lower() for word in ("rate", "drop", "noise")) else "1.0"


def make_input_specs(feeds: Sequence[GraphTensor]) -> tuple[TensorSpec, ...]:
    """The inputs of the network, without the batch axis."""
    return tuple(TensorSpec(feed.name, tuple((feed.shape or (None,))[1:]), feed.dtype) for feed in feeds)


def find_output_shape(chosen: GraphTensor, traced: GraphTrace | None, *, name: str) -> Shape:
    """The shape of an output without the batch axis: as traced, else as declared.

    Raises:
        ModelError: the first axis is not the batch axis, or the size of the last axis is unknown.
    """
    traced_shape = traced.shapes.get(chosen.tensor) if traced else None
    declared = chosen.shape
    if traced_shape is None and (not declared or (traced is not None and declared[0] is not None)):
        raise UnusableModel(f"{name}: the output {chosen.name} (shape {declared}) does not carry the batch axis")
    found = traced_shape if traced_shape is not None else (declared or ())[1:]
    if not found or found[-1] is None:
        raise UnusableModel(
            f"{name}: the output {chosen.name} has shape {(None, *found)}; its last axis must be fixed"
        )
    return tuple(found)


def find_start_tensor(setting: str, traced: GraphTrace, taps: Mapping[str, str], *, name: str) -> GraphTensor:
    """The inner tensor from which a network starts.

    Args:
        setting: name of a tap, or full name of a tensor.
        traced: the graph from its own inputs.
        taps: full tensor names by tap.
        name: name of the model in messages.

    Raises:
        UsageError: no such tensor.
        ModelError: the tensor's shape is unknown, or it has no batch axis.
    """
    full = taps.get(setting, setting)
    tensor = traced.tensor(full)
    if tensor is None:
        known = ", ".join(taps)
        raise UsageError(
            f"{name}: there is no tensor {setting!r}; {did_you_mean(setting, taps)}"
            + (f"layers: {known}" if known else "a full name ends in :0"),
            hint=f"kd inspect {name} lists them",
        )
    traced_shape = traced.shapes.get(tensor.name)
    shape = (None, *traced_shape) if traced_shape is not None else tensor.shape.rank and tuple(tensor.shape)
    if not shape:
        raise UnusableModel(f"{name}: the shape of the tensor {setting} is unknown, or it has no batch axis")
    fixed = traced.batch if traced_shape is not None else shape[0]
    return GraphTensor(setting, tensor.name, (fixed, *shape[1:]), tensor.dtype.name)
