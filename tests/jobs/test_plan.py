"""The plan: parts of losses, findings, export formats."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kdcli.distillation.pairing import Pair
from kdcli.distillation.terms import Term
from kdcli.jobs.plan import (
    EXPORTABLE,
    ONE_AT_A_TIME,
    describe_parts,
    find_export_formats,
    make_pair_rows,
    merge_findings,
)
from kdcli.jobs.preflight import collect_loss_findings
from kdcli.loss import Parts
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import ServedModel
from kdcli.models.preprocessing import Preprocessing

PAIRS = (Pair("a", "b", True), Pair("c", "d", True))


def term(**parts: Any) -> Term:
    return Term(make("hidden_states"), PAIRS, (None, None), Parts(**parts))


def dense(units: int, inputs: int) -> keras.layers.Layer:
    layer = keras.layers.Dense(units)
    layer.build((None, inputs))
    return layer


def test_parts_of_a_loss_are_listed_once_for_all_its_pairs():
    rows = make_pair_rows([term(trained={"layers": [dense(3, 2), dense(3, 2)]})])
    assert [(row["student"], row["parts"]) for row in rows] == [("a", "18 trained weights"), ("c", None)]


def test_state_of_a_loss_is_listed_by_the_name_that_the_loss_gives_it():
    normalization = keras.layers.BatchNormalization()
    normalization.build((None, 4))
    parts = Parts(
        {"layers": [dense(3, 2), normalization]},
        {"memories": [keras.Variable([[0.0] * 5] * 2)], "draws": keras.random.SeedGenerator(1)},
    )
    state = ["10 values in memories", "2 values in draws", "8 values in running statistics"]
    assert describe_parts(parts) == ", ".join(["17 trained weights", *state])
    assert describe_parts(Parts()) is None


@pytest.mark.parametrize(("units", "expected"), [(2, []), (50, ["150 weights, the student 9"])])
def test_layers_of_a_loss_larger_than_the_student_are_found(units, expected):
    inputs = keras.Input((2,))
    student = KerasNetwork(keras.Model(inputs, keras.layers.Dense(3)(inputs)), name="student")
    terms = [term(trained={"layers": dense(units, 2)})]
    found = collect_loss_findings(terms, student=student, teacher=None, replicas=1, weighted=False)
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert text.startswith("hidden_states: the layers of the loss have ") and part in text


def test_teachers_have_short_distinct_names_and_equal_findings_are_merged():
    names = ["/long/way/a/teacher.keras", "/long/way/b/teacher.keras"]
    findings = [
        f"mixed: 0.5 {names[0]}, 0.5 {names[1]}",
        f"{names[0]}: it computes in float32",
        f"{names[0]}: images are scaled",
        f"{names[1]}: it computes in float32",
        f"{names[1]}'s accuracy is 0.9",
        "hint: of no teacher",
    ]
    assert merge_findings(findings, names) == (
        "mixed: 0.5 a/teacher.keras, 0.5 b/teacher.keras",
        "a/teacher.keras, b/teacher.keras: it computes in float32",
        "a/teacher.keras: images are scaled",
        "b/teacher.keras's accuracy is 0.9",
        "hint: of no teacher",
    )
    assert merge_findings(findings, ()) == tuple(findings)
    # One teacher that is listed twice has one name.
    assert merge_findings([f"{names[0]}: one", f"{names[0]}: one"], [names[0]] * 2) == ("teacher.keras: one",)


def network_of(layer, shape=(6, 4)):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
    return KerasNetwork(model, name="m").with_preprocessing(
        {"x": Preprocessing(shape, "float32", shape, "float32")}
    )


def test_export_formats_of_usual_operations_need_no_conversion(monkeypatch):
    monkeypatch.setattr(ServedModel, "constant", property(lambda self: pytest.fail("it was converted")))
    assert set(find_export_formats(network_of(keras.layers.Conv1D(2, 3))).values()) == {EXPORTABLE}


def test_recurrent_layers_are_exportable_for_one_example_and_the_model_is_unchanged():
    network = network_of(keras.layers.LSTM(3))
    before = [weight.numpy() for weight in network.model.weights]
    found = find_export_formats(network)
    assert (found["keras"], found["saved-model"], found["litert"]) == (EXPORTABLE, EXPORTABLE, ONE_AT_A_TIME)
    for weight, expected in zip(network.model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)


def test_an_operation_that_litert_lacks_is_named_as_the_reason():
    found = find_export_formats(network_of(lambda x: keras.ops.fft((x, x))[0]))
    assert found["litert"] == "'tf.Complex' op is neither a custom op nor a flex op"
    assert found["keras"] == EXPORTABLE
