"""The dtypes in which outputs are stored, and what they change."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.cache.layout import ArraySpec
from kdcli.teacher.storage_dtype import (
    Overflow,
    choose_storage,
    convert_stored,
    measure_decision_agreement,
    measure_largest_change,
    measure_loss_error,
    measure_relative_error,
)

RANDOM = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (scale * RANDOM.standard_normal(shape)).astype(np.float32)


def dtypes(found):
    return {spec.name: spec.dtype for spec in found.specs}


def test_small_logits_are_float32_and_features_float16():
    found = choose_storage({"logits": normal(50, 10), "block": normal(20, 4, 4, 8)}, output_kind="logits")
    assert found.specs == (ArraySpec("logits", "float32", (10,)), ArraySpec("block", "float16", (4, 4, 8)))
    assert found.agreement == 1.0
    assert 0 < found.loss_error < 1e-4
    assert 1e-5 < found.feature_error["block"] < 1e-3
    assert found.text == (
        "logits float32, block float16: with float16 logits 100.00% of decisions unchanged, relative change in "
        f"loss {found.loss_error:.1e}; relative rounding error of block {found.feature_error['block']:.1e}"
    )


def test_logits_above_4_kb_are_float16():
    assert dtypes(choose_storage({"logits": normal(50, 1024)}, output_kind="logits")) == {"logits": "float32"}
    assert dtypes(choose_storage({"logits": normal(50, 1025)}, output_kind="logits")) == {"logits": "float16"}
    assert dtypes(choose_storage({"logits": normal(4, 16, 16, 5)}, output_kind="logits")) == {"logits": "float16"}
    assert dtypes(choose_storage({"logits": normal(50, 1025)}, output_kind="sigmoid")) == {"logits": "float16"}


def test_large_logits_are_float32_if_float16_changes_decisions_or_the_loss():
    near = np.float32(1000) + np.arange(2000, dtype=np.float32) * 1e-3
    found = choose_storage(
        {"logits": np.stack([np.roll(near, n) for n in range(0, 2000, 100)])}, output_kind="logits"
    )
    assert found.agreement < 0.999
    assert dtypes(found) == {"logits": "float32"}
    coarse = np.tile(np.float32([3000.0, 3000.9]), (20, 1000))
    coarse[:, 0] = 3010.0
    found = choose_storage({"logits": coarse}, output_kind="logits")
    assert (found.agreement, dtypes(found)) == (1.0, {"logits": "float32"})
    assert found.loss_error > 1e-4
    huge = normal(20, 2000)
    huge[0, 0] = 70_000
    assert dtypes(choose_storage({"logits": huge}, output_kind="logits")) == {"logits": "float32"}


def test_values_of_any_size_are_float32():
    found = choose_storage({"logits": normal(10, 64, 64, 2)}, output_kind="values")
    assert (found.agreement, dtypes(found)) == (None, {"logits": "float32"})
    assert found.text.startswith("logits float32: with float16 logits relative change in loss ")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (normal(20, 30, scale=1e3), "float16"),
        (normal(20, 30, scale=3e4), "bfloat16"),
        (np.full((2, 2), 60_001, np.float32), "bfloat16"),
        # Below 6e-5 float16 has fewer bits than bfloat16.
        (normal(20, 30, scale=1e-6), "bfloat16"),
        (np.zeros((3, 4), np.float32), "float16"),
    ],
    ids=["large", "larger", "at the end", "tiny", "nothing"],
)
def test_features_are_bfloat16_outside_the_range_of_float16(values, dtype):
    found = choose_storage({"logits": normal(20, 3), "tap": values}, output_kind="logits")
    assert dtypes(found)["tap"] == dtype
    assert found.feature_error["tap"] < 3e-3


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_stored_outputs_are_close_to_the_originals(dtype):
    values = normal(7, 3, 2)
    found = convert_stored(values, ArraySpec("tap", dtype, (3, 2)))
    assert (found.dtype.name, found.shape) == (dtype, (7, 3, 2))
    np.testing.assert_allclose(found.astype(np.float32), values, rtol=1e-2)


def test_a_value_that_does_not_fit_is_refused():
    values = normal(4, 3)
    values[2, 1] = 70_000
    spec = ArraySpec("tap", "float16", (3,))
    with pytest.raises(Overflow, match="tap: a value does not fit into float16") as caught:
        convert_stored(values, spec)
    assert caught.value.spec is spec
    assert np.isfinite(convert_stored(values, ArraySpec("tap", "bfloat16", (3,))).astype(np.float32)).all()


def test_infinite_values_stay_infinite_without_an_error():
    values = np.float32([[np.inf, 1.0]])
    assert convert_stored(values, ArraySpec("tap", "float16", (2,)))[0, 0] == np.inf


def test_agreement_counts_equal_decisions():
    exact = np.float32([[1, 2], [3, 0], [0, 5], [1, 0]])
    other = np.float32([[2, 1], [3, 0], [0, 5], [1, 0]])
    assert measure_decision_agreement(exact, other, output_kind="logits") == 0.75
    assert measure_decision_agreement(exact - 0.5, other - 0.5, output_kind="sigmoid") == 1.0
    assert measure_decision_agreement(exact - 1.5, other - 1.5, output_kind="sigmoid") == 0.75
    assert measure_decision_agreement(exact, other, output_kind="values") is None


def test_the_largest_change_is_of_a_probability_or_in_standard_deviations():
    exact, other = np.float32([[0, 0], [9, 0]]), np.float32([[0, 0], [9, np.log(3) - np.log(3)]])
    assert measure_largest_change(exact, other, output_kind="logits") == 0
    other = np.float32([[np.log(3), 0], [9, 0]])
    assert measure_largest_change(exact, other, output_kind="logits") == pytest.approx(0.25)
    zero, other = np.float32([[0]]), np.float32([[np.log(3)]])
    assert measure_largest_change(zero, other, output_kind="sigmoid") == pytest.approx(0.25)
    values = np.float32([[0, 0], [2, 20]])
    assert measure_largest_change(values, values + np.float32([0, 1]), output_kind="values") == pytest.approx(0.1)
    assert measure_largest_change(np.float32([[1e4, -1e4]]), np.float32([[1e4, -1e4]]), output_kind="sigmoid") == 0


def test_the_loss_error_is_the_divergence_over_the_entropy_at_temperature_4():
    exact, other = np.float32([[4, 0]]), np.float32([[8, 0]])
    p = np.exp([1, 0]) / np.exp([1, 0]).sum()
    q = np.exp([2, 0]) / np.exp([2, 0]).sum()
    expected = (p * np.log(p / q)).sum() / -(p * np.log(p)).sum()
    assert measure_loss_error(exact, other, output_kind="logits") == pytest.approx(expected)
    # Two classes, or one yes and no with the difference of their logits, have the same loss.
    assert measure_loss_error(exact[:, :1], other[:, :1], output_kind="sigmoid") == pytest.approx(expected)
    assert measure_loss_error(exact, exact, output_kind="logits") == 0
    assert measure_loss_error(exact, other, output_kind="values") == pytest.approx(1.0)
    assert measure_relative_error(exact, other) == pytest.approx(1.0)
