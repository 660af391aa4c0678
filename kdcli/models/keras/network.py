"""A `keras.Model` as a `Network`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from kdcli.errors import KdError, ModelError, summarize_error
from kdcli.lazy import keras, ops, tf
from kdcli.models.architecture import describe_architecture
from kdcli.models.batching import map_in_batches
from kdcli.models.input_range import find_first_weighted_input
from kdcli.models.keras.inputs import describe_inputs, get_fixed_batch_size, make_spec, name_leaves
from kdcli.models.keras.tap_roles import find_roles
from kdcli.models.keras.taps import CallRecord, find_layers, get_activation_name, record_calls
from kdcli.models.network import Network, Outputs, UnusableModel, choose_output
from kdcli.models.preprocessing import Preprocessing, preprocess
from kdcli.tensors import KerasModel, Shape, Tensor, Tensors, Variable


class KerasNetwork(Network):
    """Wraps a built `keras.Model`, and traces it once to find its taps and its last layer.

    Args:
        model: functional, sequential or subclassed, nested or not.
        name: what messages call the model.
        output: which of several outputs: its key where the model returns a dictionary, else the layer's name.

    Raises:
        ModelError: a model that cannot be traced, or whose output is not a tensor.
        UsageError: no such output, or several outputs and no choice.
    """

    def __init__(self, model: KerasModel, *, name: str, output: str | None = None) -> None:
        self.model = model
        self.name = name
        self._output_option = output
        self._structure, self.inputs = describe_inputs(model, name)
        self._layers = find_layers(model)
        # Their state is reset before each call, because batches are independent.
        self._stateful = [one for one in self.layers if getattr(one, "stateful", False)]
        self._find_taps([spec.shape for spec in self.inputs])
        # Shared by all copies, so that it is traced once.
        self._first_layer = tf.function(self._compute_first_input, autograph=False, reduce_retracing=True)
        # Set here and not in `_find_taps`, so that columns and two classes survive a change of the input size.
        self.outputs = int(self.output_shape[-1] or 0)
        kinds = {"softmax": "probabilities", "sigmoid": "sigmoid"}
        self.saved_kind = kinds.get(self._activation or "", "logits")
        self._set_bare(self.saved_kind)
        self.output_kind = "sigmoid" if self.saved_kind == "sigmoid" else "logits"

    @property
    def layers(self) -> list[Any]:
        """Every layer inside the model."""
        return list(self._layers.values())

    @property
    def called_layers(self) -> list[Any]:
        """The layers that returned one tensor, in the order of their calls."""
        return [self._layers[path] for path, _ in self._calls.values()]

    def get_layer_of(self, tap: str) -> Any:
        """The layer that computes a tap."""
        return self._layers[self._calls[tap][0]]

    def get_source_of(self, tap: str) -> str | None:
        """The tap that a layer returned unchanged or took as its input; None where that is not a tap."""
        return self._sources.get(tap)

    @property
    def activation(self) -> str | None:
        """Activation of the layer that computes the output; None where it is unknown."""
        return self._activation

    @property
    def last_layer(self) -> Any:
        """The layer that computes the output; None where something else computes it."""
        return self._layers[self._last] if self._last else None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.model.count_params()

    @property
    def variables(self) -> list[Variable]:
        """Every variable; only this list includes the states of random generators."""
        return list(self.model.variables)

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that training changes."""
        return list(self.model.trainable_variables)

    def with_output_kinds(self, saved: str, *, output_kind: str) -> Self:
        """A copy whose saved model is taken to return `saved`, and whose logits are of `output_kind`."""
        other = super().with_output_kinds(saved, output_kind=output_kind)
        other._set_bare(saved)
        return other

    def with_preprocessing(self, preprocessing: Mapping[str, Preprocessing]) -> Self:
        """A copy that preprocesses each raw input as given, by input name."""
        other = super().with_preprocessing(preprocessing)
        if any(None in spec.shape for spec in self.inputs):
            # The sizes of features are unknown until the size of the input is known.
            only = next(iter(preprocessing.values()))
            other._find_taps([preprocessing.get(spec.name, only).preprocessed_shape for spec in self.inputs])
        return other

    def compute(self, raw: Tensors, *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Preprocess a raw batch and compute its logits and features, which are as the layers return them."""
        inputs = self._arrange(preprocess(self.preprocessing, raw))
        bare = self._bare is not None
        if self.batch is None:
            output, features = self._call_model(inputs, taps, training=training, bare=bare)
            return Outputs(self._as_logits(output), features)
        if training:
            raise ModelError(
                f"{self.name}: accepts only batches of {self.batch}, so it cannot be trained",
                hint="build it without batch_size",
            )
        output, features = map_in_batches(
            lambda batch: self._call_model(batch, taps, bare=bare), inputs, size=self.batch
        )
        return Outputs(self._as_logits(output), features)

    @property
    def has_regularization(self) -> bool:
        """Whether the model has its own regularization losses."""
        return bool(self.model.losses)

    def compute_regularization(self) -> Tensor:
        """Sum of the model's own regularization losses after a forward pass, a scalar."""
        return ops.sum(ops.stack([ops.cast(loss, "float32") for loss in self.model.losses]))

    def compute_saved_output(self, raw: Tensors) -> Tensor:
        """Preprocess a raw batch and compute what the saved model returns, last activation included."""
        inputs = self._arrange(preprocess(self.preprocessing, raw))
        if self.batch is None:
            return self._call_model(inputs, ())[0]
        return map_in_batches(lambda batch: self._call_model(batch, ())[0], inputs, size=self.batch)

    def make_inputs(self, raw: Tensors) -> Any:
        """Preprocess a raw batch, in the structure that the model takes."""
        return self._arrange(preprocess(self.preprocessing, raw))

    def compute_before_weights(self, raw: Tensors) -> np.ndarray | None:
        """Preprocess a raw batch and compute what enters the first layer with weights."""
        inputs = preprocess(self.preprocessing, raw)
        if not self._changes_inputs:
            # The first layer takes an input unchanged; with several inputs it is unknown which one.
            return None if isinstance(inputs, dict) else ops.convert_to_numpy(inputs)
        inputs = self._arrange(inputs)
        if self.batch is not None:
            return ops.convert_to_numpy(map_in_batches(self._first_layer, inputs, size=self.batch))
        return ops.convert_to_numpy(self._first_layer(inputs))

    def _compute_first_input(self, inputs: Any) -> Tensor:
        output = keras.tree.flatten(self.model(inputs, training=False))[self.output_index]
        return find_first_weighted_input(output.graph.get_operations(), keras.tree.flatten(inputs))

    def _call_model(
        self, inputs: Any, taps: Sequence[str], *, training: bool = False, bare: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Call the model: its output, without the last activation where `bare`, and its features."""
        for layer in self._stateful:
            layer.reset_state()
        paths = {self._calls[name][0] for name in taps}
        with record_calls(self._layers, bare=self._last if bare else None, taps=paths) as recorded:
            output = keras.tree.flatten(self.model(inputs, training=training))[self.output_index]
        return output, {name: recorded.outputs[self._calls[name]] for name in taps}

    def _set_bare(self, saved: str) -> None:
        """Read logits in front of the last softmax or sigmoid, where the saved output is interpreted as such."""
        known = self._last and self._activation in ("softmax", "sigmoid") and saved not in ("values", "logits")
        self._bare = f"{self._activation} of {self._last}" if known else None

    def _arrange(self, inputs: Any) -> Any:
        """Put the inputs, one tensor or a dictionary, into the structure that the model takes."""
        tensors = [inputs[spec.name] for spec in self.inputs] if isinstance(inputs, dict) else [inputs]
        return keras.tree.pack_sequence_as(self._structure, tensors)

    def _find_taps(self, shapes: Sequence[Shape]) -> None:
        """Trace the model with inputs of some shapes, and set what the trace tells about it."""
        recorded, output, shared = self._trace_any_batch(shapes)
        calls = recorded.names()
        traced = {name: tuple(recorded.outputs[call].shape) for name, call in calls.items()}
        self._calls = {name: call for name, call in calls.items() if traced[name][:1] == (self.batch,)}
        self.taps = {name: traced[name][1:] for name in self._calls}
        sources, named = recorded.sources(), {call: name for name, call in self._calls.items()}
        self._sources = {named[call]: named.get(source) for call, source in sources.items() if call in named}
        self.output_shape = tuple(output.shape[1:])
        if not self.output_shape or self.output_shape[-1] is None:
            raise UnusableModel(
                f"{self.name}: the output has shape {tuple(output.shape)}; its last axis must be fixed"
            )
        paths = {name: path for name, (path, _) in self._calls.items()}
        self.roles = find_roles(self.taps, paths, self._layers)
        final = {name for name, call in self._calls.items() if recorded.outputs[call] is output}
        self.secondary = self.roles.secondary | final
        # The graph's inputs are the arguments, followed by the variables.
        arguments = output.graph.inputs[: len(self.inputs)]
        operations = output.graph.get_operations()
        first = find_first_weighted_input(operations, arguments)
        self._changes_inputs = first is not None and first.name not in {tensor.name for tensor in arguments}
        self.architecture = describe_architecture(operations, arguments)
        self.operations = frozenset(operation.type for operation in operations)
        last = recorded.last(output)
        # The activation of a layer that is also used elsewhere cannot be skipped; the logarithm is taken instead.
        self._last = last[0] if last and recorded.counts[last[0]] == 1 and not shared else None
        self._activation = get_activation_name(self._layers[self._last]) if self._last else None

    def _trace_any_batch(self, shapes: Sequence[Shape]) -> tuple[CallRecord, Tensor, bool]:
        """Trace the model for any batch size, or else for the one that it declares; sets `batch`."""
        self.batch = None
        fixed = get_fixed_batch_size(self.model)
        try:
            traced = self._trace(shapes)
            if not fixed or traced[1].shape[:1] == (None,):
                return traced
        except KdError:
            raise
        # A subclassed model's own code runs here and may raise anything.
        except Exception as error:
            if not fixed:
                raise _trace_error(self.name, error) from error
        self.batch = fixed
        try:
            return self._trace(shapes)
        except KdError:
            raise
        except Exception as error:
            raise _trace_error(self.name, error) from error

    def _trace(self, shapes: Sequence[Shape]) -> tuple[CallRecord, Tensor, bool]:
        """Trace the model: its calls of layers, the chosen output, and whether another output depends on it."""
        specs = zip(self.inputs, shapes, strict=True)
        signature = [tf.TensorSpec((self.batch, *shape), spec.dtype) for spec, shape in specs]
        found: list[Any] = []

        def trace(*tensors: Tensor) -> Tensor:
            inputs = keras.tree.pack_sequence_as(self._structure, list(tensors))
            with record_calls(self._layers) as recorded:
                output = self._select_output(self.model(inputs, training=False))
            found[:] = recorded, output, len(self.all_outputs) > 1 and bool(output.consumers())
            return output

        tf.function(trace, autograph=False).get_concrete_function(*signature)
        recorded, output, shared = found
        return recorded, output, shared

    def _select_output(self, structure: Any) -> Tensor:
        """The chosen one of the tensors that the model returned; sets what describes the outputs."""
        tensors = keras.tree.flatten(structure)
        defaults = list(getattr(self.model, "output_names", None) or ())
        if len(defaults) != len(tensors):
            defaults = [f"output_{number}" for number in range(len(tensors))]
        names = name_leaves(structure, defaults)
        self.output_name = choose_output(names, self._output_option, name=self.name)
        self.all_outputs = tuple(make_spec(*one) for one in zip(names, tensors, strict=True))
        self.output_index = names.index(self.output_name)
        return tensors[self.output_index]


def _trace_error(name: str, error: Exception) -> ModelError:
    reason = summarize_error(error)
    return ModelError(f"{name}: the model cannot be called: {reason:.300}")
