"""What a SavedModel says of itself, also when it is refused."""

from __future__ import annotations

import pytest
import tensorflow as tf
from benign_graphs import convolutions, dictionaries, flat, module, static_table
from hostile_graphs import several_signatures
from hostile_messages import many_parts, no_meta_graph, truncated

from kdcli.screening.saved_model.facts import SignatureFacts, TensorFacts, describe_saved_model


@pytest.mark.parametrize(
    ("build", "producer"), [(convolutions, "Keras 3"), (module, "tf.Module"), (flat, "TensorFlow 1")]
)
def test_it_says_who_wrote_it(build, producer, tmp_path):
    build(tmp_path / "model")
    facts = describe_saved_model(tmp_path / "model")
    assert (facts.producer, facts.tensorflow, facts.tables) == (producer, tf.__version__, False)


def test_it_lists_what_signatures_take_and_give(tmp_path):
    dictionaries(tmp_path / "model")
    facts = describe_saved_model(tmp_path / "model")
    assert [signature.name for signature in facts.signatures] == ["serve", "serving_default"]
    assert facts.signatures[1] == SignatureFacts(
        "serving_default",
        inputs=(TensorFacts("first", "float32", (None, 4)), TensorFacts("second", "float32", (None, 3))),
        outputs=(TensorFacts("y", "float32", (None, 2)), TensorFacts("z", "float32", (None, 1))),
    )


def test_it_says_that_there_are_tables(tmp_path):
    static_table(tmp_path / "model")
    facts = describe_saved_model(tmp_path / "model")
    assert facts.tables and facts.signatures[0].inputs[0].dtype == "string"


def test_a_refused_model_is_described_as_well(tmp_path):
    several_signatures(tmp_path / "model", tmp_path / "marker")
    assert [signature.name for signature in describe_saved_model(tmp_path / "model").signatures] == ["bad", "good"]


@pytest.mark.parametrize("build", [truncated, no_meta_graph, many_parts])
def test_what_cannot_be_read_is_not_described(build, tmp_path):
    build(tmp_path / "model", tmp_path / "marker")
    assert describe_saved_model(tmp_path / "model") is None


def test_a_folder_that_is_not_there_is_not_described(tmp_path):
    assert describe_saved_model(tmp_path / "model") is None
