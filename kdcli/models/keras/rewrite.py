"""Rewrite a model call by call: nested models are inlined, and a call can be replaced by other layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.models.keras.graph import Graph, Node, NodeOutput, read_graph
from kdcli.models.keras.layers import Path
from kdcli.tensors import KerasModel, Tensor

# Makes what takes the place of a layer or operation, from its name in the new model; None copies the layer.
Replace = Callable[[Any, str], Callable[..., Any] | None]


@dataclass
class ModelWriter:
    """The new model while it is written.

    Args:
        replace: decides for each layer or operation, once.
        made: identity of a layer → what is called in its place.
        names: names that are taken.
    """

    replace: Replace
    made: dict[int, Callable[..., Any]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def write(self, model: KerasModel) -> KerasModel:
        """Write a model.

        Raises:
            ModelError: a subclassed model.
        """
        graph = read_graph(model)
        inputs = [keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name) for one in model.inputs]
        self.names.update(one.name for one in inputs)
        outputs = self._write_graph(graph, inputs, ())
        if isinstance(model, keras.Sequential):
            return keras.Model(inputs[0], outputs[0], name=model.name)
        pack = keras.tree.pack_sequence_as
        return keras.Model(pack(model.input, inputs), pack(model.output, outputs), name=model.name)

    def _write_graph(self, graph: Graph, inputs: Sequence[Tensor], path: Path) -> list[Tensor]:
        tensors = dict(zip(graph.inputs, inputs, strict=True))
        for node in graph.nodes:
            operation = graph.operations[node.layer]
            if isinstance(operation, keras.Model):
                # Keras sorts the keys of a dictionary, and so does its graph.
                found = keras.tree.flatten(_insert(node.args, tensors))
                results = self._write_graph(read_graph(operation), found, (*path, node.layer))
            else:
                results = keras.tree.flatten(self._write_call(operation, node, tensors, path))
            for number, tensor in enumerate(results):
                tensors[NodeOutput(node.layer, node.number, number)] = tensor
        return [tensors[output] for output in graph.outputs]

    def _write_call(self, operation: Any, node: Node, tensors: Mapping[NodeOutput, Tensor], path: Path) -> Any:
        if id(operation) not in self.made:
            name = self._choose_name(node.layer, path)
            self.made[id(operation)] = self.replace(operation, name) or copy_layer(operation, name=name)
        return self.made[id(operation)](*_insert(node.args, tensors), **_insert(dict(node.kwargs), tensors))

    def _choose_name(self, name: str, path: Path) -> str:
        """The name of a layer; if it is taken, with the names of its nested models as a prefix."""
        chosen, outer = name, list(path)
        while chosen in self.names:
            chosen = f"{outer.pop()}_{chosen}" if outer else f"{chosen}_again"
        self.names.add(chosen)
        return chosen


def copy_layer(
    operation: Any, *, weights: Sequence[np.ndarray] | None = None, **changes: Any
) -> Callable[..., Any]:
    """A copy of a layer or operation, which computes in float32.

    Args:
        operation: the layer.
        weights: of the copy; those of the layer if None.
        changes: settings of its configuration to replace.
    """
    config = {**operation.get_config(), **changes}
    if not isinstance(operation, keras.Layer):
        return type(operation).from_config(config)
    config["dtype"] = "float32"
    values = operation.get_weights() if weights is None else weights
    return add_weights(type(operation).from_config(config), values)


def add_weights(layer: Any, weights: Sequence[np.ndarray]) -> Callable[..., Any]:
    """A layer that gets its weights when it is built, at its first call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        is_new = not layer.built
        result = layer(*args, **kwargs)
        if is_new and layer.weights:
            layer.set_weights(weights)
        return result

    return call


def _insert(value: Any, tensors: Mapping[NodeOutput, Tensor]) -> Any:
    """Arguments of a call with the new tensors in the place of the old ones."""
    if isinstance(value, NodeOutput):
        return tensors[value]
    if isinstance(value, Mapping):
        return {key: _insert(item, tensors) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_insert(item, tensors) for item in value)
    return value
