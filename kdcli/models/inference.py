"""What an exported file computes: a network in inference mode, in float32, with the requested output kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import UsageError
from kdcli.lazy import keras, ops, tf
from kdcli.models.files.load import load_written_keras
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.taps import get_activation_name
from kdcli.models.network import SMALLEST_PROBABILITY, Network
from kdcli.models.saved_model.constant_function import freeze_function
from kdcli.runs import writer
from kdcli.tensors import KerasModel, Tensor

_HALF = ("float16", "bfloat16")
_BOUNDED = ("probabilities", "sigmoid")
_LOOPS = frozenset(("While", "StatelessWhile"))


def choose_exported_kind(network: Network, option: str, *, teachers: Sequence[str] = ()) -> str:
    """Choose the output kind of a network's exported files.

    Args:
        network: the network to export.
        option: `teacher` (the kind of the teachers' files), `probabilities` or `logits`.
        teachers: output kinds of the teachers' files; empty where there are no teachers.

    Raises:
        UsageError: probabilities or logits of a network whose outputs are values.
    """
    saved = network.saved_kind
    if saved == "values":
        if option != "teacher":
            raise UsageError(
                f"--output-kind {option} is for classifiers, but the outputs of {network.name} are values",
                hint="leave out --output-kind",
            )
        return saved
    if option == "teacher":
        # Teachers of both kinds are mixed by their probabilities.
        kinds = [kind for kind in teachers if kind in (*_BOUNDED, "logits")] or [saved]
        option = "probabilities" if any(kind in _BOUNDED for kind in kinds) else "logits"
    if option == "logits" or saved in _BOUNDED:
        return "logits" if option == "logits" else saved
    return "sigmoid" if network.output_kind == "sigmoid" or network.has_one_sigmoid else "probabilities"


def prepare_for_export(network: Network, kind: str) -> Network:
    """Make a network's layers compute in float32, and drop a last activation that the file shall not have.

    Only Keras models are changed; a frozen graph computes in the types that it was saved with.

    Args:
        network: changed in place, so nothing else may use it any more.
        kind: output kind of the file, from `choose_exported_kind`.
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
    """Copy a network and its model; the weights get the types that the layers' policies now specify."""
    with writer.scratch_folder(4 * network.parameters) as folder:
        network.model.save(folder / "model.keras")
        model = load_written_keras(folder / "model.keras")
    other = KerasNetwork(model, name=network.name, output=network.output_name)
    return other.with_preprocessing(network.preprocessing).with_outputs_like(network)


def convert_output_kind(output: Tensor, source: str, kind: str) -> Tensor:
    """Convert outputs of one kind to another: add an activation, or compute logits from probabilities.

    Args:
        output: (batch, ..., outputs).
        source: output kind of `output`.
        kind: output kind of the result.
    """
    if source == kind:
        return output
    if kind in _BOUNDED:
        activation = "softmax" if kind == "probabilities" else "sigmoid"
        return keras.layers.Activation(activation, dtype="float32", name=kind)(output)
    clipped = ops.maximum(ops.cast(output, "float32"), SMALLEST_PROBABILITY)
    if source == "probabilities":
        return ops.log(clipped)
    return ops.log(clipped) - ops.log(ops.maximum(1.0 - ops.cast(output, "float32"), SMALLEST_PROBABILITY))


def compute_keras_output(network: KerasNetwork, preprocessed: Tensor) -> Tensor:
    """Compute the chosen output of a Keras model with one input, in inference mode."""
    structure = getattr(network.model, "input", None)
    inputs = {next(iter(structure)): preprocessed} if isinstance(structure, dict) else preprocessed
    # Augmentation layers are active unless `training` is False.
    return keras.tree.flatten(network.model(inputs, training=False))[network.output_index]


def compute_stateless(model: KerasModel, batch: Tensor) -> Tensor:
    """Compute a model's output in inference mode without changing variables, such as generator states."""
    with keras.StatelessScope():
        return model(batch, training=False)


@dataclass(frozen=True)
class ConstantModel:
    """A function as a graph of constants: no variables, and only the operations that inference needs.

    Args:
        model: a `keras.Model` that computes the function.
        operations: types of the TensorFlow operations in the graph.
    """

    model: KerasModel
    operations: frozenset[str]

    @property
    def has_loops(self) -> bool:
        """Whether the graph contains loops, as recurrent layers do."""
        return bool(self.operations & _LOOPS)


def make_constant(function: Callable[[Tensor], Tensor], inputs: Tensor) -> ConstantModel:
    """Trace a function and replace its variables with constants.

    Args:
        function: maps a batch to one tensor.
        inputs: a `keras.Input`; the model gets its shape, type and name.
    """
    spec = tf.TensorSpec(inputs.shape, inputs.dtype, name=inputs.name)
    constant = freeze_function(tf.function(function, autograph=False).get_concrete_function(spec))
    graph, (fed,), (result,) = constant.graph.as_graph_def(), constant.inputs, constant.outputs
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    for node in nodes:
        # A custom gradient, such as that of silu, refers to tensors of the traced function.
        node.attr.pop("_gradient_op_type", None)

    def compute(batch: Tensor) -> Tensor:
        (output,) = tf.graph_util.import_graph_def(
            graph, input_map={fed.name: batch}, return_elements=[result.name], name=""
        )
        # TensorFlow infers the shape for common operations only.
        return tf.ensure_shape(output, result.shape)

    layer = keras.layers.Lambda(
        compute, output_shape=tuple(result.shape[1:]), dtype=result.dtype.name, autocast=False
    )
    model = keras.Model(inputs, layer(inputs), name="served")
    return ConstantModel(model, frozenset(node.op for node in nodes))
