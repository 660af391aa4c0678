"""Where an 8-bit file rounds: outputs with a range of their own, with a common one, and with a fixed one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kdcli.errors import ModelError
from kdcli.models.keras.graph import Graph, Node, NodeOutput, read_graph
from kdcli.quantization.folded_model import WEIGHTED, get_activation
from kdcli.tensors import KerasModel

# Layers that only move values, so that their outputs have the range of their input and need no rounding.
_MOVING = frozenset(
    (
        *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling2D", "Flatten", "Reshape", "Permute", "Identity"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping2D", "RepeatVector", "Squeeze", "ExpandDims", "Transpose"),
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout"),
        *("ActivityRegularization", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"),
        *("RandomContrast", "RandomBrightness", "GetItem"),
    )
)
# Layers that compute a mean of values in the range of their input.
_AVERAGING = frozenset(("AveragePooling1D", "AveragePooling2D", "UpSampling2D", "Resizing"))
# Layers whose inputs and output have one range.
_JOINING = frozenset(("Concatenate", "Maximum", "Minimum"))
_COMPUTING = frozenset(
    (
        *WEIGHTED,
        *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Rescaling", "GlobalAveragePooling2D", "Mean"),
        *("ReLU", "Relu", "Relu6", "LeakyReLU", "PReLU"),
    )
)
_COMPUTING_ACTIVATIONS = ("linear", "relu", "relu6", "leaky_relu")
# The ranges that LiteRT sets for these outputs: scale 1/256 for (0, 1), 1/128 for (-1, 1).
_FIXED = {"sigmoid": (0.0, 255 / 256), "softmax": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128)}
# Operations whose clipping LiteRT applies before it rounds.
_FUSING = ("Conv2D", "DepthwiseConv2D", "Dense", "Add", "Subtract", "Multiply")


class Fixed(NamedTuple):
    """A range that the runtime sets."""

    low: float
    high: float


@dataclass(frozen=True)
class RangePlacement:
    """Where a folded model rounds.

    Args:
        ranges: names of the trainable ranges, each that of the first layer that has it.
        inputs: the range of each input, by position in `ranges`.
        outputs: name of a layer or operation → its range; the others are not rounded.
        sources: name of a layer → the range of its first input.
        results: the range of each output of the model.
        floats: layers that LiteRT computes in float32.
    """

    ranges: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: Mapping[str, int | Fixed]
    sources: Mapping[str, int | Fixed]
    results: tuple[int | Fixed, ...]
    floats: tuple[str, ...]


def place_ranges(model: KerasModel) -> RangePlacement:
    """Decide where a folded model rounds.

    Args:
        model: from `fold_model`.

    Raises:
        ModelError: a layer joins outputs whose ranges cannot be equal.
    """
    return _Placer(read_graph(model)).place()


class _Placer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._calls = Counter(node.layer for node in graph.nodes)
        self._parents: dict[str, str] = {}
        self._fixed: dict[str, Fixed] = {}
        self._floats: list[str] = []

    def place(self) -> RangePlacement:
        graph, fused = self._graph, self._find_fused()
        for tensor in graph.inputs:
            self._parents[tensor.layer] = tensor.layer
        rounded = [tensor.layer for tensor in graph.inputs]
        for node in graph.nodes:
            self._parents.setdefault(node.layer, node.layer)
            if self._place_node(node) and node.layer not in fused:
                rounded.append(node.layer)
        names = list(dict.fromkeys(root for name in rounded if (root := self._find(name)) not in self._fixed))
        numbers = {root: number for number, root in enumerate(names)}
        inputs = [tensor.layer for tensor in graph.inputs]

        def find_range(name: str) -> int | Fixed:
            root = self._find(name)
            return self._fixed[root] if root in self._fixed else numbers[root]

        return RangePlacement(
            ranges=tuple(names),
            inputs=tuple(numbers[self._find(name)] for name in inputs),
            outputs={name: find_range(name) for name in rounded if name not in inputs},
            sources={
                node.layer: find_range(before)
                for node in graph.nodes
                for before in [tensor.layer for tensor in node.tensors[:1]]
                if before not in fused
            },
            results=tuple(find_range(tensor.layer) for tensor in graph.outputs),
            floats=tuple(dict.fromkeys(self._floats)),
        )

    def _place_node(self, node: Node) -> bool:
        """Unite the ranges of a call's inputs and output; return whether its output is rounded."""
        operation = self._graph.operations[node.layer]
        kind, activation, name = type(operation).__name__, get_activation(operation), node.layer
        before = [tensor.layer for tensor in node.tensors]
        if kind in _MOVING or kind in _AVERAGING:
            self._unite(name, before[0])
            return kind in _AVERAGING
        if kind in _JOINING:
            for other in before:
                if self._find(other) in self._fixed:
                    raise ModelError(
                        f"{name} joins the output of {other}, whose range LiteRT fixes: {name} has no 8-bit form",
                        hint="--quantize dynamic",
                    )
                self._unite(name, other)
            return True
        if kind in ("Activation", "Sigmoid", "Softmax", "Tanh") and activation in _FIXED:
            self._fixed[self._find(name)] = Fixed(*_FIXED[activation])
            return True
        is_activation = kind == "Activation" and activation in _COMPUTING_ACTIVATIONS
        is_first = getattr(operation, "data_format", None) == "channels_first"
        if not (is_activation or kind in _COMPUTING) or is_first:
            self._floats.append(name)
        return True

    def _find(self, name: str) -> str:
        while self._parents[name] != name:
            name = self._parents[name]
        return name

    def _unite(self, one: str, other: str) -> None:
        # The root is the one that comes first in the graph: the range has its name.
        first, later = sorted((self._find(one), self._find(other)), key=list(self._parents).index)
        self._parents[later] = first

    def _find_fused(self) -> set[str]:
        """Layers whose only user is a clipping that LiteRT applies in the same operation."""
        graph = self._graph
        users: dict[NodeOutput, list[Node]] = {}
        for node in graph.nodes:
            for tensor in node.tensors:
                users.setdefault(tensor, []).append(node)
        found = set()
        for node in graph.nodes:
            operation = graph.operations[node.layer]
            first, *others = users.get(_output_of(node), [None])
            plain = get_activation(operation) in ("linear", None) and self._calls[node.layer] == 1
            if first is None or others or _output_of(node) in graph.outputs or not plain:
                continue
            if type(operation).__name__ in _FUSING and _is_clipping(graph.operations[first.layer]):
                found.add(node.layer)
        return found


def _output_of(node: Node) -> NodeOutput:
    return NodeOutput(node.layer, node.number, 0)


def _is_clipping(operation: Any) -> bool:
    kind = type(operation).__name__
    return kind in ("ReLU", "Relu", "Relu6", "Activation") and get_activation(operation) in ("relu", "relu6")
