"""Multi-level distillation against the published code and its formula.

The published training multiplies losses that are scalars already with a mask over examples or classes and takes
the mean: a constant factor, which stands here. Two of its temperatures take the first view of the pictures for
the second; so do the tests, which call the loss once for each view.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import compare, logits, softmax
from published import Case, mean

from kdcli.errors import UsageError
from kdcli.losses import make

LEVELS = {"kd_loss": "instance_level", "bc_loss": "batch_level", "cc_loss": "class_level"}


def only(level, temperatures, **options):
    levels = {name: float(name == level) for name in LEVELS.values()}
    return make("multi_level", temperatures=temperatures, **levels, **options)


@pytest.mark.parametrize("number", [0, 2, 4, 6, 8])
def test_each_level_agrees_with_the_published_code(number, dtype):
    case = Case("mlkd", number, dtype, "multi_level")
    loss = only(LEVELS[str(case.arrays["hp_term"])], [case.hyper("temperature")])
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]))


def certain(teacher, axis):
    """The share of examples (axis 1) or classes (axis 0) that the published mask keeps."""
    shares = softmax(teacher)
    sizes = shares.max(1) if axis == 1 else shares.sum(0)
    return np.mean(sizes <= np.percentile(sizes, 50))


@pytest.mark.parametrize("number", [10, 14])
def test_the_instance_level_of_the_published_training(number, dtype):
    # c14 standardises the logits.
    case = Case("mlkd", number, dtype, "multi_level")
    weight, kept = case.hyper("kd_weight"), certain(case.arrays["teacher_weak"], 1)
    options = {"standardize": number == 14}
    every = only("instance_level", [2, 3, 4, 5, 6], **options)
    first, second = (only("instance_level", some, **options) for some in ([2, 6], [3, 4, 5]))

    def formula(student_weak, student_strong):
        weak = {"student": student_weak, "teacher": case["teacher_weak"]}
        strong = {"student": student_strong, "teacher": case["teacher_strong"]}
        return weight * (kept * mean(every, **weak) + mean(first, **weak) + mean(second, **strong))

    case.check(formula, inputs=("student_weak", "student_strong"))


def test_the_batch_level_of_the_published_training(dtype):
    case = Case("mlkd", 12, dtype, "multi_level")
    loss = only("batch_level", [2, 3, 4, 5, 6])
    factor = case.hyper("kd_weight") * certain(case.arrays["teacher_weak"], 1)

    def formula(student_weak, student_strong):
        return factor * mean(loss, student=student_weak, teacher=case["teacher_weak"])

    case.check(formula, inputs=("student_weak", "student_strong"))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.0, 2.0, 0.5), (0.5, 0.0, 0.0)])
@pytest.mark.parametrize("shape", [(4, 3), (2, 6)])
def test_agrees_with_the_formula_summed_over_temperatures(shape, weights):
    temperatures = (1.0, 4.0, 2.5)

    def written_again(student, teacher):
        total = 0.0
        for temperature in temperatures:
            p, q = softmax(student / temperature), softmax(teacher / temperature)
            levels = (
                temperature**2 * np.sum(q * np.log(q / p)) / shape[0],
                np.sum((q @ q.T - p @ p.T) ** 2) / shape[0],
                np.sum((q.T @ q - p.T @ p) ** 2) / shape[1],
            )
            total += sum(weight * level for weight, level in zip(weights, levels, strict=True))
        return total

    given = logits(*shape)
    del given["labels"]
    levels = dict(zip(("instance_level", "batch_level", "class_level"), weights, strict=True))
    compare(make("multi_level", temperatures=temperatures, **levels), written_again, **given)


def test_a_temperature_of_the_list_may_change_over_training():
    given = logits(4, 3)
    changing = make("multi_level", temperatures=[1.0, {"from": 4.0, "to": 2.0}])
    for progress, temperature in ((0.0, 4.0), (0.5, 3.0), (1.0, 2.0)):
        fixed = make("multi_level", temperatures=[1.0, temperature])
        assert float(changing(**given, progress=progress)) == pytest.approx(float(fixed(**given)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperatures": []}, "temperatures"),
        ({"temperatures": [2.0, 0.0]}, "temperatures"),
        ({"instance_level": 0.0, "batch_level": 0.0, "class_level": 0.0}, "one of instance_level"),
        ({"class_level": -1.0}, "class_level"),
    ],
)
def test_invalid_options_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        make("multi_level", **options)


def test_maps_are_refused():
    with pytest.raises(ValueError, match=r"multi_level needs logits of shape \(batch, classes\), got \(2, 3, 4\)"):
        make("multi_level")(**logits(2, 3, 4))
