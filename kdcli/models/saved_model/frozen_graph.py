"""The result of freezing a SavedModel: its graph, and a description of its tensors and weights."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.tensors import Shape

# Files that the freezing process writes.
DESCRIPTION_FILE, GRAPH_FILE = "description.json", "graph.pb"


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a signature.

    Args:
        name: argument name of an input, result name of an output.
        tensor: name of the tensor in the graph.
        shape: shape with the batch axis, None for an axis of any size; None if the whole shape is unknown.
        dtype: `float32`, `int32`, `string`, ...
    """

    name: str
    tensor: str
    shape: Shape | None
    dtype: str


@dataclass(frozen=True)
class WeightInfo:
    """A constant of the graph that was a variable.

    Args:
        node: name of the constant's node.
        name: name of the variable.
        trainable: whether training changes the variable.
    """

    node: str
    name: str
    trainable: bool


@dataclass(frozen=True)
class FrozenGraph:
    """What the freezing process found in a model.

    Args:
        signature: name of the chosen signature.
        signatures: names of all signatures of the model.
        inputs: the inputs of the signature, without those that `values` fixes.
        outputs: the outputs of the signature.
        weights: the constants that were variables.
        parameters: number of float weights.
        unfrozen_reason: why the model is not frozen, as a clause; None if it is.
        graph: the serialized `GraphDef`; None if the model is not frozen.
        exported: whether `model.export` of Keras 3 wrote the model, which numbers the scopes of layers.
        random: whether the same batch gave different outputs in two calls.
    """

    signature: str
    signatures: tuple[str, ...]
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    weights: tuple[WeightInfo, ...]
    parameters: int
    unfrozen_reason: str | None
    graph: bytes | None
    exported: bool = False
    random: bool = False
