"""What the plan says of a run's losses and of several teachers."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from kdcli.distillation.pairing import Pair
from kdcli.distillation.terms import Term
from kdcli.jobs.plan import merge_findings, pair_rows, parts_text
from kdcli.jobs.preflight import loss_findings
from kdcli.loss import Parts
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork

PAIRS = (Pair("a", "b", True), Pair("c", "d", True))


def term(**parts: Any) -> Term:
    return Term(make("hidden_states"), PAIRS, (None, None), Parts(**parts))


def dense(units: int, inputs: int) -> keras.layers.Layer:
    layer = keras.layers.Dense(units)
    layer.build((None, inputs))
    return layer


def test_what_a_loss_owns_stands_once_however_many_pairs_it_has():
    rows = pair_rows([term(trained={"layers": [dense(3, 2), dense(3, 2)]})])
    assert [(row["student"], row["parts"]) for row in rows] == [("a", "18 weights of its own"), ("c", None)]


def test_what_is_kept_has_the_name_that_the_loss_gives_it():
    normalization = keras.layers.BatchNormalization()
    normalization.build((None, 4))
    parts = Parts(
        {"layers": [dense(3, 2), normalization]},
        {"memories": [keras.Variable([[0.0] * 5] * 2)], "draws": keras.random.SeedGenerator(1)},
    )
    kept = ["10 numbers of its memories", "2 numbers of its draws", "8 numbers of its running statistics"]
    assert parts_text(parts) == ", ".join(["17 weights of its own", *kept])
    assert parts_text(Parts()) is None


@pytest.mark.parametrize(("units", "said"), [(2, []), (50, ["150 weights, the student 9"])])
def test_layers_of_a_loss_that_outweigh_the_student_are_found(units, said):
    inputs = keras.Input((2,))
    student = KerasNetwork(keras.Model(inputs, keras.layers.Dense(3)(inputs)), name="student")
    terms = [term(trained={"layers": dense(units, 2)})]
    found = loss_findings(terms, student=student, teacher=None, replicas=1, weighted=False)
    assert len(found) == len(said)
    for text, expected in zip(found, said, strict=True):
        assert text.startswith("hidden_states: the loss's own layers have ") and expected in text


def test_several_teachers_are_named_by_what_tells_them_apart_and_alike_sentences_come_once():
    names = ["/long/way/a/teacher.keras", "/long/way/b/teacher.keras"]
    findings = [
        f"mixed: 0.5 {names[0]}, 0.5 {names[1]}",
        f"{names[0]}: it answers in float32",
        f"{names[0]}: pictures are scaled",
        f"{names[1]}: it answers in float32",
        f"{names[1]}'s accuracy is 0.9",
        "hint: of no teacher",
    ]
    assert merge_findings(findings, names) == (
        "mixed: 0.5 a/teacher.keras, 0.5 b/teacher.keras",
        "a/teacher.keras, b/teacher.keras: it answers in float32",
        "a/teacher.keras: pictures are scaled",
        "b/teacher.keras's accuracy is 0.9",
        "hint: of no teacher",
    )
    assert merge_findings(findings, ()) == tuple(findings)
    # One teacher that is listed twice has one name.
    assert merge_findings([f"{names[0]}: one", f"{names[0]}: one"], [names[0]] * 2) == ("teacher.keras: one",)
