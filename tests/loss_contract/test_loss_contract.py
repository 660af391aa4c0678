"""The contract of losses finds what it is there to find: for each of its points a loss that breaks it."""

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
    """A loss that keeps the contract; each of the others breaks one point of it."""

    kind: Literal["own"] = "own"

    def __call__(self, *, student, teacher, **_):
        return per_example(ops.square(wide(student) - ops.stop_gradient(wide(teacher))))


class Raises(Squared):
    def __call__(self, *, student, teacher, **_):
        raise KeyError("nothing")


class OneNumber(Squared):
    def __call__(self, **given):
        return ops.mean(super().__call__(**given))


class OneByOne(Squared):
    whole_batch: ClassVar[bool] = True


class AmongItsNeighbours(Squared):
    def __call__(self, **given):
        values = super().__call__(**given)
        return values / (1.0 + ops.mean(values))


class Eager(Squared):
    def __call__(self, *, student, teacher, **_):
        return ops.convert_to_tensor(super().__call__(student=student, teacher=teacher).numpy())


class OfAKnownBatch(Squared):
    def __call__(self, **given):
        values = super().__call__(**given)
        return ops.sum(ops.stack([values] * int(given["student"].shape[0]), axis=0), axis=0)


class Chance(Squared):
    def __call__(self, **given):
        return super().__call__(**given) * np.random.default_rng().uniform(0.5, 1.5)


class Signed(Squared):
    zero_when_equal: ClassVar[bool] = False

    def __call__(self, *, student, teacher, **_):
        return per_example(wide(student) - ops.stop_gradient(wide(teacher)))


class Offset(Squared):
    def __call__(self, **given):
        return super().__call__(**given) + 1.0


class Restless(Squared):
    """Its value is 0 when the two are equal, its gradient is not."""

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
    heads: ClassVar[tuple[str, ...]] = ("logits", "values")

    def __call__(self, *, output_kind="logits", **given):
        if output_kind == "values":
            raise ValueError("not a classifier")
        return super().__call__(**given)


class TakesAnyLabel(Squared):
    needs_labels: ClassVar[bool] = True
    one_class: ClassVar[bool] = True


class Ignores(Squared):
    temperature: Temperature = 2.0


class Frozen(Squared):
    temperature: Temperature = 2.0

    def __call__(self, **given):
        start = self.temperature if isinstance(self.temperature, float) else self.temperature.start
        return super().__call__(**given) * start


class Unreached(Squared):
    def __call__(self, *, student, teacher, **_):
        return super().__call__(student=ops.stop_gradient(student), teacher=teacher)


class PullsTheTeacher(Squared):
    def __call__(self, *, student, teacher, **_):
        return per_example(ops.square(wide(student) - wide(teacher)))


class LeaksGradient(Squared):
    """Values are each example's own, gradients are not."""

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
    """The gradient of a root at 0 is not finite."""

    def __call__(self, **given):
        return ops.sqrt(super().__call__(**given))


BREAKS = [
    (Raises, "runs", r"KeyError: 'nothing' \(test_loss_contract\.py:\d+\)$"),
    (OneNumber, "mean over the batch", r"it gives \(\) for a batch of 8, not one value an example"),
    (OneByOne, "mean over the batch", r"whole_batch says that the value is a scalar, it is of shape \(8,\)"),
    (AmongItsNeighbours, "mean over the batch", "a value changes with the other examples: "),
    (Eager, "compiled", "numpy"),
    (OfAKnownBatch, "compiled", r"TypeError: .* \(test_loss_contract\.py:\d+\)$"),
    (Chance, "repeatable", "twice the same inputs gave "),
    (Signed, "not negative", "say non_negative = False if that is meant"),
    (Offset, "zero when equal", "a student that equals its teacher has a loss of 1"),
    (Restless, "zero when equal", "a student that equals its teacher has a gradient of 0.2"),
    (Sum, "two shares", "half of the batch gives other values: "),
    (LastPosition, "leading axes", "it is not the mean over the positions: "),
    (MapsOnly, "feature shapes", r"student \(\((5, 6)|6\),\) with teacher .*: \w+Error: "),
    (Classifier, "heads", r"ValueError: not a classifier \(test_loss_contract\.py:\d+\)$"),
    (TakesAnyLabel, "labels", "one_class says that mixed labels are refused"),
    (Ignores, "schedules", "temperature is accepted and has no effect"),
    (Frozen, "schedules", "temperature does not change over training: "),
    (Unreached, "student learns", "no gradient reaches the student"),
    (PullsTheTeacher, "teacher is constant", "the teacher gets a gradient of .*: stop_gradient is missing"),
    (LeaksGradient, "sample weights", "an example of weight 0 has a gradient of "),
    (IdlePart, "own parts", "trained part .*kernel gets no gradient"),
    (LatePart, "own parts", "the first call makes 2 variables more: build them in build"),
    (Narrow, "half precision", "inputs in float16 give float16, not float32"),
    (AlwaysSingle, "double precision", "inputs in float64 give float32, float64"),
    (Logarithm, "extreme inputs", "large inputs: the value is not finite"),
    (Root, "extreme inputs", "equal inputs: the gradient is not finite"),
]


@pytest.mark.parametrize(("member", "name", "reason"), BREAKS, ids=lambda value: getattr(value, "__name__", None))
def test_a_loss_that_breaks_a_point_fails_it(member, name, reason):
    (point,) = (point for point in check_contract(member()) if point.name == name)
    assert point.state == "failed"
    assert re.search(reason, point.reason), point.reason
    assert "\n" not in point.reason


class NoNumber(Squared):
    def __call__(self, **given):
        return ops.log(-1.0 - super().__call__(**given))


class Infinite(Squared):
    def __call__(self, **given):
        return super().__call__(**given) / 0.0


@pytest.mark.parametrize("member", [NoNumber, Infinite])
def test_what_is_no_number_is_found_by_its_own_points(member):
    found = {point.name: point for point in check_contract(member())}
    for name in ("mean over the batch", "compiled", "repeatable", "two shares", "sample weights"):
        assert found[name].state != "failed" or name == "sample weights", found[name]
    assert found["extreme inputs"].reason == "large inputs: the value is not finite"
    assert found["zero when equal"].state == "failed"
    if member is NoNumber:
        assert found["not negative"].reason == "it gave nan for inputs of a size of 1"


def test_a_scalar_for_examples_has_nothing_to_weight():
    found = {point.name: point for point in check_contract(OneNumber())}
    for name in ("two shares", "sample weights"):
        assert found[name].state == "skipped" and "value for each example" in found[name].reason


def test_a_reason_is_the_first_sentence_of_what_was_raised():
    raw = (
        "{{function_node __wrapped__MatMul_device_/job:localhost/device:CPU:0}} Sizes differ: 8 and 5 [Op:MatMul]"
    )
    assert describe_error(ValueError(raw)) == "ValueError: Sizes differ: 8 and 5"
    assert describe_error(TypeError("One thing. Another thing.\nA third")) == "TypeError: One thing."
    assert describe_error(OSError("word " * 60)) == f"OSError: {'word ' * 19}word ..."


def test_every_point_can_fail():
    assert {name for _, name, _ in BREAKS} == {"runs", *CHECKS}


def test_a_loss_that_keeps_the_contract_fails_nothing_and_says_what_does_not_concern_it():
    found = check_contract(Squared())
    assert [point.name for point in found] == ["runs", *CHECKS]
    assert {point.name for point in found if point.state != "passed"} == {"feature shapes", "labels", "own parts"}
    assert all((point.state == "skipped") == bool(point.reason) for point in found)


def test_of_a_loss_that_does_not_run_nothing_else_is_said():
    first, *rest = check_contract(Raises())
    assert first.state == "failed"
    assert {(point.state, point.reason) for point in rest} == {("skipped", "it does not run")}


def test_a_check_is_the_same_each_time_and_leaves_keras_as_it_was():
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy().name
    assert check_contract(make("masked_generative")) == check_contract(make("masked_generative"))
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == before
