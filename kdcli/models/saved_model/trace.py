"""Trace a frozen graph from its inputs: which tensors carry the batch axis, and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdcli.lazy import tf
from kdcli.models.saved_model.frozen_graph import GraphTensor
from kdcli.tensors import Shape, Tensor

# Two batch sizes that no model uses for anything else: an axis that has both in turn is the batch axis.
_BATCHES = (1_009, 2_003)
_LOOP_ENTRIES, _LOOP_EXITS = ("Enter", "RefEnter"), ("Exit", "RefExit")


@dataclass(frozen=True)
class GraphTrace:
    """The part of a graph between its inputs and its outputs.

    Args:
        operations: its operations outside loops, each after those that it needs.
        shapes: shapes without the batch axis, by tensor name, of the tensors that carry it.
        graph: the whole graph as a `tf.Graph`, for one batch size.
        batch: the only batch size, or None for any.
        missing: names of the inputs that the outputs need and that are not fed.
        unsure: names of tensors whose first axis cannot be derived from shapes, for example behind loops.
    """

    operations: tuple[Any, ...]
    shapes: dict[str, Shape]
    graph: Any
    batch: int | None
    missing: tuple[str, ...]
    unsure: tuple[str, ...]

    def tensor(self, name: str) -> Tensor | None:
        """A tensor by its full name, with or without the final `:0`; None if there is no such tensor."""
        try:
            return self.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            return None


def trace_graph(
    graph: Any, feeds: Sequence[GraphTensor], outputs: Iterable[str], *, batch: int | None
) -> GraphTrace:
    """Trace a graph from its feeds to its outputs.

    Args:
        graph: `GraphDef`; its weights may be placeholders.
        feeds: the inputs, with the known part of their shapes.
        outputs: tensor names.
        batch: the only batch size, or None for any.

    Raises:
        ValueError: the graph contradicts the shapes.
    """
    sizes = _BATCHES if batch is None else (batch, batch)
    first = _import_graph(graph, feeds, sizes[0])
    second = first if batch is not None else _import_graph(graph, feeds, sizes[1])
    ends = [first.get_tensor_by_name(name).op for name in outputs]
    reached = _find_dependents([first.get_operation_by_name(_name_feed(number)) for number in range(len(feeds))])
    # Loops of TensorFlow 1 are operations between an entry and an exit.
    entries = [op for op in first.get_operations() if op.type in _LOOP_ENTRIES]
    inside = _find_dependents(entries, until=_LOOP_EXITS)
    needed = _sort_needed(ends)
    ordered = [op for op in needed if op in reached and op not in inside]
    missing = tuple(op.name for op in needed if op.type == "Placeholder" and op not in reached)
    shapes: dict[str, Shape] = {}
    unsure = []
    for op in ordered:
        for one, other in zip(op.outputs, second.get_operation_by_name(op.name).outputs, strict=True):
            shape = _drop_batch_axis(one.shape, other.shape, sizes)
            if shape is not None:
                shapes[one.name] = shape
            elif one.dtype.is_floating and (one.shape.rank is None or (one.shape.rank and one.shape[0] is None)):
                unsure.append(one.name)
    return GraphTrace(tuple(ordered), shapes, first, batch, missing, tuple(unsure))


def measure_shapes(traced: GraphTrace, compute: Callable[[int, Sequence[str]], Sequence[Tensor]]) -> GraphTrace:
    """The trace, with the unsure tensors that carry the batch axis when the graph runs.

    Args:
        traced: trace with unsure tensors.
        compute: from a batch size and tensor names to those tensors; may fail as TensorFlow does.
    """
    sizes = (2, 3) if traced.batch is None else (traced.batch, traced.batch)
    try:
        first, second = (compute(size, traced.unsure) for size in sizes)
    except (ValueError, TypeError, tf.errors.OpError):
        return traced
    shapes = dict(traced.shapes)
    for name, one, other in zip(traced.unsure, first, second, strict=True):
        shape = _drop_batch_axis(one.shape, other.shape, sizes)
        if shape is not None:
            shapes[name] = shape
    return replace(traced, shapes=shapes, unsure=())


def _import_graph(graph: Any, feeds: Sequence[GraphTensor], batch: int) -> Any:
    imported = tf.Graph()
    with imported.as_default():
        placeholders = {}
        for number, feed in enumerate(feeds):
            shape = None if feed.shape is None else (batch, *feed.shape[1:]) if feed.shape else ()
            placeholders[feed.tensor] = tf.compat.v1.placeholder(feed.dtype, shape, name=_name_feed(number))
        tf.graph_util.import_graph_def(graph, input_map=placeholders, name="")
    return imported


def _name_feed(number: int) -> str:
    return f"kd_feed_{number}"


def _find_dependents(operations: Sequence[Any], *, until: Sequence[str] = ()) -> set[Any]:
    """The operations and what depends on them, up to operations of the types `until`."""
    waiting, found = list(operations), set[Any]()
    while waiting:
        op = waiting.pop()
        if op not in found and op.type not in until:
            found.add(op)
            waiting.extend(consumer for tensor in op.outputs for consumer in tensor.consumers())
    return found


def _sort_needed(ends: Sequence[Any]) -> list[Any]:
    """The operations that the ends need, and the ends, each after those that it needs."""
    done: list[Any] = []
    seen: set[Any] = set()
    for end in ends:
        if end in seen:
            continue
        seen.add(end)
        stack: list[tuple[Any, Iterator[Tensor]]] = [(end, iter(end.inputs))]
        while stack:
            needed = next((tensor.op for tensor in stack[-1][1] if tensor.op not in seen), None)
            if needed is None:
                done.append(stack.pop()[0])
            else:
                seen.add(needed)
                stack.append((needed, iter(needed.inputs)))
    return done


def _drop_batch_axis(one: Any, other: Any, sizes: tuple[int, int]) -> Shape | None:
    """The shape without the batch axis; None unless the first axis, and no other, follows the batch size.

    Args:
        one: the tensor's shape for the first batch size.
        other: the tensor's shape for the second batch size.
        sizes: both batch sizes.
    """
    if not one.rank or other.rank != one.rank or (one[0], other[0]) != sizes:
        return None
    pairs = list(zip(one[1:], other[1:], strict=True))
    if any(a != b and None not in (a, b) for a, b in pairs):
        return None
    return tuple(a if a == b else None for a, b in pairs)
