"""Graphs that are stored as strings."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.screening.saved_model.constants import holds_graph


def graph_with(operation):
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="x", op=operation)
    return graph


def test_graphs_and_messages_that_contain_graphs_are_found():
    graph = graph_with("NoOp")
    library = tf.compat.v1.GraphDef()
    library.library.function.add().node_def.add(name="x", op="NoOp")
    for message in (graph, library, library.library, library.library.function[0]):
        assert holds_graph(message.SerializeToString())


def test_a_graph_without_a_known_operation_is_ignored():
    assert not holds_graph(graph_with("no such operation").SerializeToString())


@pytest.mark.parametrize("text", [b"", b"word", b"a line\nanother line\n\x12", "Grüße\n\x12 und mehr".encode()])
def test_words_are_not_a_graph(text):
    assert not holds_graph(text)


def test_random_bytes_are_not_a_graph():
    random = np.random.default_rng(0)
    assert not any(holds_graph(b"\n\x12" + random.bytes(40)) for _ in range(2000))
