"""The channels of a model: which axes of weights and which settings of layers carry the same slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.models.keras.graph import Graph, NodeOutput, is_functional, read_graph
from kdcli.models.keras.layers import Path
from kdcli.runs.shrink_results import OUTPUT_REASON
from kdcli.shrinking.slots import FIXED, Slots, Vector
from kdcli.tensors import KerasModel, Shape, Variable

# How many channels of a vector stay.
CountKept = Callable[[np.ndarray], int]
Axes = tuple[Vector, ...]


class Traced(NamedTuple):
    """A tensor of the graph and the slots along each of its axes.

    Args:
        shape: with the batch axis; empty where nothing uses the tensor.
        axes: a vector for each axis of the shape.
    """

    shape: Shape
    axes: Axes


@dataclass(frozen=True)
class Binding:
    """An axis of a weight and the slots along it.

    Args:
        variable: the weight.
        axis: of the weight.
        vector: (size of the axis,).
        role: whether the weight `makes` the channels, `reads` them, or `follows` them, as a bias does.
    """

    variable: Variable
    axis: int
    vector: np.ndarray
    role: Literal["makes", "reads", "follows"]


@dataclass(frozen=True)
class Maker:
    """A layer that makes channels.

    Args:
        name: of the layer, with its path.
        path: of the layer.
        vector: its slots, one for each channel.
        rounded: whether their number is rounded to a multiple; heads are not.
    """

    name: str
    path: Path
    vector: np.ndarray
    rounded: bool = True


@dataclass(frozen=True)
class Reader:
    """A layer on whose input importance is measured.

    Args:
        layer: the layer itself.
        position: of the argument of its call.
        axis: of the argument.
        vector: the slots along that axis.
    """

    layer: Any
    position: int
    axis: int
    vector: np.ndarray


@dataclass
class TracedChannels:
    """What tracing a model finds.

    Args:
        model: the model.
        slots: of its channels.
        bindings: (weight, axis) → its slots.
        unslotted: (weight, axis) that has no slots in some call, so that nothing of it can be removed.
        layers: identity of a layer → its path.
        makers: the layers that make channels, by path and part.
        readers: the inputs on which importance is measured.
        edits: (layer path, keys of its configuration) → the value of the setting for what stays.
        unknown: layer path → why the layer is not understood.
        nested_inputs: (path of a nested model, its input) → the slots of the first call.
    """

    model: KerasModel
    slots: Slots = field(default_factory=Slots)
    bindings: dict[tuple[int, int], Binding] = field(default_factory=dict)
    unslotted: set[tuple[int, int]] = field(default_factory=set)
    layers: dict[int, Path] = field(default_factory=dict)
    makers: dict[tuple[Path, str], Maker] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    edits: dict[tuple[Path, tuple[str, ...]], Callable[[CountKept], Any]] = field(default_factory=dict)
    unknown: dict[Path, str] = field(default_factory=dict)
    nested_inputs: dict[tuple[Path, str], Axes] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of a layer, as a rule sees it.

    Args:
        channels: what is known so far.
        layer: the layer or operation.
        path: of the layer.
        args, kwargs: of the call, with `Traced` tensors.
        shape: of the first output; empty where nothing uses it.
        free_normalized: whether channels that are normalized together may be removed.
    """

    channels: TracedChannels
    layer: Any
    path: Path
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: Shape
    free_normalized: bool = False

    @property
    def name(self) -> str:
        """The layer's path as text."""
        return "/".join(self.path)

    @property
    def inputs(self) -> list[Traced]:
        """Every tensor among the arguments, in the order of `keras.tree`; masks are left out."""
        found: list[Traced] = []

        def walk(value: Any) -> None:
            if isinstance(value, Traced):
                found.append(value)
            elif isinstance(value, Mapping):
                for key in sorted(value):
                    walk(value[key])
            elif isinstance(value, list | tuple):
                for item in value:
                    walk(item)

        walk([self.args, *(value for key, value in self.kwargs.items() if key != "mask")])
        return found

    @property
    def input(self) -> Traced:
        """The only or the first tensor."""
        return self.inputs[0]

    def make(self, count: int, *, part: str = "", rounded: bool = True) -> Vector:
        """The slots of the channels that the layer makes; every call of a layer makes the same ones.

        Args:
            count: number of channels; a single one cannot be removed.
            part: tells several kinds of channels of one layer apart.
            rounded: whether their number is rounded to a multiple.
        """
        if count < 2:
            return None
        key = self.path, part
        if key not in self.channels.makers:
            name = f"{self.name} {part}".strip()
            vector = self.channels.slots.make(count)
            self.channels.makers[key] = Maker(name, self.path, vector, rounded)
        return self.channels.makers[key].vector

    def bind(
        self, variable: Variable, axis: int, vector: Vector, role: Literal["makes", "reads", "follows"]
    ) -> None:
        """Record the slots along an axis of a weight; those of several calls are united."""
        if variable is None:
            return
        key = id(variable), axis % len(variable.shape)
        known = self.channels.bindings.get(key)
        if vector is None:
            self.channels.unslotted.add(key)
        elif known is None:
            self.channels.bindings[key] = Binding(variable, key[1], vector, role)
        else:
            self.channels.slots.unite(known.vector, vector)
        if key in self.channels.unslotted and key in self.channels.bindings:
            self.fix(
                self.channels.bindings[key].vector, f"{self.name} is shared and also reads channels that stay"
            )

    def read(self, layer: Any, variable: Variable, axis: int, vector: Vector, *, position: int = 0) -> None:
        """Record that a weight reads channels along the last axis of an argument of a layer."""
        self.bind(variable, axis, vector, "reads")
        if vector is not None:
            self.channels.readers.append(Reader(layer, position, -1, vector))

    def edit(self, keys: str | tuple[str, ...], compute: Callable[[CountKept], Any]) -> None:
        """Record how a setting of the layer follows from what stays."""
        self.channels.edits[self.path, (keys,) if isinstance(keys, str) else keys] = compute

    def edit_count(self, keys: str | tuple[str, ...], vector: Vector) -> None:
        """Record that a setting is the number of channels of a vector."""
        if vector is not None:
            self.edit(keys, lambda count: count(vector))

    def unite(self, first: Vector, second: Vector) -> Vector:
        """Unite two vectors of equal length, and return one that stands for both; None fixes the other, if any."""
        if first is None or second is None:
            self.fix(first if second is None else second, f"{self.name} combines it with channels that stay")
            return None
        self.channels.slots.unite(first, second)
        return first

    def unite_rows(self, members: np.ndarray) -> None:
        """Unite the slots in each row, so that they are removed together."""
        for column in range(1, members.shape[1]):
            self.unite(members[:, 0], members[:, column])

    def fix(self, vector: Vector, reason: str) -> None:
        """Fix the slots of a vector."""
        self.channels.slots.fix(vector, reason)

    def fix_inputs(self, reason: str) -> None:
        """Fix every slot of every input."""
        for traced in self.inputs:
            for vector in traced.axes:
                self.fix(vector, reason)

    def fix_other_axes(self, traced: Traced, *free: int) -> None:
        """Fix the slots of a tensor on all axes but some."""
        for axis, vector in enumerate(traced.axes):
            if axis not in free:
                self.fix(vector, f"{self.name} works along it")

    def give_up(self, reason: str) -> None:
        """Fix all inputs, and record the layer as unsupported if it touches or makes channels."""
        slotted = any(vector is not None for traced in self.inputs for vector in traced.axes)
        if slotted or getattr(self.layer, "weights", None):
            self.channels.unknown.setdefault(self.path, reason)
        self.fix_inputs(f"{self.name} {reason}")


def join_vectors(parts: Sequence[tuple[Vector, int]]) -> Vector:
    """Join vectors along an axis; each comes with its length, and channels without slots are fixed."""
    if all(vector is None for vector, _ in parts):
        return None
    return np.concatenate([np.full(length, FIXED) if vector is None else vector for vector, length in parts])


def trace_channels(model: KerasModel, *, free_normalized: bool = False) -> TracedChannels:
    """Trace the channels of a functional or sequential model; those of its inputs and outputs are fixed.

    Args:
        model: built.
        free_normalized: whether channels that LayerNorm, softmax or unit norm couple may be removed.

    Raises:
        ModelError: a subclassed model.
    """
    channels = TracedChannels(model)
    graph = read_graph(model)
    inputs = [(None,) * len(graph.shapes[tensor]) for tensor in graph.inputs]
    for axes in _trace_graph(channels, graph, inputs, (), free_normalized=free_normalized):
        for vector in axes:
            channels.slots.fix(vector, OUTPUT_REASON)
    return channels


def _trace_graph(
    channels: TracedChannels, graph: Graph, inputs: Sequence[Axes], path: Path, *, free_normalized: bool
) -> list[Axes]:
    """Trace the nodes of a graph in order; return the slots of its outputs."""
    known: dict[NodeOutput, Axes] = dict(zip(graph.inputs, inputs, strict=True))

    def resolve(value: Any) -> Any:
        if isinstance(value, NodeOutput):
            shape = graph.shapes[value]
            return Traced(shape, known.get(value, (None,) * len(shape)))
        if isinstance(value, Mapping):
            return {key: resolve(item) for key, item in value.items()}
        return [resolve(item) for item in value] if isinstance(value, list | tuple) else value

    for node in graph.nodes:
        if not node.tensors:
            continue  # An input layer.
        layer = graph.operations[node.layer]
        first = NodeOutput(node.layer, node.number, 0)
        call = Call(
            channels,
            layer,
            (*path, node.layer),
            tuple(resolve(node.args)),
            resolve(node.kwargs),
            graph.shapes.get(first, ()),
            free_normalized,
        )
        for index, axes in enumerate(_trace_call(call)):
            known[NodeOutput(node.layer, node.number, index)] = axes
    return [known.get(tensor, (None,) * len(graph.shapes[tensor])) for tensor in graph.outputs]


def _trace_call(call: Call) -> list[Axes]:
    """Trace a layer by its rule, or a nested model by its own graph."""
    from kdcli.shrinking.rules import find_rule

    layer = call.layer
    if call.channels.layers.setdefault(id(layer), call.path) != call.path:
        # The configuration of a model does not say that two nested models share a layer.
        other = "/".join(call.channels.layers[id(layer)])
        raise ModelError(
            f"{call.channels.model.name}: the layer {call.name} is shared with another nested model "
            f"({other}), so it cannot be shrunk",
            hint="build the model without nesting, or choose a zoo student: kd inspect zoo:cnn --data D",
        )
    if isinstance(layer, keras.Model):
        if not isinstance(layer, keras.Sequential) and not is_functional(layer):
            call.give_up("is a subclassed model, whose graph is not known")
            return []
        return _trace_nested(call)
    rule = find_rule(layer)
    if rule is None:
        call.give_up(f"({type(layer).__name__}) is not supported")
        return []
    return rule(call)


def _trace_nested(call: Call) -> list[Axes]:
    graph = read_graph(call.layer)
    given = [traced.axes for traced in call.inputs]
    for number, (tensor, axes) in enumerate(zip(graph.inputs, given, strict=True)):
        # Several calls of one nested model share its inputs.
        key = call.path, f"input {number}"
        seen = call.channels.nested_inputs.setdefault(key, axes)
        for first, second in zip(seen, axes, strict=True):
            call.unite(first, second)
        _edit_input_shape(call, tensor.layer, graph.shapes[tensor], axes)
    return _trace_graph(call.channels, graph, given, call.path, free_normalized=call.free_normalized)


def _edit_input_shape(call: Call, layer: str, shape: Shape, axes: Axes) -> None:
    """The input layer of a nested model declares a shape, which follows what stays."""
    if all(vector is None for vector in axes) or not layer:
        return

    def compute(count: CountKept) -> list[int | None]:
        return [side if vector is None else count(vector) for side, vector in zip(shape, axes, strict=True)]

    call.channels.edits[(*call.path, layer), ("batch_shape",)] = compute
