"""Residual blocks that can be left out: depth instead of width."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.lazy import keras, ops, tf
from kdcli.models.keras.graph import Graph, Node, NodeOutput, is_functional, read_graph
from kdcli.models.keras.layers import Path, copy_weights, wrap_calls
from kdcli.shrinking.rebuild import build_like, finalize_layers, find_config, get_entry_name
from kdcli.tensors import Batches, KerasModel


@dataclass(frozen=True)
class Block:
    """A residual block: the sum of its input and the output of its layers.

    Args:
        path: of the sum.
        start: the tensor that the block takes.
        position: of that tensor in the sum.
        layers: names of the layers between the two.
        change: 1 minus the cosine between input and output on the examples; None before `measure_changes`.
    """

    path: Path
    start: NodeOutput
    position: int
    layers: tuple[str, ...]
    change: float | None = None

    @property
    def name(self) -> str:
        """The path of the sum as text."""
        return "/".join(self.path)


def find_blocks(model: KerasModel) -> list[Block]:
    """Find the residual blocks whose input and output have the same shape, nested models included, in order."""
    return list(_find_blocks(model, ()))


def _find_blocks(model: KerasModel, path: Path) -> Iterator[Block]:
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                yield from _find_blocks(layer, (*path, layer.name))
        return
    if not is_functional(model):
        return
    graph = read_graph(model)
    users: dict[NodeOutput, list[Node]] = {}
    for node in graph.nodes:
        for tensor in node.tensors:
            users.setdefault(tensor, []).append(node)
    calls = [node.layer for node in graph.nodes]
    for node in graph.nodes:
        layer = graph.operations[node.layer]
        if isinstance(layer, keras.Model) and calls.count(node.layer) == 1:
            yield from _find_blocks(layer, (*path, node.layer))
        if type(layer).__name__ != "Add" or len(node.tensors) != 2 or calls.count(node.layer) > 1:
            continue
        for position, start in enumerate(node.tensors):
            inside = _find_inside(graph, users, node, start, node.tensors[1 - position])
            if inside and all(calls.count(name) == 1 for name in inside):
                yield Block((*path, node.layer), start, position, tuple(inside))
                break


def _find_inside(
    graph: Graph, users: Mapping[NodeOutput, Sequence[Node]], end: Node, start: NodeOutput, branch: NodeOutput
) -> list[str] | None:
    """The layers between a tensor and a branch that depends on it alone; None where there are no such layers."""
    shape = graph.shapes.get(NodeOutput(end.layer, end.number, 0))
    if (
        graph.shapes.get(start) != graph.shapes.get(branch)
        or (shape or graph.shapes[start]) != graph.shapes[start]
    ):
        return None
    nodes = {(node.layer, node.number): node for node in graph.nodes}
    inside: dict[tuple[str, int], Node] = {}
    waiting = [branch]
    while waiting:
        tensor = waiting.pop()
        if tensor == start or (tensor.layer, tensor.node) in inside:
            continue
        node = nodes.get((tensor.layer, tensor.node))
        if tensor in graph.inputs or node is None or not node.tensors:
            return None
        inside[tensor.layer, tensor.node] = node
        waiting.extend(node.tensors)
    allowed = {*inside, (end.layer, end.number)}
    for node in inside.values():
        made = [tensor for tensor in users if (tensor.layer, tensor.node) == (node.layer, node.number)]
        for tensor in made:
            if tensor in graph.outputs or any((user.layer, user.number) not in allowed for user in users[tensor]):
                return None
    return [name for name, _ in inside] or None


def measure_changes(model: KerasModel, blocks: Sequence[Block], batches: Batches) -> list[Block]:
    """Measure how much each block changes its input, and sort the blocks: the least change first.

    The change is 1 minus the cosine between the input and the output of the block, a mean over examples.
    """
    if not blocks:
        return []
    sums = [_get_operation(model, block.path) for block in blocks]

    def compute(inputs: Any) -> list[Any]:
        with _record_terms(sums) as seen:
            model(inputs, training=False)
        return [_measure_cosine(seen[at][0][block.position], seen[at][1]) for at, block in enumerate(blocks)]

    function = tf.function(compute, autograph=False, reduce_retracing=True)
    cosines = [np.concatenate(values) for values in zip(*map(function, batches()), strict=True)]
    measured = [
        replace(block, change=float(1 - np.mean(cosine))) for block, cosine in zip(blocks, cosines, strict=True)
    ]
    return sorted(measured, key=lambda block: block.change or 0.0)


def _measure_cosine(first: Any, second: Any) -> Any:
    first, second = (ops.reshape(ops.cast(one, "float32"), (ops.shape(one)[0], -1)) for one in (first, second))
    norms = ops.sqrt(ops.sum(first**2, axis=1) * ops.sum(second**2, axis=1))
    return ops.sum(first * second, axis=1) / ops.maximum(norms, 1e-12)


def _get_operation(model: KerasModel, path: Path) -> Any:
    for name in path[:-1]:
        model = model.get_layer(name)
    return next(one for one in model.operations if one.name == path[-1])


@contextmanager
def _record_terms(sums: Sequence[Any]) -> Iterator[dict[int, tuple[list[Any], Any]]]:
    """Record the terms and the result of each sum."""
    seen: dict[int, tuple[list[Any], Any]] = {}

    def wrap(at: int, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            seen[at] = keras.tree.flatten([args, kwargs]), output
            return output

        return call

    with wrap_calls(sums, wrap):
        yield seen


def remove_blocks(model: KerasModel, blocks: Sequence[Block]) -> KerasModel:
    """Build the model without some blocks, whose inputs take the place of their outputs; the weights are copied.

    Raises:
        ModelError: a layer cannot be built from its configuration.
    """
    if not blocks:
        return model
    config = copy.deepcopy(model.get_config())
    # The sum of a removed block → the tensor that takes its place; a later block may start there.
    replaced: dict[Path, NodeOutput] = {}
    for block in blocks:
        start = block.start
        while (*block.path[:-1], start.layer) in replaced:
            start = replaced[*block.path[:-1], start.layer]
        replaced[block.path] = start
        _remove(find_config(config, block.path[:-1]), block, list(start))
    smaller = build_like(model, config)
    copy_weights(model, smaller)
    finalize_layers(smaller)
    return smaller


def _remove(config: dict[str, Any], block: Block, start: list[Any]) -> None:
    """Remove a block from the configuration of its model; a tensor takes the place of its sum."""
    gone = {*block.layers, block.path[-1]}
    config["layers"] = [entry for entry in config["layers"] if get_entry_name(entry) not in gone]
    replaced = [block.path[-1], 0, 0]
    for entry in config["layers"]:
        entry["inbound_nodes"] = _replace(entry["inbound_nodes"], replaced, start)
    config["output_layers"] = _replace(config["output_layers"], replaced, start)


def _replace(value: Any, old: list[Any], new: list[Any]) -> Any:
    if isinstance(value, list | tuple):
        if list(value) == old:
            return list(new)
        return [_replace(item, old, new) for item in value]
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    return value
