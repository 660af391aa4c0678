"""How the output of a frozen graph is made: its last activation, and the tensor that goes into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdcli.models.graph_tracing import Traced

_KINDS = {"Softmax": "probabilities", "Sigmoid": "sigmoid"}
# What only passes on, or only reshapes, what the activation made.
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
# Operations that make pictures out of the bytes of a file.
_DECODING = frozenset(
    ("DecodeJpeg", "DecodePng", "DecodeBmp", "DecodeGif", "DecodeImage", "DecodeWebP", "DecodeAndCropJpeg")
)


@dataclass(frozen=True)
class LastActivation:
    """The softmax or sigmoid that makes an output.

    Args:
        operation: `Softmax` or `Sigmoid`.
        kind: of output: `probabilities` or `sigmoid`.
        logits: the tensor that goes into it.
    """

    operation: str
    kind: str
    logits: str


def last_activation(tensor: Any, *, outputs: int | None) -> LastActivation | None:
    """The activation behind an output tensor, or None where nothing is known.

    Args:
        tensor: of a `tf.Graph`.
        outputs: the size of its last axis; a softmax over another number makes no probabilities of these.
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


def picture_after_decoding(traced: Traced) -> str | None:
    """The first tensor of whole pictures behind the bytes of encoded ones; None for a graph without decoding.

    Batches of pictures with a number of channels are preferred to single pictures.
    """
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
