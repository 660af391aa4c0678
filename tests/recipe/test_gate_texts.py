"""Gates on the command line and in recipes."""

from __future__ import annotations

import math

import pytest

from kdcli.errors import RecipeError, UsageError
from kdcli.recipe.gates import METRICS, Gate, GatesSection, parse_gate
from kdcli.recipe.reader import read_recipe


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("accuracy>=0.97", Gate("accuracy", ">=", 0.97)),
        (" accuracy >= .97 ", Gate("accuracy", ">=", 0.97)),
        ("latency_ms<5", Gate("latency_ms", "<", 5.0)),
        ("loss <= 1e-1", Gate("loss", "<=", 0.1)),
        ("gain > -0.01", Gate("gain", ">", -0.01)),
        ("size_mb<=97.5", Gate("size_mb", "<=", 97.5)),
        ("agreement>=1", Gate("agreement", ">=", 1.0)),
    ],
)
def test_a_gate_is_parsed(text, gate):
    assert parse_gate(text) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy>=97.5", "--gate 'accuracy>=97.5': must be a fraction, not a percentage: write 0.975"),
        ("accuracy>=97.5%", "--gate 'accuracy>=97.5%': must be a fraction, not a percentage: write 0.975"),
        ("accuracy>=1%", "--gate 'accuracy>=1%': must be a fraction, not a percentage: write 0.01"),
        ("accuracy_drop<=1.5", "--gate 'accuracy_drop<=1.5': must be a fraction, not a percentage: write 0.015"),
        ("latency_ratio<=50%", "expected a bound such as '>= 0.97', got '<=50%'"),
        ("acuracy>=0.9", "--gate 'acuracy>=0.9': unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("accuracy", "--gate 'accuracy': expected a bound such as '>= 0.97', got ''"),
        ("accuracy=0.9", "expected a bound such as '>= 0.97', got '=0.9'"),
        ("loss<=nan", "expected a bound such as '>= 0.97', got '<=nan'"),
        ("loss<=inf", "expected a bound such as '>= 0.97', got '<=inf'"),
        ("0.97", "unknown metric '0.97'"),
        ("", "unknown metric ''"),
    ],
)
def test_an_invalid_gate_names_the_expected_form(text, message):
    with pytest.raises(UsageError) as caught:
        parse_gate(text)
    assert message in caught.value.message
    assert caught.value.hint.startswith("--gate '")


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("accuracy>=0.97", 0.97, True),
        ("accuracy>=0.97", 0.9699, False),
        ("accuracy_drop<=0.01", 0.95 - 0.94, True),
        ("accuracy_drop<=0.01", 0.0101, False),
        ("accuracy>0.97", 0.97, False),
        ("accuracy>0.97", 0.9701, True),
        ("loss<0.5", 0.5, False),
        ("size_mb<=2", 2.0, True),
        ("gain>=-0.01", -0.01, True),
        *[(f"loss{sign}0.5", math.nan, False) for sign in (">=", "<=", ">", "<")],
    ],
)
def test_bounds_with_an_equals_sign_are_inclusive_and_nan_fails(text, value, holds):
    assert parse_gate(text).holds(value) == holds


def test_the_gates_section_has_a_key_for_every_metric():
    assert tuple(GatesSection.model_fields) == tuple(METRICS)


def test_a_recipe_can_contain_gates():
    section = read_recipe({"gates": {"accuracy": ">= 0.975", "gain": ">= 0.005"}}).recipe.gates
    assert section.gates() == (Gate("accuracy", ">=", 0.975), Gate("gain", ">=", 0.005))
    assert read_recipe("soft-targets", settings=["gates.loss='<= 2'"]).recipe.gates.gates() == (
        Gate("loss", "<=", 2.0),
    )
    assert read_recipe("soft-targets").recipe.gates.gates() == ()


def test_all_invalid_gates_of_a_recipe_are_reported_with_positions(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("gates:\n  accuracy: '>= 97.5'\n  acuracy: 3\n  loss: 0.9\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe(str(path))
    faults = {(fault.line, fault.setting, fault.message) for fault in caught.value.faults}
    assert faults == {
        (2, "gates.accuracy", "must be a fraction, not a percentage: write 0.975"),
        (3, "gates.acuracy", "unknown key"),
        (4, "gates.loss", "expected a bound such as '>= 0.97', got '0.9'"),
    }
