"""Text that is a graph: a message with operations in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdcli.lazy import tf
from kdcli.screening.saved_model_proto import parse_function, parse_graph, parse_library, parse_saved_model

# The smallest message with an operation: its tags, a name of one letter and the shortest name of an operation.
_SHORTEST = 10
# The tags that begin every node: its first field, and the name of its operation.
_TAGS = (b"\n", b"\x12")


def holds_graph(text: bytes) -> bool:
    """Whether some bytes are a message with operations in it: a graph, a function, a library or a SavedModel."""
    if len(text) < _SHORTEST or not all(tag in text for tag in _TAGS):
        return False
    return any(_is_real(node) for node in _nodes(text))


def _nodes(text: bytes) -> Iterator[Any]:
    for parse in (parse_graph, parse_function, parse_library, parse_saved_model):
        try:
            message = parse(text)
        except ValueError:
            continue
        if parse is parse_graph:
            yield from message.node
            yield from (node for function in message.library.function for node in function.node_def)
        elif parse is parse_function:
            yield from message.node_def
        elif parse is parse_library:
            yield from (node for function in message.function for node in function.node_def)
        else:
            for meta in message.meta_graphs:
                yield from meta.graph_def.node
                yield from (node for function in meta.graph_def.library.function for node in function.node_def)


def _is_real(node: Any) -> bool:
    return bool(node.name) and node.op.isidentifier() and hasattr(tf.raw_ops, node.op)
