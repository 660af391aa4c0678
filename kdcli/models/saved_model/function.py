"""A frozen graph as a function: asked for any of its tensors, trained where its constants were variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.lazy import keras, tf
from kdcli.models.saved_model.frozen import GraphTensor, WeightInfo

# Bytes up to which weights stay constants, which TensorFlow folds into each other once. That makes answers faster,
# and the first one slow: it takes about 0.05 s a megabyte, and for a while 20 times their memory.
MAX_CONSTANT_BYTES = 200_000_000


@dataclass(frozen=True)
class GraphWeight:
    """A float weight of a graph: its node, its name in the model, the variable or tensor that stands for it."""

    node: str
    name: str
    variable: Any


class GraphFunction:
    """Imports a graph once; every set of tensors that is asked for is cut out of it once.

    Args:
        graph: the `GraphDef`, with its weights as constants.
        feeds: the tensors that inputs are fed into.
        weights: those constants that were float variables.
        trainable: whether they become variables again.
    """

    def __init__(
        self, graph: Any, feeds: Sequence[GraphTensor], *, weights: Sequence[WeightInfo], trainable: bool = False
    ) -> None:
        self.feeds = tuple(feeds)
        self.weights: list[GraphWeight] = []
        self._held: list[GraphWeight] = []
        if trainable:
            self.weights = _taken_out(graph, weights, _as_variable)
        elif graph.ByteSize() > MAX_CONSTANT_BYTES:
            self._held = _taken_out(graph, weights, _as_tensor)
        nodes = [weight.node for weight in (*self.weights, *self._held)]
        self._wrapped = _imported(replace_constants(graph, nodes) if nodes else graph, self.feeds)
        self._cut: dict[tuple[str, ...], Any] = {}

    def __call__(self, inputs: Sequence[Any], fetches: Sequence[str]) -> list[Any]:
        """The tensors `fetches`, by their names in the graph."""
        return self.call_with_weights(inputs, [weight.variable.value for weight in self.weights], fetches)

    def call_with_weights(
        self, inputs: Sequence[Any], weights: Sequence[Any], fetches: Sequence[str]
    ) -> list[Any]:
        """The same with other values of the weights, in their order."""
        held = [weight.variable for weight in self._held]
        given = [tf.convert_to_tensor(tensor) for tensor in (*inputs, *weights, *held)]
        return list(self._cut_out(tuple(fetches))(*given))

    def _cut_out(self, fetches: tuple[str, ...]) -> Any:
        if fetches not in self._cut:
            graph = self._wrapped.graph
            nodes = [graph.get_tensor_by_name(f"{weight.node}:0") for weight in (*self.weights, *self._held)]
            wanted = [graph.get_tensor_by_name(name) for name in fetches]
            # Somebody else's graph may be under construction.
            with tf.init_scope():
                self._cut[fetches] = self._wrapped.prune([*self._wrapped.inputs, *nodes], wanted)
        return self._cut[fetches]


class SignatureFunction:
    """A signature that is not frozen: it answers, and nothing inside it can be reached.

    Args:
        signature: of a loaded SavedModel.
        names: its arguments, in the order in which inputs come.
        values: of its other arguments.
        owner: the loaded object, kept alive as long as the function is asked.
    """

    def __init__(self, signature: Any, names: Sequence[str], *, values: Mapping[str, Any], owner: Any) -> None:
        self.weights: list[GraphWeight] = []
        self._signature = signature
        self._names = tuple(names)
        self._owner = owner
        specs = signature.structured_input_signature[1]
        self._values = {name: tf.constant(value, specs[name].dtype) for name, value in values.items()}

    def __call__(self, inputs: Sequence[Any], fetches: Sequence[str]) -> list[Any]:
        """The results `fetches`, by their names in the signature."""
        answered = self._signature(**dict(zip(self._names, inputs, strict=True)), **self._values)
        return [answered[name] for name in fetches]


def in_fixed_batches(ask: Callable[[Sequence[Any]], list[Any]], inputs: Sequence[Any], size: int) -> list[Any]:
    """Ask what takes only batches of one size; the last batch is filled up with the last example."""
    if all(tensor.shape[0] == size for tensor in inputs):
        return ask(inputs)
    count = tf.shape(inputs[0])[0]
    missing = -count % size

    def split(tensor: Any) -> Any:
        filled = tf.concat([tensor, tf.repeat(tensor[-1:], missing, axis=0)], axis=0)
        return tf.reshape(filled, tf.concat([[-1, size], tf.shape(tensor)[1:]], axis=0))

    parts = [tf.ensure_shape(split(tensor), (None, size, *tensor.shape[1:])) for tensor in inputs]
    shown = ask([tf.zeros((size, *(side or 1 for side in part.shape[2:])), part.dtype) for part in parts])
    specs = [tf.TensorSpec((size, *tensor.shape[1:]), tensor.dtype) for tensor in shown]
    answers = tf.map_fn(ask, parts, fn_output_signature=specs)
    joined = [tf.reshape(a, tf.concat([[-1], tf.shape(a)[2:]], axis=0))[:count] for a in answers]
    return [tf.ensure_shape(j, (None, *a.shape[2:])) for j, a in zip(joined, answers, strict=True)]


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
        fed = copied.node.add(name=node.name, op="Placeholder")
        fed.attr["dtype"].CopyFrom(node.attr["dtype"])
        fed.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
    return copied


def select_float_weights(graph: Any, weights: Sequence[WeightInfo]) -> list[WeightInfo]:
    """Those whose constants hold floats; the others stay what they are in any case."""
    types = {node.name: node.attr["dtype"].type for node in graph.node if node.op == "Const"}
    return [w for w in weights if w.node in types and tf.dtypes.as_dtype(types[w.node]).is_floating]


def _taken_out(
    graph: Any, weights: Sequence[WeightInfo], make: Callable[[WeightInfo, Any, str], Any]
) -> list[GraphWeight]:
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    made = []
    for weight in weights:
        node = constants[weight.node]
        dtype = tf.dtypes.as_dtype(node.attr["dtype"].type).name
        value = make(weight, tf.make_ndarray(node.attr["value"].tensor), dtype)
        made.append(GraphWeight(weight.node, weight.name, value))
    return made


def _as_variable(weight: WeightInfo, value: Any, dtype: str) -> Any:
    # Keras takes no slashes in a name.
    name = weight.name.replace("/", ".")
    return keras.Variable(value, dtype=dtype, trainable=weight.trainable, name=name)


def _as_tensor(weight: WeightInfo, value: Any, dtype: str) -> Any:
    return tf.constant(value, dtype)


def _imported(graph: Any, feeds: Sequence[GraphTensor]) -> Any:
    def body(*tensors: Any) -> None:
        fed: Mapping[str, Any] = {feed.tensor: tensor for feed, tensor in zip(feeds, tensors, strict=True)}
        tf.graph_util.import_graph_def(graph, input_map=fed, name="")

    specs = [tf.TensorSpec(feed.shape, feed.dtype, name=f"kd_feed_{number}") for number, feed in enumerate(feeds)]
    return tf.compat.v1.wrap_function(body, specs)


def save_function(
    function: GraphFunction, folder: Path, *, signature: str, outputs: Sequence[GraphTensor]
) -> None:
    """Write a graph with its weights as variables.

    Args:
        function: the graph; its weights are read now.
        folder: made, and filled as TensorFlow does; whoever wants it whole or not at all writes to scratch first.
        signature: its name.
        outputs: results by name.
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
    names = [_argument(feed.name) for feed in function.feeds]

    def serve(**inputs: Any) -> dict[str, Any]:
        given = [inputs[name] for name in names]
        weights = [variable.read_value() for variable in module.weights]
        answered = function.call_with_weights(given, weights, [output.tensor for output in outputs])
        return {output.name: tensor for output, tensor in zip(outputs, answered, strict=True)}

    specs = {
        name: tf.TensorSpec(feed.shape, feed.dtype, name=name)
        for name, feed in zip(names, function.feeds, strict=True)
    }
    serving = tf.function(serve, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(module, folder, signatures={signature: serving})


def _argument(name: str) -> str:
    """A name that an argument may have; a tensor's has slashes and a colon."""
    return name if name.isidentifier() else re.sub(r"\W", "_", f"at_{name}")
