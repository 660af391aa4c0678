"""What a SavedModel states about itself, even if it is refused."""

from __future__ import annotations

import pytest
import tensorflow as tf
from benign_graphs import convolutions, dictionaries, flat, module, static_table
from hostile_graphs import several_signatures
from hostile_messages import many_parts, no_meta_graph, truncated

from kdcli.screening.saved_model.facts import SignatureFacts, TensorFacts, describe_saved_model


def _tensor(name, size):
    return TensorFacts(name, "float32", shape=(None, size))


@pytest.mark.parametrize(
    ("build", "producer"), [(convolutions, "Keras 3"), (module, "tf.Module"), (flat, "TensorFlow 1")]
)
def test_the_producer_is_recognized(build, producer, tmp_path):
    build(tmp_path / "model")
    facts = describe_saved_model(tmp_path / "model")
    assert (facts.producer, facts.tensorflow, facts.tables) == (producer, tf.__version__, False)


def test_signatures_are_listed_with_their_tensors(tmp_path):
    dictionaries(tmp_path / "model")
    facts = describe_saved_model(tmp_path / "model")
    assert [signature.name for signature in facts.signatures] == ["serve", "serving_default"]
    assert facts.signatures[1] == SignatureFacts(
        "serving_default",
        inputs=(_tensor("first", 4), _tensor("second", 3)),
        outputs=(_tensor("y", 2), _tensor("z", 1)),
    )


def test_lookup_tables_are_reported(tmp_path):
    static_table(tmp_path / "model")
    facts = describe_saved_model(tmp_path / "model")
    assert facts.tables and facts.signatures[0].inputs[0].dtype == "string"


def test_a_refused_model_is_described(tmp_path):
    several_signatures(tmp_path / "model", tmp_path / "marker")
    assert [signature.name for signature in describe_saved_model(tmp_path / "model").signatures] == ["bad", "good"]


@pytest.mark.parametrize("build", [truncated, no_meta_graph, many_parts])
def test_unreadable_models_are_not_described(build, tmp_path):
    build(tmp_path / "model", tmp_path / "marker")
    assert describe_saved_model(tmp_path / "model") is None


def test_a_missing_folder_is_not_described(tmp_path):
    assert describe_saved_model(tmp_path / "model") is None
