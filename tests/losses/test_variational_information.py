"""Variational information against the published code."""

from __future__ import annotations

import pytest
from published import Case, mean

from kdcli.loss import Given
from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("vid", number, dtype, "variational_information")
    loss, teacher = make("variational_information"), case["teacher"]
    parts = loss.build(Given((case["student"].shape[1:],), (teacher.shape[1:],)))
    (layers,), (spread,) = parts.trained["regressors"], parts.trained["spreads"]
    weights = {f"w_conv{number}": layer.kernel for number, layer in enumerate(layers)}
    case.check(
        lambda student: mean(loss, student=student, teacher=teacher, parts=parts), w_log_scale=spread, **weights
    )
