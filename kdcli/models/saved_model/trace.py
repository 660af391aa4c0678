"""What a frozen graph computes from its inputs: which tensors carry the batch axis, and with which shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdcli.lazy import tf
from kdcli.models.saved_model.frozen import GraphTensor

Shape = tuple[int | None, ...]
# Two batch sizes that no model has for anything else: the axis that follows both is the batch axis.
_BATCHES = (1_009, 2_003)
_ENTERS, _LEAVES = ("Enter", "RefEnter"), ("Exit", "RefExit")


@dataclass(frozen=True)
class GraphTrace:
    """The way from the inputs of a graph to its outputs.

    Args:
        operations: on that way and outside of loops, each after those that it needs.
        shapes: of tensors with the batch axis, by name, without that axis.
        graph: all of it, as a `tf.Graph` with one batch size.
        batch: the only batch size, or None for any.
        missing: inputs that the outputs need and that are not fed.
        unsure: tensors whose first axis does not follow from shapes alone, as behind loops.
    """

    operations: tuple[Any, ...]
    shapes: dict[str, Shape]
    graph: Any
    batch: int | None
    missing: tuple[str, ...]
    unsure: tuple[str, ...]

    def tensor(self, name: str) -> Any:
        """A tensor by its full name, the `:0` at its end left out or not; None if there is none."""
        try:
            return self.graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError):
            return None


def trace_graph(
    graph: Any, feeds: Sequence[GraphTensor], outputs: Iterable[str], *, batch: int | None
) -> GraphTrace:
    """Follow a graph from its feeds to its outputs.

    Args:
        graph: the `GraphDef`; weights may be placeholders.
        feeds: with shapes as far as they are known.
        outputs: tensor names.
        batch: the only batch size, or None for any.

    Raises:
        ValueError: the graph contradicts the shapes.
    """
    sizes = _BATCHES if batch is None else (batch, batch)
    first = _imported(graph, feeds, sizes[0])
    second = first if batch is not None else _imported(graph, feeds, sizes[1])
    ends = [first.get_tensor_by_name(name).op for name in outputs]
    reached = _reached(first, feeds)
    inside = _inside_loops(first)
    needed = _ordered(ends)
    ordered = [op for op in needed if op in reached and op not in inside]
    missing = tuple(op.name for op in needed if op.type == "Placeholder" and op not in reached)
    shapes: dict[str, Shape] = {}
    unsure = []
    for op in ordered:
        for one, other in zip(op.outputs, second.get_operation_by_name(op.name).outputs, strict=True):
            shape = _carried(one.shape, other.shape, sizes)
            if shape is not None:
                shapes[one.name] = shape
            elif one.dtype.is_floating and (one.shape.rank is None or (one.shape.rank and one.shape[0] is None)):
                unsure.append(one.name)
    return GraphTrace(tuple(ordered), shapes, first, batch, missing, tuple(unsure))


def measure_shapes(traced: GraphTrace, ask: Callable[[int, Sequence[str]], Sequence[Any]]) -> GraphTrace:
    """The same with those tensors that carry the batch axis when the graph runs, though their shapes do not say.

    Args:
        traced: with unsure tensors.
        ask: answers a batch of so many examples with so many tensors; it may fail as TensorFlow does.
    """
    sizes = (2, 3) if traced.batch is None else (traced.batch, traced.batch)
    try:
        first, second = (ask(size, traced.unsure) for size in sizes)
    except (ValueError, TypeError, tf.errors.OpError):
        return traced
    shapes = dict(traced.shapes)
    for name, one, other in zip(traced.unsure, first, second, strict=True):
        shape = _carried(one.shape, other.shape, sizes)
        if shape is not None:
            shapes[name] = shape
    return replace(traced, shapes=shapes, unsure=())


def _imported(graph: Any, feeds: Sequence[GraphTensor], batch: int) -> Any:
    built = tf.Graph()
    with built.as_default():
        fed = {}
        for number, feed in enumerate(feeds):
            shape = None if feed.shape is None else (batch, *feed.shape[1:]) if feed.shape else ()
            fed[feed.tensor] = tf.compat.v1.placeholder(feed.dtype, shape, name=f"kd_feed_{number}")
        tf.graph_util.import_graph_def(graph, input_map=fed, name="")
    return built


def _reached(graph: Any, feeds: Sequence[GraphTensor]) -> set[Any]:
    """What depends on the feeds."""
    waiting = [graph.get_operation_by_name(f"kd_feed_{number}") for number in range(len(feeds))]
    found: set[Any] = set()
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting.extend(consumer for tensor in op.outputs for consumer in tensor.consumers())
    return found


def _inside_loops(graph: Any) -> set[Any]:
    """What is between the entries and the exits of loops of the older form."""
    waiting = [op for op in graph.get_operations() if op.type in _ENTERS]
    found: set[Any] = set()
    while waiting:
        op = waiting.pop()
        if op not in found and op.type not in _LEAVES:
            found.add(op)
            waiting.extend(consumer for tensor in op.outputs for consumer in tensor.consumers())
    return found


def _ordered(ends: Sequence[Any]) -> list[Any]:
    """Everything that the ends need, and they themselves, each after what it needs."""
    done: list[Any] = []
    seen: set[Any] = set()
    for end in ends:
        if end in seen:
            continue
        seen.add(end)
        stack: list[tuple[Any, Iterator[Any]]] = [(end, iter(end.inputs))]
        while stack:
            needed = next((tensor.op for tensor in stack[-1][1] if tensor.op not in seen), None)
            if needed is None:
                done.append(stack.pop()[0])
            else:
                seen.add(needed)
                stack.append((needed, iter(needed.inputs)))
    return done


def _carried(one: Any, other: Any, sizes: tuple[int, int]) -> Shape | None:
    """The shape without the batch axis, of a tensor whose first axis follows the batch and no other does."""
    if not one.rank or other.rank != one.rank or (one[0], other[0]) != sizes:
        return None
    pairs = list(zip(one[1:], other[1:], strict=True))
    if any(a != b and None not in (a, b) for a, b in pairs):
        return None
    return tuple(a if a == b else None for a, b in pairs)
