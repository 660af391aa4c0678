"""A model as its 8-bit file computes it: BatchNorm folded into weights, and one 8-bit operation a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.models.keras.graph import Graph, NodeOutput, read_graph
from kdcli.models.keras.rewrite import ModelWriter, add_weights, copy_layer
from kdcli.tensors import KerasModel, Tensor

# Layers whose weights are quantized for each output channel, and the axis of the kernel along which these lie.
WEIGHTED = {"Conv2D": -1, "DepthwiseConv2D": -1, "Conv2DTranspose": -2, "Dense": -1}
# Activations that an 8-bit operation applies before its output is rounded.
FUSED = ("linear", "relu", "relu6")


def fold_model(model: KerasModel) -> KerasModel:
    """Write a model with the operations of an 8-bit file; in inference it is the same function.

    Nested models are inlined; BatchNorm goes into the weights before it, or becomes a 1×1 depthwise
    convolution; a separable convolution becomes its two convolutions; an activation that LiteRT does not fuse
    becomes a layer of its own, `silu` and `hard_sigmoid` the operations they consist of.

    Args:
        model: functional or sequential; it is not changed.

    Raises:
        ModelError: a subclassed model.
    """
    flat = ModelWriter(_split).write(model)
    graph = read_graph(flat)
    partners = _find_partners(graph)
    folded = {id(layer) for layer in partners.values()}
    others = {id(layer) for layer, _ in _iterate_normalizations(graph)} - folded

    def fold(operation: Any, name: str) -> Callable[..., Any] | None:
        if id(operation) in partners:
            weights = _fold_weights(operation, *_read_scale(partners[id(operation)]))
            return copy_layer(operation, weights=weights, name=name, use_bias=True, **_drop_conditions(operation))
        if id(operation) in folded:
            return lambda tensor, *args, **kwargs: tensor
        if id(operation) in others:
            return _Affine(name, *_read_scale(operation), trainable=operation.trainable)
        return None

    return ModelWriter(fold).write(flat)


def _split(operation: Any, name: str) -> Callable[..., Any] | None:
    """The 8-bit operations of a layer; None where it is one already."""
    kind = type(operation).__name__
    activation = get_activation(operation)
    if kind == "SeparableConv2D":
        return _split_separable(operation, name)
    if kind == "Dense":
        return _PointwiseDense(operation, name, activation)
    if kind in WEIGHTED and activation not in FUSED:
        linear = copy_layer(operation, name=name, activation="linear")
        function = _make_activation(operation.activation, activation, f"{name}_activation")
        return lambda tensor, *args, **kwargs: function(linear(tensor))
    if kind in ("Activation", "Silu", "HardSilu", "HardSigmoid") and activation in _COMPOSED:
        return _make_activation(None, activation, name)
    if kind in ("Add", "Multiply") and isinstance(operation, keras.layers.Layer):
        return _Chain(operation, name)
    if kind == "Rescaling" and max(np.ndim(operation.scale), np.ndim(operation.offset)) <= 1:
        return _Affine(name, np.asarray(operation.scale), np.asarray(operation.offset))
    if kind == "Normalization" and not operation.invert and _normalizes_channels(operation):
        deviation = np.maximum(np.sqrt(np.asarray(operation.variance)), keras.config.epsilon())
        return _Affine(name, 1 / deviation, -np.asarray(operation.mean) / deviation)
    return None


def _normalizes_channels(layer: Any) -> bool:
    """Whether a Normalization has one mean for all values, or one for each channel of the last axis."""
    rank = len(layer.mean.shape)
    axes = layer.axis if isinstance(layer.axis, list | tuple) else (layer.axis,)
    return layer.axis is None or all(axis % rank == rank - 1 for axis in axes if axis is not None)


def _drop_conditions(layer: Any) -> dict[str, None]:
    """Settings that remove constraints and regularizers, which were meant for the weights before folding."""
    names = [f"{weight}_{one}" for weight in _WEIGHTS for one in ("constraint", "regularizer")]
    return dict.fromkeys(name for name in names if name in layer.get_config())


_WEIGHTS = ("kernel", "depthwise", "bias")
_COMPOSED = ("silu", "swish", "hard_silu", "hard_swish", "hard_sigmoid")


def get_activation(operation: Any) -> str | None:
    """The name of the activation that a layer or operation applies; None for a function without a name."""
    kind = type(operation).__name__
    operations = {"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax"}
    operations |= {"Silu": "silu", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid"}
    if kind in operations:
        return operations[kind]
    if kind == "ReLU":
        plain = operation.negative_slope == 0 and operation.threshold == 0
        return {None: "relu", 6: "relu6"}.get(operation.max_value) if plain else None
    activation = vars(operation).get("activation")
    if activation is None:
        return "linear" if kind in WEIGHTED else None
    name = getattr(activation, "__name__", "")
    # A custom function may have the name of one of Keras.
    return name if getattr(keras.activations, name, None) is activation else None


def _make_activation(function: Any, name: str | None, layer: str) -> Callable[[Tensor], Tensor]:
    """An activation as 8-bit operations: x · sigmoid(x), x · relu6(x + 3) / 6, or one layer."""
    if name not in _COMPOSED:
        single: Callable[[Tensor], Tensor] = keras.layers.Activation(function, name=layer)
        return single
    gate: Callable[[Tensor], Tensor]
    if name in ("silu", "swish"):
        gate = keras.layers.Activation("sigmoid", name=f"{layer}_sigmoid")
    else:
        shifted = _Affine(f"{layer}_shift", np.ones(1), np.full(1, 3.0))
        clipped = keras.layers.ReLU(6.0, name=f"{layer}_clip")
        scaled = keras.layers.Rescaling(1 / 6, name=f"{layer}_scale")
        gate = lambda tensor: scaled(clipped(shifted(tensor)))  # noqa: E731
    if name == "hard_sigmoid":
        return gate
    product = keras.layers.Multiply(name=layer)
    return lambda tensor: product([tensor, gate(tensor)])


def _split_separable(layer: Any, name: str) -> Callable[..., Any]:
    config, values = layer.get_config(), layer.get_weights()
    shared = {key: config[key] for key in ("strides", "padding", "dilation_rate", "data_format", "trainable")}
    depthwise = keras.layers.DepthwiseConv2D(
        config["kernel_size"],
        depth_multiplier=config["depth_multiplier"],
        use_bias=False,
        name=f"{name}_depthwise",
        **shared,
    )
    pointwise = keras.layers.Conv2D(
        config["filters"],
        1,
        data_format=config["data_format"],
        use_bias=config["use_bias"],
        activation=layer.activation if get_activation(layer) in FUSED else None,
        trainable=config["trainable"],
        name=name,
    )
    first, second = add_weights(depthwise, values[:1]), add_weights(pointwise, values[1:])
    activation = get_activation(layer)
    last: Callable[[Tensor], Tensor] = _identity
    if activation not in FUSED:
        last = _make_activation(layer.activation, activation, f"{name}_activation")
    return lambda tensor, *args, **kwargs: last(second(first(tensor)))


class _PointwiseDense:
    """A Dense layer; on images the equivalent convolution, as LiteRT reshapes around a Dense in float32."""

    def __init__(self, layer: Any, name: str, activation: str | None) -> None:
        self._layer, self._name, self._plain = layer, name, activation in FUSED
        self._function: Callable[..., Any] | None = None
        self._last: Callable[[Tensor], Tensor] = _identity
        if not self._plain:
            self._last = _make_activation(layer.activation, activation, f"{name}_activation")

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._function is None:
            self._function = self._make(len(tensor.shape))
        return self._last(self._function(tensor))

    def _make(self, rank: int) -> Callable[..., Any]:
        layer = self._layer
        changes: dict[str, Any] = {} if self._plain else {"activation": "linear"}
        if rank != 4:
            return copy_layer(layer, name=self._name, **changes)
        config, (kernel, *bias) = layer.get_config(), layer.get_weights()
        convolution = keras.layers.Conv2D(
            config["units"],
            1,
            use_bias=config["use_bias"],
            activation=layer.activation if self._plain else None,
            trainable=config["trainable"],
            name=self._name,
        )
        return add_weights(convolution, [kernel[None, None], *bias])


def _identity(tensor: Tensor) -> Tensor:
    return tensor


class _Chain:
    """A sum or product of several tensors, two at a time."""

    def __init__(self, operation: Any, name: str) -> None:
        self._kind, self._name, self._layers = type(operation), name, dict[int, Any]()

    def __call__(self, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Tensor:
        result = tensors[0]
        for number, tensor in enumerate(tensors[1:], 2):
            name = self._name if number == len(tensors) else f"{self._name}_{number}"
            layer = self._layers.setdefault(number, self._kind(name=name, dtype="float32"))
            result = layer([result, tensor])
        return result


class _Affine:
    """A multiplication and an addition for each channel: one 8-bit operation for images, two for other data.

    Args:
        name: of its layer.
        scale, offset: one value, or one for each channel.
        trainable: whether training may change them; constants are not trained.
    """

    def __init__(self, name: str, scale: np.ndarray, offset: np.ndarray, *, trainable: bool = False) -> None:
        self._name, self._scale, self._offset, self._trainable = name, scale, offset, trainable
        self._layers: dict[int, list[Callable[..., Any]]] = {}

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        channels = tensor.shape[-1]
        if channels not in self._layers:
            self._layers[channels] = self._make_layers(tensor)
        for layer in self._layers[channels]:
            tensor = layer(tensor)
        return tensor

    def _make_layers(self, tensor: Tensor) -> list[Callable[..., Any]]:
        channels, layers = tensor.shape[-1], keras.layers
        values = [one.ravel() for one in (self._scale, self._offset)]
        if any(one.size not in (1, channels) for one in values):
            raise ModelError(
                f"{self._name}: its scale or offset does not match the channels, so it has no 8-bit form",
                hint="--quantize dynamic",
            )
        scale, offset = (np.broadcast_to(one, (channels,)) for one in values)
        name = self._name if not self._layers else f"{self._name}_{channels}"
        if len(tensor.shape) == 4:
            depthwise = layers.DepthwiseConv2D(1, name=name, trainable=self._trainable)
            weights = scale.reshape(1, 1, channels, 1), offset
            return [add_weights(depthwise, [np.asarray(one, np.float32) for one in weights])]
        product = layers.Rescaling(_as_setting(scale), name=f"{name}_scale" if offset.any() else name)
        if not offset.any():
            return [product]
        return [product, layers.Rescaling(1.0, _as_setting(offset), name=name)]


def _as_setting(values: np.ndarray) -> Any:
    """The values of a setting of `Rescaling`: one number where all are equal."""
    return float(values[0]) if (values == values[0]).all() else values.tolist()


def _find_partners(graph: Graph) -> dict[int, Any]:
    """Identity of a layer with weights → the BatchNorm that is the only user of its output."""
    calls = Counter(node.layer for node in graph.nodes)
    users = Counter(tensor for node in graph.nodes for tensor in node.tensors) + Counter(graph.outputs)
    found = {}
    for layer, before in _iterate_normalizations(graph):
        maker = graph.operations.get(before.layer)
        is_weighted = type(maker).__name__ in WEIGHTED and get_activation(maker) == "linear"
        is_last = getattr(maker, "data_format", "channels_last") == "channels_last"
        if is_weighted and is_last and calls[before.layer] == calls[layer.name] == users[before] == 1:
            found[id(maker)] = layer
    return found


def _iterate_normalizations(graph: Graph) -> Iterator[tuple[Any, NodeOutput]]:
    """Each BatchNorm of the last axis, and its input."""
    for node in graph.nodes:
        layer = graph.operations[node.layer]
        if isinstance(layer, keras.layers.BatchNormalization):
            rank = len(graph.shapes[node.tensors[0]])
            if layer.axis % rank == rank - 1:
                yield layer, node.tensors[0]


def _read_scale(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a BatchNorm multiplies by and what it adds, in inference."""
    variance = np.asarray(layer.moving_variance, np.float64)
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * np.asarray(layer.gamma, np.float64)
    offset = -np.asarray(layer.moving_mean, np.float64) * scale
    if layer.center:
        offset = offset + np.asarray(layer.beta, np.float64)
    return scale, offset


def _fold_weights(layer: Any, scale: np.ndarray, offset: np.ndarray) -> list[np.ndarray]:
    """Kernel and bias of a layer, with a scale and an offset of its outputs."""
    kernel, *bias = (value.astype(np.float64) for value in layer.get_weights())
    kind = type(layer).__name__
    if kind == "DepthwiseConv2D":
        kernel = kernel * scale.reshape(kernel.shape[2:])
    else:
        kernel = kernel * (scale[:, None] if WEIGHTED[kind] == -2 else scale)
    offset = offset + (bias[0] * scale if bias else 0)
    return [kernel.astype(np.float32), offset.astype(np.float32)]
