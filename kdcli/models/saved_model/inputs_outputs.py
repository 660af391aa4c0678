"""Which part of a SavedModel a network uses: one output, its inputs or an inner tensor, and their batch axis."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from kdcli.errors import UsageError, did_you_mean
from kdcli.lazy import tf
from kdcli.models.network import TensorSpec, UnusableModel, choose_output
from kdcli.models.saved_model.frozen import FrozenGraph, GraphTensor
from kdcli.models.saved_model.trace import GraphTrace, Shape


def choose_graph_output(frozen: FrozenGraph, wanted: str | None, *, name: str) -> GraphTensor:
    """The output that was asked for, or the only one.

    Raises:
        UsageError: several and none chosen, or no such output.
        ModelError: it holds no floats.
    """
    names = [output.name for output in frozen.outputs]
    if not names:
        raise UnusableModel(f"{name}: the signature {frozen.signature} has no output")
    chosen = frozen.outputs[names.index(choose_output(names, wanted, name=name))]
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
    """The only batch size that the inputs take; None for any.

    Args:
        feeds: the inputs.
        name: what messages call the model.
        hint: the way on where they cannot be used.

    Raises:
        ModelError: an input without a batch axis, or inputs for different batch sizes.
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
        said = ", ".join(f"{feed.name} {feed.shape}" for feed in feeds)
        raise UnusableModel(f"{name}: the inputs are for different batch sizes ({said})", hint=hint)
    return sizes.pop()


def require_fixed_values(feeds: Sequence[GraphTensor], *, name: str, section: str) -> None:
    """Refuse inputs that hold one value for all examples, such as `keep_prob`, and were given none.

    Args:
        feeds: the inputs that are left.
        name: what messages call the model.
        section: `teacher` or `student`, for the hint.

    Raises:
        ModelError: naming them.
    """
    batched = any(feed.shape and feed.shape[0] is None for feed in feeds)
    single = [feed for feed in feeds if feed.shape == () or (batched and feed.shape == (1,))]
    if not single or len(single) == len(feeds):
        return
    values = ", ".join(f"{_key(feed.name)}: {_usual(feed)}" for feed in single)
    names = ", ".join(feed.name for feed in single)
    raise UnusableModel(
        f"{name}: {names} {'is an input' if len(single) == 1 else 'are inputs'} with one value for all examples "
        "(got none)",
        hint=f"--set '{section}.input.values={{{values}}}'",
    )


def _key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _usual(feed: GraphTensor) -> str:
    """What such an input holds in inference, as far as its type and its name tell."""
    if feed.dtype == "bool":
        return "false"
    if not tf.dtypes.as_dtype(feed.dtype).is_floating:
        return "0"
    return "0.0" if any(word in feed.name.lower() for word in ("rate", "drop", "noise")) else "1.0"


def make_input_specs(feeds: Sequence[GraphTensor]) -> tuple[TensorSpec, ...]:
    """What the network takes, without the batch axis."""
    return tuple(TensorSpec(feed.name, tuple((feed.shape or (None,))[1:]), feed.dtype) for feed in feeds)


def find_output_shape(chosen: GraphTensor, traced: GraphTrace | None, *, name: str) -> Shape:
    """The shape of an output without the batch axis, as traced or else as declared.

    Raises:
        ModelError: the batch axis is not its first, or the size of its last axis is not known.
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


def find_start_tensor(wanted: str, traced: GraphTrace, taps: Mapping[str, str], *, name: str) -> GraphTensor:
    """The inner tensor from which a network shall start.

    Args:
        wanted: a tap, or the full name of a tensor.
        traced: the graph from its own inputs.
        taps: tap → full name.
        name: what messages call the model.

    Raises:
        UsageError: no such tensor.
        ModelError: its shape is not known, or it has no batch axis.
    """
    full = taps.get(wanted, wanted)
    tensor = traced.tensor(full)
    if tensor is None:
        known = ", ".join(taps)
        raise UsageError(
            f"{name}: there is no tensor {wanted!r}; {did_you_mean(wanted, taps)}"
            + (f"layers: {known}" if known else "a full name ends in :0"),
            hint=f"kd inspect {name} lists them",
        )
    carried = traced.shapes.get(tensor.name)
    shape = (None, *carried) if carried is not None else tensor.shape.rank and tuple(tensor.shape)
    if not shape:
        raise UnusableModel(f"{name}: the shape of the tensor {wanted} is unknown, or it has no batch axis")
    fixed = traced.batch if carried is not None else shape[0]
    return GraphTensor(wanted, tensor.name, (fixed, *shape[1:]), tensor.dtype.name)
