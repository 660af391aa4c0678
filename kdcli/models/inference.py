"""What a file computes: a network in inference and in float32, with the output kind that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import UsageError
from kdcli.lazy import keras, ops, tf
from kdcli.models.files.load import load_written_keras
from kdcli.models.keras.inputs import flatten_structure
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.taps import get_activation_name
from kdcli.models.network import SMALLEST_PROBABILITY, Network
from kdcli.models.saved_model.constant_function import freeze_function
from kdcli.runs import writer

_HALF = ("float16", "bfloat16")
_BOUNDED = ("probabilities", "sigmoid")
_LOOPS = frozenset(("While", "StatelessWhile"))


def choose_exported_kind(network: Network, wanted: str, *, teachers: Sequence[str] = ()) -> str:
    """The output kind of a network's exported files.

    Args:
        network: its own output kind says what its own file gives.
        wanted: `teacher` (what the teachers' files give), `probabilities` or `logits`.
        teachers: the output kinds of its teachers' files; empty where it has none.

    Raises:
        UsageError: values were asked for as something else.
    """
    own = network.saved_kind
    if own == "values":
        if wanted != "teacher":
            raise UsageError(
                f"--output-kind {wanted} is for classes, {network.name} gives values", hint="leave it out"
            )
        return own
    if wanted == "teacher":
        # Teachers of both kinds are mixed by their probabilities.
        kinds = [kind for kind in teachers if kind in (*_BOUNDED, "logits")] or [own]
        wanted = "probabilities" if any(kind in _BOUNDED for kind in kinds) else "logits"
    if wanted == "logits" or own in _BOUNDED:
        return "logits" if wanted == "logits" else own
    return "sigmoid" if network.output_kind == "sigmoid" or network.has_one_sigmoid else "probabilities"


def prepare_for_export(network: Network, kind: str) -> Network:
    """Change a network for good into what ships: layers compute in float32, a last activation is left out.

    A graph stays as it is; it computes in the types that it was saved with.

    Args:
        network: nobody else uses it any more.
        kind: the output kind of its file, from `shipped_kind`.
    """
    if not isinstance(network, KerasNetwork):
        return network
    for layer in network.layers:
        if not isinstance(layer, keras.Model):
            _compute_in_float32(layer)
    if any(keras.backend.standardize_dtype(one.dtype) in _HALF for one in network.model.weights):
        network = copy_network(network)
    last = network.last_layer
    if kind == "logits" and network.saved_kind in _BOUNDED and last is not None and "activation" in vars(last):
        if get_activation_name(last) in ("softmax", "sigmoid"):
            last.activation = keras.activations.linear
            return network.with_output_kinds("logits", output_kind=network.output_kind)
    return network


def _compute_in_float32(layer: Any) -> None:
    policy = layer.dtype_policy
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        return
    if policy.compute_dtype in _HALF or policy.variable_dtype in _HALF:
        layer.dtype_policy = keras.DTypePolicy("float32")


def copy_network(network: KerasNetwork) -> KerasNetwork:
    """The same network over a model of its own, with weights of the types that its layers ask for now."""
    with writer.scratch_folder(4 * network.parameters) as folder:
        network.model.save(folder / "model.keras")
        model = load_written_keras(folder / "model.keras")
    other = KerasNetwork(model, name=network.name, output=network.output_name)
    return other.with_preprocessing(network.preprocessing).with_outputs_like(network)


def convert_output_kind(output: Any, own: str, kind: str) -> Any:
    """An output of one kind as another: an activation more, or the logits that a probability stands for."""
    if own == kind:
        return output
    if kind in _BOUNDED:
        activation = "softmax" if kind == "probabilities" else "sigmoid"
        return keras.layers.Activation(activation, dtype="float32", name=kind)(output)
    clipped = ops.maximum(ops.cast(output, "float32"), SMALLEST_PROBABILITY)
    if own == "probabilities":
        return ops.log(clipped)
    return ops.log(clipped) - ops.log(ops.maximum(1.0 - ops.cast(output, "float32"), SMALLEST_PROBABILITY))


def compute_keras_output(network: KerasNetwork, prepared: Any) -> Any:
    """The chosen output of a Keras model in inference, from its only input."""
    structure = getattr(network.model, "input", None)
    given = {next(iter(structure)): prepared} if isinstance(structure, dict) else prepared
    # Augmentation layers are on unless they are told otherwise.
    return flatten_structure(network.model(given, training=False))[network.output_index]


def compute_stateless(model: Any, batch: Any) -> Any:
    """The output of a model in inference; no variable changes, not even the state of random generators."""
    with keras.StatelessScope():
        return model(batch, training=False)


@dataclass(frozen=True)
class ConstantModel:
    """A function as one graph of constants, without variables and without what inference does not need.

    Args:
        model: a `keras.Model` that computes it.
        operations: the types of TensorFlow operations in it.
    """

    model: Any
    operations: frozenset[str]

    @property
    def has_loops(self) -> bool:
        """Whether it computes in a loop, as recurrent layers do."""
        return bool(self.operations & _LOOPS)


def make_constant(function: Callable[[Any], Any], inputs: Any) -> ConstantModel:
    """Trace a function, and put constants in place of its variables.

    Args:
        function: from a batch to one tensor.
        inputs: a `keras.Input`, whose shape, type and name the model takes.
    """
    spec = tf.TensorSpec(inputs.shape, inputs.dtype, name=inputs.name)
    constant = freeze_function(tf.function(function, autograph=False).get_concrete_function(spec))
    graph, (fed,), (result,) = constant.graph.as_graph_def(), constant.inputs, constant.outputs
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    for node in nodes:
        # A gradient of its own, as of silu, needs tensors of the function that was traced.
        node.attr.pop("_gradient_op_type", None)

    def compute(batch: Any) -> Any:
        (output,) = tf.graph_util.import_graph_def(
            graph, input_map={fed.name: batch}, return_elements=[result.name], name=""
        )
        # Its shape follows from the graph for the usual operations only.
        return tf.ensure_shape(output, result.shape)

    layer = keras.layers.Lambda(
        compute, output_shape=tuple(result.shape[1:]), dtype=result.dtype.name, autocast=False
    )
    model = keras.Model(inputs, layer(inputs), name="served")
    return ConstantModel(model, frozenset(node.op for node in nodes))
