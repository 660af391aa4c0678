"""A `keras.Model` as a `Network`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from kdcli.errors import ModelError
from kdcli.lazy import keras, ops, tf
from kdcli.models.network import Answer, InputSpec, Network
from kdcli.models.preparation import Preparation, prepare
from kdcli.models.tapping import last_activation, layers_by_path, recording


class KerasNetwork(Network):
    """Wraps a built `keras.Model` with one output; traces it once to find its taps and its last layer.

    Args:
        model: functional, sequential or subclassed, nested or not.
        name: what messages call it.

    Raises:
        ModelError: several outputs, an output that is no tensor, or a model that cannot be traced.
    """

    def __init__(self, model: Any, *, name: str) -> None:
        self.model = model
        self.name = name
        self.inputs = _input_specs(model, name)
        self._layers = layers_by_path(model)
        self._find_taps([spec.shape for spec in self.inputs])
        kinds = {"softmax": "probabilities", "sigmoid": "sigmoid"}
        self.output_kind = kinds.get(self._activation or "", "logits")
        self._read_before(self.output_kind)
        self.head = "sigmoid" if self.output_kind == "sigmoid" else "logits"

    @property
    def layers(self) -> list[Any]:
        """Every layer inside the model."""
        return list(self._layers.values())

    @property
    def last_layer(self) -> Any:
        """The layer whose result is the model's output; None when it is computed by something else."""
        return self._layers[self._last] if self._last else None

    @property
    def scales_itself(self) -> bool:
        """Whether one of the first layers rescales or normalises: such a network wants raw pictures."""
        first = [layer for layer in self.layers if not isinstance(layer, keras.layers.InputLayer | keras.Model)][
            :4
        ]
        return any(isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization) for layer in first)

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

    def understood(self, kind: str, *, head: str) -> Self:
        """The same network with its output understood as `kind` and its logits as those of `head`."""
        other = super().understood(kind, head=head)
        other._read_before(kind)
        return other

    def with_preparations(self, preparations: Mapping[str, Preparation]) -> Self:
        """The same network behind a preparation of each raw input."""
        other = super().with_preparations(preparations)
        if any(None in spec.shape for spec in self.inputs):
            # A network for any size has features of unknown size until the data is known.
            only = next(iter(preparations.values()))
            prepared = [preparations.get(spec.name, only).prepared_shape for spec in self.inputs]
            other._find_taps(prepared)
        return other

    def answer(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Answer:
        """Prepare raw inputs and answer them; the features are as the layers return them."""
        with recording(self._layers, bare=self._last if self._bare else None) as recorded:
            output = self.model(self._arranged(prepare(self.preparations, raw)), training=training)
        features = {name: recorded.outputs[self._calls[name]] for name in taps}
        return Answer(self._as_logits(_single(output)), features)

    @property
    def has_regularization(self) -> bool:
        """Whether the model brings penalties of its own."""
        return bool(self.model.losses)

    def regularization(self) -> Any:
        """The sum of the model's own penalties after an answer."""
        return ops.sum(ops.stack([ops.cast(loss, "float32") for loss in self.model.losses]))

    def output(self, raw: Mapping[str, Any]) -> Any:
        """What the saved model itself returns, activation included."""
        return _single(self.model(self._arranged(prepare(self.preparations, raw)), training=False))

    def _read_before(self, kind: str) -> None:
        """Read logits before the last layer's own softmax or sigmoid, where the output is understood as such."""
        known = self._last and self._activation in ("softmax", "sigmoid") and kind not in ("values", "logits")
        self._bare = f"{self._activation} of {self._last}" if known else None

    def _arranged(self, prepared: Any) -> Any:
        """Several inputs in the structure in which the model takes them."""
        if not isinstance(prepared, dict):
            return prepared
        structure = getattr(self.model, "input", None)
        return prepared if isinstance(structure, dict) else [prepared[spec.name] for spec in self.inputs]

    def _find_taps(self, shapes: Sequence[tuple[int | None, ...]]) -> None:
        signature = [
            tf.TensorSpec((None, *shape), spec.dtype) for spec, shape in zip(self.inputs, shapes, strict=True)
        ]
        found: dict[str, Any] = {}

        def trace(*tensors: Any) -> Any:
            named = {spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}
            with recording(self._layers) as recorded:
                output = self.model(self._arranged(named if len(named) > 1 else tensors[0]), training=False)
            found.update(recorded=recorded, output=output)
            return output

        try:
            tf.function(trace, autograph=False).get_concrete_function(*signature)
        # A subclassed model's own code runs here and may raise anything.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{self.name}: the model cannot be called: {reason:.300}") from error
        recorded, output = found["recorded"], found["output"]
        output = _single(output, self.name)
        calls = recorded.names()
        traced = {name: tuple(recorded.outputs[call].shape) for name, call in calls.items()}
        self._calls = {name: call for name, call in calls.items() if traced[name][:1] == (None,)}
        self.taps = {name: traced[name][1:] for name in self._calls}
        self.output_shape = tuple(output.shape[1:])
        if not self.output_shape or self.output_shape[-1] is None:
            raise ModelError(
                f"{self.name}: the output has shape {tuple(output.shape)}; its last axis must be fixed"
            )
        self.outputs = int(self.output_shape[-1])
        self.secondary = frozenset(
            name
            for name, call in self._calls.items()
            if recorded.outputs[call] is output or _is_secondary(self._layers[call[0]], self.taps[name])
        )
        last = recorded.last(output)
        # A layer that is used elsewhere too cannot leave its activation out: the logarithm is taken instead.
        self._last = last[0] if last and recorded.counts[last[0]] == 1 else None
        self._activation = last_activation(self._layers[self._last]) if self._last else None


def _is_secondary(layer: Any, shape: tuple[int | None, ...]) -> bool:
    """Whether a layer only drops, or pools or reshapes a map, by the name of its class."""
    name = type(layer).__name__
    return "Dropout" in name or (len(shape) > 1 and ("Pooling" in name or name == "Reshape"))


def _single(output: Any, name: str = "model") -> Any:
    while isinstance(output, list | tuple | dict):
        values = list(output.values()) if isinstance(output, dict) else list(output)
        if len(values) != 1:
            raise ModelError(f"{name} has {len(values)} outputs; one is needed")
        output = values[0]
    return output


def _input_specs(model: Any, name: str) -> tuple[InputSpec, ...]:
    try:
        tensors = model.inputs
    except (AttributeError, ValueError):
        tensors = None
    structure = getattr(model, "input", None) if tensors else None
    if isinstance(structure, dict):
        # The keys are what the model is called with; the tensors inside may be named otherwise.
        return tuple(_spec(key, tensor) for key, tensor in structure.items())
    if tensors:
        return tuple(_spec(tensor.name, tensor) for tensor in tensors)
    shape = (model.get_build_config() or {}).get("input_shape")
    if not shape or not all(side is None or isinstance(side, int) for side in shape):
        raise ModelError(
            f"{name}: the shape of the model's input is unknown", hint="call the model once before saving it"
        )
    return (InputSpec("x", tuple(shape[1:]), model.input_dtype if hasattr(model, "input_dtype") else "float32"),)


def _spec(name: str, tensor: Any) -> InputSpec:
    return InputSpec(name, tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype))
