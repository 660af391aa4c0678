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
from kdcli.models.keras.inputs import (
    describe_inputs,
    fill_structure,
    flatten_structure,
    get_fixed_batch_size,
    name_leaves,
)
from kdcli.models.keras.tap_roles import find_roles
from kdcli.models.keras.taps import find_layers, get_activation_name, record_calls
from kdcli.models.network import Network, Outputs, TensorSpec, UnusableModel, choose_output
from kdcli.models.preprocessing import Preprocessing, preprocess


class KerasNetwork(Network):
    """Wraps a built `keras.Model`; traces it once to find its taps and its last layer.

    Args:
        model: functional, sequential or subclassed, nested or not.
        name: what messages call it.
        output: which of several outputs: a key where they come in a dictionary, else the name of the layer.

    Raises:
        ModelError: an output that is no tensor, or a model that cannot be traced.
        UsageError: no such output, or several and none chosen.
    """

    def __init__(self, model: Any, *, name: str, output: str | None = None) -> None:
        self.model = model
        self.name = name
        self._wanted = output
        self._structure, self.inputs = describe_inputs(model, name)
        self._layers = find_layers(model)
        # What a layer remembers of a batch is none of the next one's business.
        self._remembering = [one for one in self.layers if getattr(one, "stateful", False)]
        self._find_taps([spec.shape for spec in self.inputs])
        # Shared by all copies, so that it is traced once.
        self._first_layer = tf.function(self._reaching, autograph=False, reduce_retracing=True)
        # Found once: two classes of one sigmoid, or some of the columns, stay when the size of inputs is known.
        self.outputs = int(self.output_shape[-1] or 0)
        kinds = {"softmax": "probabilities", "sigmoid": "sigmoid"}
        self.saved_kind = kinds.get(self._activation or "", "logits")
        self._read_before(self.saved_kind)
        self.output_kind = "sigmoid" if self.saved_kind == "sigmoid" else "logits"

    @property
    def layers(self) -> list[Any]:
        """Every layer inside the model."""
        return list(self._layers.values())

    @property
    def called(self) -> list[Any]:
        """The layers that returned one tensor, in the order in which they did so."""
        return [self._layers[path] for path, _ in self._calls.values()]

    def get_layer_of(self, tap: str) -> Any:
        """The layer that made an inner tensor."""
        return self._layers[self._calls[tap][0]]

    def get_source_of(self, tap: str) -> str | None:
        """The inner tensor that a layer passed on, or else was given, as it is; None where it was another's."""
        return self._sources.get(tap)

    @property
    def activation(self) -> str | None:
        """The activation of the layer whose result is the output, where that is known."""
        return self._activation

    @property
    def last_layer(self) -> Any:
        """The layer whose result is the model's output; None when it is computed by something else."""
        return self._layers[self._last] if self._last else None

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return self.model.count_params()

    @property
    def variables(self) -> list[Any]:
        """Every variable; the states of random generators are in no other list."""
        return list(self.model.variables)

    @property
    def trainable_variables(self) -> list[Any]:
        """What training changes."""
        return list(self.model.trainable_variables)

    def with_output_kinds(self, kind: str, *, output_kind: str) -> Self:
        """The same network with its output understood as `kind` and its logits as those of `head`."""
        other = super().with_output_kinds(kind, output_kind=output_kind)
        other._read_before(kind)
        return other

    def with_preprocessing(self, preparations: Mapping[str, Preprocessing]) -> Self:
        """The same network behind a preparation of each raw input."""
        other = super().with_preprocessing(preparations)
        if any(None in spec.shape for spec in self.inputs):
            # A network for any size has features of unknown size until the data is known.
            only = next(iter(preparations.values()))
            prepared = [preparations.get(spec.name, only).preprocessed_shape for spec in self.inputs]
            other._find_taps(prepared)
        return other

    def compute(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Prepare raw inputs and answer them; the features are as the layers return them."""
        prepared = self._arranged(preprocess(self.preprocessing, raw))
        if self.batch is None:
            output, features = self._asked(prepared, taps, training=training, bare=self._bare is not None)
            return Outputs(self._as_logits(output), features)
        if training:
            raise ModelError(
                f"{self.name}: takes batches of {self.batch} only, so it cannot be trained",
                hint="make it without batch_size",
            )
        bare = self._bare is not None
        asked = map_in_batches(lambda part: self._asked(part, taps, bare=bare), prepared, size=self.batch)
        return Outputs(self._as_logits(asked[0]), asked[1])

    @property
    def has_regularization(self) -> bool:
        """Whether the model brings penalties of its own."""
        return bool(self.model.losses)

    def compute_regularization(self) -> Any:
        """The sum of the model's own penalties after an answer."""
        return ops.sum(ops.stack([ops.cast(loss, "float32") for loss in self.model.losses]))

    def compute_saved_output(self, raw: Mapping[str, Any]) -> Any:
        """What the saved model itself returns, activation included."""
        prepared = self._arranged(preprocess(self.preprocessing, raw))
        if self.batch is None:
            return self._asked(prepared, ())[0]
        return map_in_batches(lambda part: self._asked(part, ())[0], prepared, size=self.batch)

    def compute_before_weights(self, raw: Mapping[str, Any]) -> np.ndarray | None:
        """What raw examples have become where the first layer with weights takes them."""
        given = preprocess(self.preprocessing, raw)
        if not self._changes_inputs:
            # Nothing stands before the first layer, which is not known by name where there are several inputs.
            return None if isinstance(given, dict) else ops.convert_to_numpy(given)
        given = self._arranged(given)
        if self.batch is not None:
            return ops.convert_to_numpy(map_in_batches(self._first_layer, given, size=self.batch))
        return ops.convert_to_numpy(self._first_layer(given))

    def _reaching(self, arranged: Any) -> Any:
        output = flatten_structure(self.model(arranged, training=False))[self.output_index]
        return find_first_weighted_input(output.graph.get_operations(), keras.tree.flatten(arranged))

    def _asked(
        self, arranged: Any, taps: Sequence[str], *, training: bool = False, bare: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        for layer in self._remembering:
            layer.reset_state()
        wanted = {self._calls[name][0] for name in taps}
        with record_calls(self._layers, bare=self._last if bare else None, taps=wanted) as recorded:
            output = flatten_structure(self.model(arranged, training=training))[self.output_index]
        return output, {name: recorded.outputs[self._calls[name]] for name in taps}

    def _read_before(self, kind: str) -> None:
        """Read logits before the last layer's own softmax or sigmoid, where the output is understood as such."""
        known = self._last and self._activation in ("softmax", "sigmoid") and kind not in ("values", "logits")
        self._bare = f"{self._activation} of {self._last}" if known else None

    def _arranged(self, prepared: Any) -> Any:
        """Several inputs in the structure in which the model takes them."""
        given = [prepared[spec.name] for spec in self.inputs] if isinstance(prepared, dict) else [prepared]
        return fill_structure(self._structure, given)

    def _find_taps(self, shapes: Sequence[tuple[int | None, ...]]) -> None:
        self.batch = None
        fixed = get_fixed_batch_size(self.model)
        try:
            recorded, output, used = self._traced(shapes)
            if fixed and output.shape[:1] != (None,):
                raise ValueError("its batch size is part of what it computes")
        # A subclassed model's own code runs here and may raise anything.
        except Exception as error:
            if isinstance(error, KdError):
                raise
            if not fixed:
                raise _uncallable(self.name, error) from error
            self.batch = fixed
            recorded, output, used = self._called(shapes)
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
        makes = {name for name, call in self._calls.items() if recorded.outputs[call] is output}
        self.secondary = self.roles.secondary | makes
        # Behind the arguments come the variables.
        given = output.graph.inputs[: len(self.inputs)]
        operations = output.graph.get_operations()
        first = find_first_weighted_input(operations, given)
        self._changes_inputs = first is not None and first.name not in {tensor.name for tensor in given}
        self.architecture = describe_architecture(operations, given)
        self.operations = frozenset(operation.type for operation in operations)
        last = recorded.last(output)
        # A layer that is used elsewhere too cannot leave its activation out: the logarithm is taken instead.
        self._last = last[0] if last and recorded.counts[last[0]] == 1 and not used else None
        self._activation = get_activation_name(self._layers[self._last]) if self._last else None

    def _called(self, shapes: Sequence[tuple[int | None, ...]]) -> tuple[Any, Any, bool]:
        try:
            return self._traced(shapes)
        except KdError:
            raise
        except Exception as error:
            raise _uncallable(self.name, error) from error

    def _traced(self, shapes: Sequence[tuple[int | None, ...]]) -> tuple[Any, Any, bool]:
        """What the layers returned, the chosen output, and whether something else is computed from it."""
        specs = zip(self.inputs, shapes, strict=True)
        signature = [tf.TensorSpec((self.batch, *shape), spec.dtype) for spec, shape in specs]
        found: list[Any] = []

        def trace(*tensors: Any) -> Any:
            with record_calls(self._layers) as recorded:
                output = self._choose(self.model(fill_structure(self._structure, tensors), training=False))
            found[:] = recorded, output, self._several and bool(output.consumers())
            return output

        tf.function(trace, autograph=False).get_concrete_function(*signature)
        recorded, output, used = found
        return recorded, output, used

    def _choose(self, given: Any) -> Any:
        tensors = flatten_structure(given)
        own = list(getattr(self.model, "output_names", None) or ())
        if len(own) != len(tensors):
            own = [f"output_{number}" for number in range(len(tensors))]
        names = name_leaves(given, own)
        self.output_name = choose_output(names, self._wanted, name=self.name)
        self.all_outputs = tuple(
            TensorSpec(name, tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
            for name, tensor in zip(names, tensors, strict=True)
        )
        self.output_index, self._several = names.index(self.output_name), len(names) > 1
        return tensors[self.output_index]


def _uncallable(name: str, error: Exception) -> ModelError:
    reason = summarize_error(error)
    return ModelError(f"{name}: the model cannot be called: {reason:.300}")
