"""The graph of a Keras model as its configuration describes it: nodes in order, nested models included."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.tensors import KerasModel, Shape

_TENSOR = "__keras_tensor__"


class NodeOutput(NamedTuple):
    """A tensor of a graph: which output of which call of which layer it is."""

    layer: str
    node: int
    output: int


@dataclass(frozen=True)
class Node:
    """One call of a layer or an operation.

    Args:
        layer: name of the layer, unique in its graph.
        number: number of the call of this layer.
        args, kwargs: of the call, with `NodeOutput` objects for tensors.
    """

    layer: str
    number: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tensors(self) -> list[NodeOutput]:
        """The tensors among the arguments, in order."""
        return list(_find_tensors([self.args, self.kwargs]))


@dataclass(frozen=True)
class Graph:
    """The calls of one model.

    Args:
        operations: name → the layer or operation itself.
        nodes: in an order in which they can be computed; input layers are left out.
        inputs, outputs: of the model.
        shapes: of the tensors, with the batch axis; those that nothing uses are missing.
    """

    operations: Mapping[str, Any]
    nodes: Sequence[Node]
    inputs: Sequence[NodeOutput]
    outputs: Sequence[NodeOutput]
    shapes: dict[NodeOutput, Shape] = field(default_factory=dict)


def read_graph(model: KerasModel) -> Graph:
    """Read the graph of a functional or sequential model; a nested model is one node of it.

    Raises:
        ModelError: a subclassed model, whose graph only its code defines.
    """
    if isinstance(model, keras.Sequential):
        return _read_sequential(model)
    if not is_functional(model):
        raise ModelError(
            f"{model.name}: the graph of a subclassed model ({type(model).__name__}) is not known, so its "
            "layers cannot be changed",
            hint="build it as a functional model, or choose a zoo student: kd inspect zoo:cnn --data D",
        )
    config = model.get_config()
    shapes: dict[NodeOutput, Shape] = {}
    nodes, inputs = [], [_read_reference(one) for one in _list_references(config["input_layers"])]
    for layer in config["layers"]:
        for number, call in enumerate(layer["inbound_nodes"]):
            args = _read_structure(call["args"], shapes)
            kwargs = _read_structure(call["kwargs"], shapes)
            nodes.append(Node(layer["name"], number, tuple(args), kwargs))
    operations = {one.name: one for one in model.operations}
    outputs = [_read_output(one, operations) for one in _list_references(config["output_layers"])]
    for tensors, found in ((inputs, model.inputs), (outputs, model.outputs)):
        shapes.update({tensor: tuple(one.shape) for tensor, one in zip(tensors, found, strict=True)})
    return Graph(operations, _sort(nodes, inputs), inputs, outputs, shapes)


def _read_output(value: Sequence[Any], operations: Mapping[str, Any]) -> NodeOutput:
    """An output of the model; of a nested functional model, Keras counts its own graph as its first call here."""
    tensor = _read_reference(value)
    nested = operations[tensor.layer]
    is_nested = isinstance(nested, keras.Model) and not isinstance(nested, keras.Sequential)
    return tensor._replace(node=tensor.node - 1) if is_nested else tensor


def is_functional(model: Any) -> bool:
    """Whether a model is defined by its graph, nested models included as single nodes."""
    return hasattr(model, "operations") and "input_layers" in model.get_config()


def _read_sequential(model: KerasModel) -> Graph:
    first = model.get_config()["layers"][0]
    name = first["config"]["name"] if first["class_name"] == "InputLayer" else ""
    previous, shape = NodeOutput(name, 0, 0), tuple(model.inputs[0].shape)
    nodes, operations, shapes, inputs = [], {}, {previous: shape}, [previous]
    for layer in model.layers:
        nodes.append(Node(layer.name, 0, (previous,), {}))
        operations[layer.name] = layer
        previous = NodeOutput(layer.name, 0, 0)
        shape = tuple(layer.compute_output_shape(shape))
        shapes[previous] = shape
    return Graph(operations, nodes, inputs, [previous], shapes)


def _sort(nodes: Sequence[Node], inputs: Sequence[NodeOutput]) -> list[Node]:
    """Sort nodes so that each one follows those that compute its inputs."""
    ready = {(tensor.layer, tensor.node) for tensor in inputs}
    ordered, waiting = [], list(nodes)
    while waiting:
        later = []
        for node in waiting:
            if all((tensor.layer, tensor.node) in ready for tensor in node.tensors):
                ready.add((node.layer, node.number))
                ordered.append(node)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise ModelError(f"the layer {later[0].layer} has an input that no layer computes")
        waiting = later
    return ordered


def _read_structure(value: Any, shapes: dict[NodeOutput, Shape]) -> Any:
    """Arguments of a call as the configuration has them, with tensors in place; their shapes are noted."""
    if isinstance(value, list | tuple):
        return [_read_structure(item, shapes) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.get("class_name") == _TENSOR:
        tensor = _read_reference(value["config"]["keras_history"])
        shapes[tensor] = tuple(value["config"]["shape"])
        return tensor
    if value.get("class_name") == "__slice__":
        part = value["config"]
        return slice(part["start"], part["stop"], part["step"])
    if value.get("class_name") == "__ellipsis__":
        return Ellipsis
    if value.get("class_name") == "__tuple__":
        return tuple(_read_structure(item, shapes) for item in value["config"]["value"])
    return {key: _read_structure(item, shapes) for key, item in value.items()}


def _list_references(value: Any) -> list[Any]:
    """The references in the `input_layers` or `output_layers` of a configuration, in the order of `inputs`."""
    if isinstance(value, Mapping):
        return [one for name in sorted(value) for one in _list_references(value[name])]
    if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
        return [value]
    return [one for item in value for one in _list_references(item)]


def _read_reference(value: Sequence[Any]) -> NodeOutput:
    return NodeOutput(str(value[0]), int(value[1]), int(value[2]))


def _find_tensors(value: Any) -> Iterator[NodeOutput]:
    if isinstance(value, NodeOutput):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _find_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_tensors(item)


def count_elements(shape: Sequence[int | None]) -> int | None:
    """The number of elements of a shape without a batch axis; None where a side is unknown."""
    return None if None in shape else math.prod(side for side in shape if side is not None)
