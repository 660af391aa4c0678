"""Learning rate schedules at the start, in the middle and at the end of training."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from kdcli.recipe.schedule import AnySchedule

HALF_COSINE = (1 + np.cos(np.pi * 0.25)) / 2


def make(entry):
    return TypeAdapter(AnySchedule).validate_python(entry)


def factors(entry, *shares):
    from keras import ops

    schedule = make(entry)
    return [float(schedule.factor(ops.convert_to_tensor(share, dtype="float32"))) for share in shares]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, HALF_COSINE, 0.5, 0]),
        ({"kind": "cosine", "floor": 0.2}, [1, 0.2 + 0.8 * HALF_COSINE, 0.6, 0.2]),
        ("linear", [1, 0.75, 0.5, 0]),
        ({"kind": "linear", "floor": 0.5}, [1, 0.875, 0.75, 0.5]),
        ({"kind": "steps", "at": [0.25, 0.5], "factor": 0.1}, [1, 0.1, 0.01, 0.01]),
        ({"kind": "steps", "at": [0.75], "factor": 0.5}, [1, 1, 1, 0.5]),
        ({"kind": "exponential", "floor": 0.01}, [1, 0.01**0.25, 0.1, 0.01]),
    ],
)
def test_the_factor_follows_the_shape(entry, expected):
    assert factors(entry, 0.0, 0.25, 0.5, 1.0) == pytest.approx(expected, abs=1e-6)


def test_steps_have_the_documented_defaults():
    assert factors("steps", 0.0, 0.59, 0.61, 0.81) == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "steps", "exponential"])
def test_warmup_rises_from_zero_and_the_shape_covers_the_rest(kind):
    warm = factors({"kind": kind, "warmup": 0.2}, 0.0, 0.1, 0.2, 0.6, 1.0)
    plain = factors(kind, 0.0, 0.5, 1.0)
    assert warm[:2] == pytest.approx([0, 0.5])
    assert warm[2:] == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("cosin", "cosin"),
        ({"kind": "cosine", "warmup": 1.0}, "less than 1"),
        ({"kind": "cosine", "floor": 2.0}, "less than or equal to 1"),
        ({"kind": "steps", "at": []}, "at least 1 item"),
        ({"kind": "steps", "factor": 1.0}, "less than 1"),
        ({"kind": "exponential", "floor": 0.0}, "greater than 0"),
        ({"kind": "constant", "floor": 0.5}, "Extra inputs"),
    ],
)
def test_an_invalid_schedule_is_refused(entry, words):
    with pytest.raises(ValidationError, match=words):
        make(entry)
