"""What distillation needs to know of a frozen graph: taps, last activation, output shape, architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.errors import ModelError, summarize_error
from kdcli.lazy import tf
from kdcli.models.architecture import describe_architecture
from kdcli.models.input_range import find_first_weighted_input
from kdcli.models.saved_model.frozen_graph import GraphTensor, WeightInfo
from kdcli.models.saved_model.function import GraphFunction, replace_constants
from kdcli.models.saved_model.inputs_outputs import find_batch_size, find_output_shape, find_start_tensor
from kdcli.models.saved_model.taps import Tap, find_taps
from kdcli.models.saved_model.trace import GraphTrace, measure_shapes, trace_graph
from kdcli.tensors import Shape, Tensor

_LINEAR = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BiasAdd", "Add", "AddV2", "FusedBatchNormV3")
_KINDS = {"Softmax": "probabilities", "Sigmoid": "sigmoid"}
# Operations that only pass on or reshape the result of an activation.
_PASSING = frozenset(
    (
        "Identity",
        "IdentityN",
        "Cast",
        "Reshape",
        "Squeeze",
        "ExpandDims",
        "StopGradient",
        "EnsureShape",
        "PreventGradient",
        "CheckNumerics",
    )
)
# Operations that decode image files.
_DECODING = frozenset(
    ("DecodeJpeg", "DecodePng", "DecodeBmp", "DecodeGif", "DecodeImage", "DecodeWebP", "DecodeAndCropJpeg")
)


@dataclass(frozen=True)
class LastActivation:
    """The softmax or sigmoid that makes an output.

    Args:
        operation: `Softmax` or `Sigmoid`.
        kind: output kind: `probabilities` or `sigmoid`.
        logits: name of the tensor that goes into it.
    """

    operation: str
    kind: str
    logits: str


@dataclass(frozen=True)
class GraphPart:
    """The part of a graph between its inputs and one output.

    Args:
        output_shape: shape without the batch axis.
        last: the softmax or sigmoid that makes the output, if there is one.
        taps: taps by name, in the order of computation.
        linear: names of the taps before an activation, judged by their last operation.
        architecture: the kinds of layers, in words.
        first: name of the tensor that the first operation with weights takes; None if unknown.
    """

    output_shape: Shape
    last: LastActivation | None
    taps: Mapping[str, Tap]
    linear: frozenset[str]
    architecture: str
    first: str | None


class GraphReader:
    """Reads a graph; the values of its weights are not needed.

    Args:
        graph: `GraphDef`.
        weights: the constants that were float variables.
        chosen: the output.
        name: name of the model in messages.
        exported: whether `model.export` of Keras 3 wrote the graph.
    """

    def __init__(
        self, graph: Any, weights: Sequence[WeightInfo], chosen: GraphTensor, *, name: str, exported: bool
    ) -> None:
        self.name = name
        self._exported = exported
        self._weights = frozenset(weight.node for weight in weights)
        # The shapes of the weights suffice; their values are not copied.
        self._graph = replace_constants(graph, sorted(self._weights))
        self._chosen = chosen

    def read_part(self, feeds: Sequence[GraphTensor], *, batch: int | None, function: GraphFunction) -> GraphPart:
        """Read the part between these inputs and the output.

        Args:
            feeds: the inputs, with the known part of their shapes.
            batch: the only batch size, or None for any.
            function: the same graph, called where shapes alone do not tell the batch axis.

        Raises:
            ModelError: the output needs other inputs too, has no batch axis, or a last axis of unknown size.
        """
        traced = self._trace(feeds, batch=batch)
        known = all(feed.shape and None not in feed.shape[1:] and feed.dtype != "string" for feed in feeds)
        if traced.unsure and known:
            traced = measure_shapes(traced, lambda size, names: function(_make_zeros(feeds, size), names))
        shape = find_output_shape(self._chosen, traced, name=self.name)
        last = _find_activation(traced.tensor(self._chosen.tensor), outputs=shape[-1])
        ends = [self._chosen.tensor, *([last.logits] if last else [])]
        taps = find_taps(traced, outputs=ends, exported=self._exported)
        linear = (
            name for name, tap in taps.items() if traced.graph.get_tensor_by_name(tap.tensor).op.type in _LINEAR
        )
        inputs = [tensor for op in traced.operations if op.type == "Placeholder" for tensor in op.outputs]
        architecture = describe_architecture(traced.operations, inputs)
        first = find_first_weighted_input(traced.graph.get_operations(), inputs, weights=self._weights)
        return GraphPart(shape, last, taps, frozenset(linear), architecture, None if first is None else first.name)

    def find_start(self, setting: str, feeds: Sequence[GraphTensor]) -> GraphTensor:
        """The inner tensor, a tap or a full name, from which the network starts.

        Raises:
            UsageError: no such tensor.
            ModelError: the tensor's shape is unknown.
        """
        traced = self._trace(feeds, batch=find_batch_size(feeds))
        taps = {name: tap.tensor for name, tap in find_taps(traced, outputs=(), exported=self._exported).items()}
        return find_start_tensor(setting, traced, taps, name=self.name)

    def find_decoded_images(self, feeds: Sequence[GraphTensor]) -> str | None:
        """The first tensor of whole images in a graph that decodes files; None if it decodes nothing.

        Batches of images with a number of channels are preferred to single images.
        """
        traced = self._trace(feeds, batch=find_batch_size(feeds))
        graph = traced.graph.as_graph_def()
        nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
        if not any(node.op in _DECODING for node in nodes):
            return None
        found = [
            tensor
            for op in traced.operations
            for tensor in op.outputs
            if (tensor.dtype.is_floating or tensor.dtype.name == "uint8")
            and (tensor.shape.rank or 0) in (3, 4)
            and tensor.shape[-1] in (1, 3, 4)
        ]
        batches = [tensor for tensor in found if tensor.shape.rank == 4]
        return next((tensor.name for tensor in (*batches, *found)), None)

    def _trace(self, feeds: Sequence[GraphTensor], *, batch: int | None) -> GraphTrace:
        try:
            traced = trace_graph(self._graph, feeds, [self._chosen.tensor], batch=batch)
        except ValueError as error:
            raise ModelError(
                f"{self.name}: the graph does not fit its inputs: {summarize_error(error):.300}"
            ) from error
        missing = [node for node in traced.missing if node not in self._weights]
        if missing or not traced.operations:
            why = f"also needs {', '.join(missing)}" if missing else "does not depend on it"
            raise ModelError(f"{self.name} cannot start at {feeds[0].name}: the output {self._chosen.name} {why}")
        return traced


def _find_activation(tensor: Tensor, *, outputs: int | None) -> LastActivation | None:
    """The activation behind an output tensor, or None if it is unknown.

    Args:
        tensor: tensor of a `tf.Graph`.
        outputs: size of its last axis; a softmax over another number of values does not make it probabilities.
    """
    while tensor.op.type in _PASSING and tensor.dtype.is_floating:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    kind = _KINDS.get(tensor.op.type)
    if kind is None:
        return None
    logits = tensor.op.inputs[0]
    if kind == "probabilities" and (not tensor.shape.rank or tensor.shape[-1] != outputs):
        return None
    return LastActivation(tensor.op.type, kind, logits.name)


def _make_zeros(feeds: Sequence[GraphTensor], size: int) -> list[Tensor]:
    return [tf.zeros((size, *(feed.shape or ())[1:]), feed.dtype) for feed in feeds]
