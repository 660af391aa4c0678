"""What the freezing process leaves of a SavedModel: its graph, and a description of its tensors and weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a signature.

    Args:
        name: the argument, or the name of the result.
        tensor: in the graph.
        shape: with the batch axis, None where any size is taken; None as a whole where it is not known.
        dtype: `float32`, `int32`, `string`, ...
    """

    name: str
    tensor: str
    shape: tuple[int | None, ...] | None
    dtype: str


@dataclass(frozen=True)
class WeightInfo:
    """A constant of the graph that was a variable: its node, the variable's name, whether training changes it."""

    node: str
    name: str
    trainable: bool


@dataclass(frozen=True)
class FrozenGraph:
    """What the child process left of a model.

    Args:
        graph: the frozen graph's bytes; None where it is not frozen.
        unfrozen: why it is not frozen, a clause.
        signature: the one that was chosen.
        signatures: all that the model has.
        parameters: float weights.
        exported: whether `model.export` of Keras 3 wrote it, which numbers the scopes of layers.
        random: whether the same batch twice gave different outputs.
    """

    signature: str
    signatures: tuple[str, ...]
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    weights: tuple[WeightInfo, ...]
    parameters: int
    unfrozen: str | None
    graph: bytes | None
    exported: bool = False
    random: bool = False


DESCRIPTION_FILE, GRAPH_FILE = "description.json", "graph.pb"
