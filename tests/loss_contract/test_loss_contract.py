"""For each check of the contract, a loss that violates it is found."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

import numpy as np
import pytest

from kdcli.formulas.convention import features, per_example, wide
from kdcli.lazy import ops
from kdcli.loss import NO_PARTS, FeatureLoss, Loss, Parts
from kdcli.loss_contract.check import CHECKS, check_contract
from kdcli.loss_contract.outcome import describe_error
from kdcli.losses import make
from kdcli.spec import Temperature


class Squared(Loss):
    """A loss that satisfies the contract; each of the others violates one check."""

    kind: Literal["own"] = "own"

    def __call__(self, *, student, teacher, **_):
        return per_example(ops.square(wide(student) - ops.stop_gradient(wide(teacher))))


class Raises(Squared):
    def __call__(self, *, student, teacher, **_):
        raise KeyError("nothing")


class OneNumber(Squared):
    def __call__(self, **given):
        return ops.mean(super().__call__(**given))


class ValuePerExample(Squared):
    whole_batch: ClassVar[bool] = True


class DependsOnOthers(Squared):
    def __call__(self, **given):
        values = super().__call__(**given)
        return values / (1.0 + ops.mean(values))


class Eager(Squared):
    def __call__(self, *, student, teacher, **_):
        return ops.convert_to_tensor(super().__call__(student=student, teacher=teacher).numpy())


class NeedsBatchSize(Squared):
    def __call__(self, **given):
        values = super().__call__(**given)
        return ops.sum(ops.stack([values] * int(given["student"].shape[0]), axis=0), axis=0)


class Random(Squared):
    def __call__(self, **given):
        return super().__call__(**given) * np.random.default_rng().uniform(0.5, 1.5)


class Signed(Squared):
    zero_when_equal: ClassVar[bool] = False

    def __call__(self, *, student, teacher, **_):
        return per_example(wide(student) - ops.stop_gradient(wide(teacher)))


class Offset(Squared):
    def __call__(self, **given):
        return super().__call__(**given) + 1.0


class GradientWhenEqual(Squared):
    """The value is 0 for equal inputs, but the gradient is not."""

    non_negative: ClassVar[bool] = False

    def __call__(self, *, student, teacher, **_):
        return per_example(wide(student) - ops.stop_gradient(wide(teacher)))


class Sum(Squared):
    def __call__(self, **given):
        values = super().__call__(**given)
        return values * 8.0 / ops.cast(ops.shape(values)[0], values.dtype)


class LastPosition(Squared):
    def __call__(self, *, student, teacher, **_):
        while len(student.shape) > 2:
            student, teacher = student[:, -1], teacher[:, -1]
        return super().__call__(student=student, teacher=teacher)


class MapsOnly(FeatureLoss):
    kind: Literal["own"] = "own"

    def __call__(self, *, student, teacher, **_):
        pairs = zip(features(student), features(teacher), strict=True)
        return sum(ops.einsum("bhwc->b", ops.square(s - ops.stop_gradient(t))) for s, t in pairs)


class Classifier(Squared):
    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "values")

    def __call__(self, *, output_kind="logits", **given):
        if output_kind == "values":
            raise ValueError("not a classifier")
        return super().__call__(**given)


class TakesAnyLabel(Squared):
    needs_labels: ClassVar[bool] = True
    one_class: ClassVar[bool] = True


class IgnoresTemperature(Squared):
    temperature: Temperature = 2.0


class ConstantTemperature(Squared):
    temperature: Temperature = 2.0

    def __call__(self, **given):
        start = self.temperature if isinstance(self.temperature, float) else self.temperature.start
        return super().__call__(**given) * start


class NoGradient(Squared):
    def __call__(self, *, student, teacher, **_):
        return super().__call__(student=ops.stop_gradient(student), teacher=teacher)


class TrainsTheTeacher(Squared):
    def __call__(self, *, student, teacher, **_):
        return per_example(ops.square(wide(student) - wide(teacher)))


class LeaksGradient(Squared):
    """The values are independent of the other examples, but the gradients are not."""

    def __call__(self, *, student, teacher, **_):
        mean = ops.mean(wide(student))
        return super().__call__(student=student, teacher=teacher) + (mean - ops.stop_gradient(mean))


class IdlePart(Squared):
    zero_when_equal: ClassVar[bool] = False

    def build(self, given):
        from keras import layers

        layer = layers.Dense(2)
        layer.build((None, 3))
        return Parts({"layer": layer})


class LatePart(IdlePart):
    def build(self, given):
        from keras import layers

        return Parts({"layer": layers.Dense(1)})

    def __call__(self, *, parts=NO_PARTS, **given):
        return super().__call__(**given) + 0.0 * parts.trained["layer"](wide(given["student"]))[..., 0]


class Narrow(Squared):
    def __call__(self, *, student, teacher, **_):
        return per_example(ops.square(student - ops.stop_gradient(teacher)))


class AlwaysSingle(Squared):
    def __call__(self, *, student, teacher, **_):
        return super().__call__(student=ops.cast(student, "float32"), teacher=ops.cast(teacher, "float32"))


class Logarithm(Squared):
    zero_when_equal: ClassVar[bool] = False

    def __call__(self, *, student, teacher, **_):
        chances = ops.stop_gradient(ops.softmax(wide(teacher)))
        return per_example(-ops.sum(chances * ops.log(ops.softmax(wide(student))), axis=-1))


class Root(Squared):
    """The gradient of the square root at 0 is not finite."""

    def __call__(self, **given):
        return ops.sqrt(super().__call__(**given))


VIOLATIONS = [
    (Raises, "runs", r"KeyError: 'nothing' \(test_loss_contract\.py:\d+\)$"),
    (
        OneNumber,
        "mean over the batch",
        r"the value has the shape \(\) for a batch of 8 \(expected one value per example\)",
    ),
    (
        ValuePerExample,
        "mean over the batch",
        r"the value has the shape \(8,\) \(whole_batch is set: expected a scalar\)",
    ),
    (DependsOnOthers, "mean over the batch", "a value depends on the other examples: "),
    (Eager, "compiled", "numpy"),
    (NeedsBatchSize, "compiled", r"TypeError: .* \(test_loss_contract\.py:\d+\)$"),
    (Random, "repeatable", "the same inputs gave "),
    (Signed, "not negative", "set non_negative = False if this is intended"),
    (Offset, "zero when equal", "a student that equals its teacher has a loss of 1"),
    (GradientWhenEqual, "zero when equal", "a student that equals its teacher has a gradient of 0.2"),
    (Sum, "two replicas", "half of the batch gives different values: "),
    (LastPosition, "leading axes", "the value is not the mean over the positions: "),
    (MapsOnly, "feature shapes", r"student \(\((5, 6)|6\),\) with teacher .*: \w+Error: "),
    (Classifier, "output kinds", r"ValueError: not a classifier \(test_loss_contract\.py:\d+\)$"),
    (TakesAnyLabel, "labels", "one_class is set, but mixed labels do not raise a ValueError"),
    (IgnoresTemperature, "schedules", "temperature is accepted, but has no effect"),
    (ConstantTemperature, "schedules", "temperature does not change over training: "),
    (NoGradient, "student learns", "no gradient reaches the student"),
    (TrainsTheTeacher, "teacher is constant", "the teacher gets a gradient of .*; stop_gradient is missing"),
    (LeaksGradient, "sample weights", "an example of weight 0 has a gradient of "),
    (IdlePart, "trained parts", "trained part .*kernel gets no gradient"),
    (LatePart, "trained parts", "the first call creates 2 variables; they must be built in build"),
    (Narrow, "half precision", r"inputs in float16 give float16 \(expected float32\)"),
    (AlwaysSingle, "double precision", "inputs in float64 give float32, float64"),
    (Logarithm, "extreme inputs", "large inputs: the value is not finite"),
    (Root, "extreme inputs", "equal inputs: the gradient is not finite"),
]


@pytest.mark.parametrize(
    ("member", "name", "reason"), VIOLATIONS, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_loss_that_violates_a_check_fails_it(member, name, reason):
    (result,) = (result for result in check_contract(member()) if result.name == name)
    assert result.state == "failed"
    assert re.search(reason, result.reason), result.reason
    assert "\n" not in result.reason


class NoNumber(Squared):
    def __call__(self, **given):
        return ops.log(-1.0 - super().__call__(**given))


class Infinite(Squared):
    def __call__(self, **given):
        return super().__call__(**given) / 0.0


@pytest.mark.parametrize("member", [NoNumber, Infinite])
def test_values_that_are_not_finite_fail_the_right_checks(member):
    found = {result.name: result for result in check_contract(member())}
    for name in ("mean over the batch", "compiled", "repeatable", "two replicas", "sample weights"):
        assert found[name].state != "failed" or name == "sample weights", found[name]
    assert found["extreme inputs"].reason == "large inputs: the value is not finite"
    assert found["zero when equal"].state == "failed"
    if member is NoNumber:
        assert found["not negative"].reason == "the value is nan for inputs with a standard deviation of 1"


def test_checks_of_single_examples_are_skipped_for_a_scalar():
    found = {result.name: result for result in check_contract(OneNumber())}
    for name in ("two replicas", "sample weights"):
        assert found[name].state == "skipped" and "value for each example" in found[name].reason


def test_a_reason_is_the_first_sentence_of_the_error():
    raw = (
        "{{function_node __wrapped__MatMul_device_/job:localhost/device:CPU:0}} Sizes differ: 8 and 5 [Op:MatMul]"
    )
    assert describe_error(ValueError(raw)) == "ValueError: Sizes differ: 8 and 5"
    assert describe_error(TypeError("One thing. Another thing.\nA third")) == "TypeError: One thing."
    assert describe_error(OSError("word " * 60)) == f"OSError: {'word ' * 19}word ..."


def test_every_check_can_fail():
    assert {name for _, name, _ in VIOLATIONS} == {"runs", *CHECKS}


def test_a_loss_that_satisfies_the_contract_fails_nothing_and_skips_what_does_not_apply():
    found = check_contract(Squared())
    assert [result.name for result in found] == ["runs", *CHECKS]
    assert {result.name for result in found if result.state != "passed"} == {
        "feature shapes",
        "labels",
        "trained parts",
    }
    assert all((result.state == "skipped") == bool(result.reason) for result in found)


def test_all_checks_are_skipped_for_a_loss_that_does_not_run():
    first, *rest = check_contract(Raises())
    assert first.state == "failed"
    assert {(result.state, result.reason) for result in rest} == {("skipped", "the loss does not run")}


def test_a_check_is_repeatable_and_leaves_keras_unchanged():
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy().name
    assert check_contract(make("masked_generative")) == check_contract(make("masked_generative"))
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == before
