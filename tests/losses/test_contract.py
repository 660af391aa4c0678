"""What every loss keeps: one value per example, at least float32, finite, no gradient to the teacher."""

from __future__ import annotations

import doctest
import inspect

import numpy as np
import pytest

from kdcli import losses
from kdcli.errors import UsageError
from kdcli.losses import KINDS, make

SOFT = ("soft_targets", "soft_cross_entropy")
TEMPERED = pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in SOFT), ("hint", {"distance": "kl"})], ids=str
)
KIND = pytest.mark.parametrize("kind", KINDS)
# The kinds whose value is a distance between student and teacher, 0 when they are equal.
DISTANCES = [
    ("soft_targets", {}),
    ("soft_targets", {"standardize": True}),
    ("logit_mse", {}),
    *[("hint", {"distance": distance}) for distance in ("l2", "l1", "cosine", "kl")],
]
VARIANTS = [*DISTANCES, ("soft_cross_entropy", {})]
VARIANTS += [("labels", {"loss": loss}) for loss in ("auto", "mse", "mae", "huber")]
VARIANT = pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=str)


def tensor(array, dtype="float32"):
    import tensorflow as tf

    return tf.cast(tf.constant(array), dtype)


def inputs(shape=(4, 5), dtype="float32", *, size=1.0, seed=0):
    """Student, teacher and labels for logits or features of a shape."""
    random = np.random.default_rng(seed)
    student, teacher = (tensor(size * random.normal(size=shape), dtype) for _ in range(2))
    return {"student": student, "teacher": teacher, "labels": random.integers(0, shape[-1], shape[:-1])}


def gradient(loss, given, of="student"):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(given[of])
        value = loss(**given)
    return value, tape.gradient(value, given[of])


def test_every_kind_has_a_variant_here():
    assert {kind for kind, _ in VARIANTS} == set(KINDS)


@VARIANT
def test_each_example_has_its_own_value(kind, options):
    loss, given = make(kind, **options), inputs()
    whole = loss(**given).numpy()
    assert whole.shape == (4,)
    for row in range(4):
        alone = loss(**{name: value[row : row + 1] for name, value in given.items()})
        assert alone.numpy() == pytest.approx(whole[row : row + 1], rel=1e-5)


@VARIANT
def test_axes_in_the_middle_are_averaged(kind, options):
    loss, given = make(kind, **options), inputs((2, 3, 5))
    steps = [loss(**{name: value[:, step] for name, value in given.items()}).numpy() for step in range(3)]
    assert loss(**given).numpy() == pytest.approx(np.mean(steps, axis=0), rel=1e-5)


@VARIANT
def test_the_value_is_not_negative(kind, options):
    assert (make(kind, **options)(**inputs((64, 5), seed=3)).numpy() > 0).all()


@pytest.mark.parametrize(("kind", "options"), DISTANCES, ids=str)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(kind, options):
    import tensorflow as tf

    given = inputs()
    given["teacher"] = tf.identity(given["student"])
    value, slope = gradient(make(kind, **options), given)
    assert value.numpy() == pytest.approx(np.zeros(4), abs=1e-6)
    assert slope.numpy() == pytest.approx(np.zeros((4, 5)), abs=1e-6)


@VARIANT
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_are_computed_in_float32(kind, options, dtype):
    loss, given = make(kind, **options), inputs(dtype=dtype, size=3.0)
    value, slope = gradient(loss, given)
    assert value.dtype == "float32"
    assert slope.dtype == dtype
    assert np.isfinite(slope.numpy().astype("float32")).all()
    exact = {name: given[name] if name == "labels" else tensor(given[name]) for name in given}
    assert value.numpy() == pytest.approx(loss(**exact).numpy(), rel=1e-6)


@VARIANT
def test_double_precision_stays(kind, options):
    value, slope = gradient(make(kind, **options), inputs(dtype="float64"))
    assert (value.dtype, slope.dtype) == ("float64", "float64")


@VARIANT
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_extreme_inputs_stay_finite(kind, options, dtype):
    rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [0.0, 0.0, 0.0]]
    turned = [row[::-1] for row in rows]
    for student, teacher in ((rows, turned), (turned, rows), (rows, rows)):
        given = {"student": tensor(student, dtype), "teacher": tensor(teacher, dtype), "labels": [0, 1, 2, 0]}
        value, slope = gradient(make(kind, **options), given)
        assert np.isfinite(value.numpy()).all()
        assert np.isfinite(slope.numpy().astype("float32")).all()


@pytest.mark.parametrize("kind", ["labels", *SOFT])
def test_extreme_logits_of_a_sigmoid_head_stay_finite(kind):
    given = {"student": tensor([[1e4, -1e4]]), "teacher": tensor([[-1e4, 1e4]]), "labels": [[0, 1]]}
    value, slope = gradient(lambda **g: make(kind)(**g, output_kind="sigmoid"), given)
    assert value.numpy()[0] > 1e3
    assert np.isfinite(slope.numpy()).all()


@VARIANT
def test_the_teacher_gets_no_gradient(kind, options):
    _, slope = gradient(make(kind, **options), inputs(), of="teacher")
    assert slope is None or not np.asarray(slope).any()


@TEMPERED
@pytest.mark.parametrize(("shape", "early"), [("linear", 3.25), ("cosine", 4 - 3 * (1 - np.cos(np.pi / 4)) / 2)])
def test_a_temperature_may_change_over_training(kind, options, shape, early):
    change = {"from": 4.0, "to": 1.0, "over": 0.5, "shape": shape}
    changing, given = make(kind, temperature=change, **options), inputs()
    for progress, temperature in ((0.0, 4.0), (0.125, early), (0.25, 2.5), (0.5, 1.0), (1.0, 1.0)):
        fixed = make(kind, temperature=temperature, **options)
        found = changing(**given, progress=progress).numpy()
        assert found == pytest.approx(fixed(**given).numpy(), rel=1e-5)


@KIND
@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_weight_may_change_over_training(kind, shape):
    loss = make(kind, weight={"from": 1.0, "to": 0.0, "over": 0.5, "shape": shape})
    found = [float(loss.weight_at(progress)) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-6)
    early = (1 + np.cos(np.pi / 4)) / 2 if shape == "cosine" else 0.75
    assert float(loss.weight_at(0.125)) == pytest.approx(early)


@KIND
def test_warmup_raises_the_weight_from_zero(kind):
    loss = make(kind, weight=2.0, warmup=0.5)
    assert [float(loss.weight_at(progress)) for progress in (0.0, 0.25, 0.5, 1.0)] == [0.0, 1.0, 2.0, 2.0]
    assert make(kind, weight=2.0).weight_at(0.0) == 2.0


@TEMPERED
@pytest.mark.parametrize("temperature", [0.0, -1.0, {"from": 4.0, "to": 0.0}, {"from": 0.0, "to": 4.0}])
def test_a_temperature_of_zero_is_refused(kind, options, temperature):
    with pytest.raises(UsageError, match="temperature"):
        make(kind, temperature=temperature, **options)


def test_several_features_are_summed():
    first, second, loss = inputs((2, 3, 3, 4)), inputs((2, 6), seed=1), make("hint")
    both = {name: [first[name], second[name]] for name in ("student", "teacher")}
    assert loss(**both).numpy() == pytest.approx(loss(**first).numpy() + loss(**second).numpy(), rel=1e-6)
    with pytest.raises(ValueError, match="2 student features but 1 teacher features"):
        loss(student=both["student"], teacher=both["teacher"][:1])
    with pytest.raises(ValueError, match="a run makes a projection, a direct call needs equal shapes"):
        loss(student=first["student"], teacher=second["teacher"])


def test_standardizing_brings_its_own_weight_and_temperature():
    assert (make("soft_targets").weight, make("soft_targets").temperature) == (0.9, 4.0)
    made = make("soft_targets", standardize=True)
    assert (made.weight, made.temperature) == (9.0, 2.0)
    assert make("soft_targets", standardize=True, temperature=3.0).temperature == 3.0


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(
        UsageError, match=r"^unknown loss 'soft_target'; did you mean 'soft_targets'\? known: "
    ) as caught:
        make("soft_target")
    assert caught.value.hint == "kd losses ls"


@KIND
def test_an_unknown_option_is_refused(kind):
    with pytest.raises(UsageError, match="temprature"):
        make(kind, temprature=4.0)


@pytest.mark.parametrize("thing", [*KINDS.values(), losses.make], ids=lambda thing: thing.__name__)
def test_the_example_in_the_docstring_runs(thing):
    text = inspect.getdoc(thing)
    example = doctest.DocTestParser().get_doctest(text, {}, thing.__name__, None, 0)
    assert example.examples
    said = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed
    assert failed == 0, "".join(said)
