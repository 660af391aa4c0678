"""Ensembles of teachers: mixtures at every temperature, for every output kind, with one pass per teacher.

Reference values: tests/losses/test_ensembles.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.data.feed import Batch
from kdcli.distillation.ensemble_mixture import Ensemble, MemberOutputs, find_temperature
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import EnsembleTargets, SubsetTargets
from kdcli.distillation.terms import Term
from kdcli.losses import make
from kdcli.models.network import Outputs
from kdcli.models.prediction import LOGITS


def softmax(logits):
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def drawn(number, shape=(5, 4), spread=3.0):
    return np.random.default_rng(number).standard_normal(shape) * spread


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 3, 4)])
def test_softmax_of_the_mixture_is_the_mixture_of_softmaxes(temperature, shape):
    outputs = [drawn(number, shape) for number in range(3)]
    found = Ensemble((5.0, 3.0, 2.0), (1.0, 2.0, 0.5))(outputs, temperature)
    each = zip((0.5, 0.3, 0.2), outputs, (1, 2, 0.5), strict=True)
    parts = [weight * softmax(a / (temperature * own)) for weight, a, own in each]
    np.testing.assert_allclose(softmax(found.numpy() / temperature), sum(parts), atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sigmoid_of_the_mixture_is_the_mixture_of_probabilities(temperature):
    outputs = [drawn(number) for number in range(2)]
    found = Ensemble((1.0, 3.0), (2.0, 1.0), output_kind="sigmoid")(outputs, temperature)
    each = zip((0.25, 0.75), outputs, (2, 1), strict=True)
    parts = [weight / (1 + np.exp(-a / (temperature * own))) for weight, a, own in each]
    np.testing.assert_allclose(1 / (1 + np.exp(-found.numpy() / temperature)), sum(parts), atol=1e-12)


def test_logits_and_values_are_averaged():
    outputs = [drawn(number) for number in range(2)]
    expected = 0.25 * outputs[0] / 2.0 + 0.75 * outputs[1]
    np.testing.assert_allclose(Ensemble((1.0, 3.0), (2.0, 1.0), "logits")(outputs, 4.0), expected, atol=1e-12)
    values = Ensemble((1.0, 3.0), (1.0, 1.0), output_kind="values")(outputs, 4.0)
    np.testing.assert_allclose(values, 0.25 * outputs[0] + 0.75 * outputs[1], atol=1e-12)


@pytest.mark.parametrize("output_kind", ["logits", "sigmoid"])
def test_extreme_outputs_stay_finite_and_keep_their_size(output_kind):
    extreme = [np.array([[1e4, 0.0, -1e4]], np.float32), np.array([[-1e4, 0.0, 1e4]], np.float32)]
    found = Ensemble((1.0, 1.0), (1.0, 1.0), output_kind=output_kind)(extreme).numpy()
    assert np.isfinite(found).all()
    # The two are opposite: at both ends the probability is one half.
    np.testing.assert_allclose(found[0, [0, 2]], np.log(0.5) if output_kind == "logits" else 0.0, atol=1e-3)
    assert np.isfinite(Ensemble((1.0, 1.0), (1.0, 1.0), output_kind=output_kind)(extreme[:1] * 2).numpy()).all()


def test_narrow_outputs_are_mixed_in_float32_and_arrays_stay_arrays():
    outputs = [drawn(number).astype(np.float16) for number in range(2)]
    assert Ensemble((1.0, 1.0), (1.0, 1.0))([tf.constant(a) for a in outputs]).dtype == tf.float32
    mixed = Ensemble((1.0, 1.0), (1.0, 1.0)).of([a.astype(np.float32) for a in outputs])
    assert isinstance(mixed, np.ndarray) and mixed.dtype == np.float32


def test_each_term_mixes_at_its_current_temperature():
    assert find_temperature(make("soft_targets", temperature=3.0), 0.0) == 3.0
    assert find_temperature(make("logit_mse"), 0.0) == 1.0
    changing = make("soft_targets", temperature={"from": 4.0, "to": 2.0, "over": 0.5})
    assert float(find_temperature(changing, 0.25)) == 3.0
    members = MemberOutputs((drawn(0), drawn(1)), Ensemble((1.0, 1.0), (1.0, 1.0)))
    expected = members.ensemble(members.outputs, 3.0)
    np.testing.assert_allclose(members.mix_for(changing, 0.25), expected, atol=1e-6)
    assert np.abs(np.asarray(members.mix_for(changing, 0.0)) - expected).max() > 0.01


class Counted:
    """Targets by position that count their calls."""

    def __init__(self, logits, **features):
        self.arrays = {LOGITS: logits, **features}
        self.calls = 0

    def at(self, batch):
        self.calls += 1
        return {name: tf.gather(tf.constant(a, tf.float32), batch.positions) for name, a in self.arrays.items()}


class Student:
    """A network with one variable that counts its calls."""

    output_kind, has_regularization = "logits", False

    def __init__(self):
        self.logits = tf.Variable(drawn(7, (3, 4)).astype(np.float32))
        self.trainable_variables = [self.logits]
        self.calls = 0

    def compute(self, inputs, *, taps=(), training=False):
        self.calls += 1
        return Outputs(tf.identity(self.logits), {})


def batch(positions):
    return Batch({}, tf.constant([0, 1, 2]), None, tf.constant(positions), tf.constant(0), 3)


def test_an_objective_runs_every_teacher_and_the_student_once():
    teachers = [Counted(drawn(number, (6, 4))) for number in range(3)]
    ensemble = Ensemble((2.0, 1.0, 1.0), (1.0, 1.0, 2.0))
    student = Student()
    losses = [make("labels"), make("soft_targets", temperature=3.0), make("logit_mse")]
    objective = Objective(
        [Term(loss) for loss in losses], student=student, targets=EnsembleTargets(teachers, ensemble)
    )
    _, found = objective(batch([5, 0, 2]), tf.constant(0.0))
    assert [one.calls for one in (*teachers, student)] == [1, 1, 1, 1]
    outputs = [one.arrays[LOGITS][[5, 0, 2]].astype(np.float32) for one in teachers]
    for loss, value in list(zip(losses, found, strict=True))[1:]:
        temperature = getattr(loss, "temperature", 1.0)
        expected = tf.reduce_mean(loss(student=student.logits, teacher=ensemble(outputs, temperature)))
        assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_features_are_those_of_the_first_teacher():
    first, second = Counted(drawn(0, (6, 4)), map=drawn(2, (6, 2))), Counted(drawn(1, (6, 4)))
    found = EnsembleTargets([first, second], Ensemble((1.0, 1.0), (1.0, 1.0))).at(batch([1, 2, 3]))
    assert set(found) == {LOGITS, "map"}
    np.testing.assert_allclose(found["map"], first.arrays["map"][1:4], rtol=1e-6)
    assert len(found[LOGITS].outputs) == 2


def test_subset_targets_are_those_of_its_positions():
    whole = Counted(drawn(0, (6, 4)))
    some = SubsetTargets(whole, np.array([4, 2, 0, 5]))
    np.testing.assert_allclose(some.at(batch([0, 3, 1]))[LOGITS], whole.arrays[LOGITS][[4, 5, 2]], rtol=1e-6)
