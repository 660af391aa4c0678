"""A frozen graph as a function that computes any of its tensors, with constants or trainable weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.lazy import keras, tf
from kdcli.models.saved_model.frozen_graph import GraphTensor, WeightInfo
from kdcli.tensors import Tensor, Variable

# Bytes of weights that may stay constants, which TensorFlow folds into each other once. Folding makes calls
# faster, but the first one takes about 0.05 s a megabyte and, for a while, 20 times the memory of the weights.
MAX_CONSTANT_BYTES = 200_000_000


@dataclass(frozen=True)
class GraphWeight:
    """A float weight of a graph.

    Args:
        node: name of its node in the graph.
        name: name of the weight in the model.
        variable: the variable or tensor that replaces the node.
    """

    node: str
    name: str
    variable: Variable | Tensor


class GraphFunction:
    """Imports a graph once, and cuts each requested set of tensors out of it once.

    Args:
        graph: `GraphDef` with its weights as constants.
        feeds: the tensors that the inputs replace.
        weights: the constants that were float variables.
        trainable: whether they become variables again.
    """

    def __init__(
        self, graph: Any, feeds: Sequence[GraphTensor], *, weights: Sequence[WeightInfo], trainable: bool = False
    ) -> None:
        self.feeds = tuple(feeds)
        self.weights: list[GraphWeight] = []
        self._large: list[GraphWeight] = []
        if trainable:
            self.weights = _extract_weights(graph, weights, _make_variable)
        elif graph.ByteSize() > MAX_CONSTANT_BYTES:
            self._large = _extract_weights(graph, weights, _make_tensor)
        nodes = [weight.node for weight in (*self.weights, *self._large)]
        self._wrapped = _import_graph(replace_constants(graph, nodes) if nodes else graph, self.feeds)
        self._pruned: dict[tuple[str, ...], Any] = {}

    def __call__(self, inputs: Sequence[Tensor], fetches: Sequence[str]) -> list[Tensor]:
        """The tensors `fetches`, by their names in the graph."""
        return self.call_with_weights(inputs, [weight.variable.value for weight in self.weights], fetches)

    def call_with_weights(
        self, inputs: Sequence[Tensor], weights: Sequence[Tensor], fetches: Sequence[str]
    ) -> list[Tensor]:
        """The tensors `fetches` for other values of the weights, in the order of `weights`."""
        large = [weight.variable for weight in self._large]
        arguments = [tf.convert_to_tensor(tensor) for tensor in (*inputs, *weights, *large)]
        return list(self._prune(tuple(fetches))(*arguments))

    def _prune(self, fetches: tuple[str, ...]) -> Any:
        if fetches not in self._pruned:
            graph = self._wrapped.graph
            nodes = [graph.get_tensor_by_name(f"{weight.node}:0") for weight in (*self.weights, *self._large)]
            results = [graph.get_tensor_by_name(name) for name in fetches]
            # The caller's graph may be under construction.
            with tf.init_scope():
                self._pruned[fetches] = self._wrapped.prune([*self._wrapped.inputs, *nodes], results)
        return self._pruned[fetches]


def replace_constants(graph: Any, nodes: Sequence[str]) -> Any:
    """A copy of a `GraphDef` in which some constants are placeholders of the same shape."""
    replaced = frozenset(nodes)
    copied = tf.compat.v1.GraphDef()
    copied.library.CopyFrom(graph.library)
    copied.versions.CopyFrom(graph.versions)
    for node in graph.node:
        if node.name not in replaced:
            copied.node.add().CopyFrom(node)
            continue
        placeholder = copied.node.add(name=node.name, op="Placeholder")
        placeholder.attr["dtype"].CopyFrom(node.attr["dtype"])
        placeholder.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
    return copied


def select_float_weights(graph: Any, weights: Sequence[WeightInfo]) -> list[WeightInfo]:
    """The weights whose constants hold floats; the others always stay constants."""
    types = {node.name: node.attr["dtype"].type for node in graph.node if node.op == "Const"}
    return [w for w in weights if w.node in types and tf.dtypes.as_dtype(types[w.node]).is_floating]


def _extract_weights(
    graph: Any, weights: Sequence[WeightInfo], make: Callable[[WeightInfo, np.ndarray, str], Variable | Tensor]
) -> list[GraphWeight]:
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    extracted = []
    for weight in weights:
        node = constants[weight.node]
        dtype = tf.dtypes.as_dtype(node.attr["dtype"].type).name
        value = make(weight, tf.make_ndarray(node.attr["value"].tensor), dtype)
        extracted.append(GraphWeight(weight.node, weight.name, value))
    return extracted


def _make_variable(weight: WeightInfo, value: np.ndarray, dtype: str) -> Variable:
    # Keras allows no slashes in a name.
    name = weight.name.replace("/", ".")
    return keras.Variable(value, dtype=dtype, trainable=weight.trainable, name=name)


def _make_tensor(weight: WeightInfo, value: np.ndarray, dtype: str) -> Tensor:
    return tf.constant(value, dtype)


def _import_graph(graph: Any, feeds: Sequence[GraphTensor]) -> Any:
    def body(*tensors: Tensor) -> None:
        fed: Mapping[str, Tensor] = {feed.tensor: tensor for feed, tensor in zip(feeds, tensors, strict=True)}
        tf.graph_util.import_graph_def(graph, input_map=fed, name="")

    specs = [tf.TensorSpec(feed.shape, feed.dtype, name=f"kd_feed_{number}") for number, feed in enumerate(feeds)]
    return tf.compat.v1.wrap_function(body, specs)


def save_function(
    function: GraphFunction, folder: Path, *, signature: str, outputs: Sequence[GraphTensor]
) -> None:
    """Write a graph with its weights as variables, as a SavedModel.

    Args:
        function: graph whose current weights are saved.
        folder: folder to create; it is not written atomically, so pass a folder in a scratch folder.
        signature: name of the signature.
        outputs: the results of the signature.
    """
    module = tf.Module()
    module.weights = [
        tf.Variable(
            weight.variable.numpy(),
            dtype=weight.variable.dtype,
            trainable=weight.variable.trainable,
            name=weight.name,
        )
        for weight in function.weights
    ]
    names = [_make_argument_name(feed.name) for feed in function.feeds]

    def serve(**inputs: Tensor) -> dict[str, Tensor]:
        ordered = [inputs[name] for name in names]
        weights = [variable.read_value() for variable in module.weights]
        results = function.call_with_weights(ordered, weights, [output.tensor for output in outputs])
        return {output.name: tensor for output, tensor in zip(outputs, results, strict=True)}

    specs = {
        name: tf.TensorSpec(feed.shape, feed.dtype, name=name)
        for name, feed in zip(names, function.feeds, strict=True)
    }
    serving = tf.function(serve, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(module, folder, signatures={signature: serving})


def _make_argument_name(name: str) -> str:
    """A valid argument name; a tensor's name has slashes and a colon."""
    return name if name.isidentifier() else re.sub(r"\W", "_", f"at_{name}")
