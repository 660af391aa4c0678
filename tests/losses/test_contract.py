"""The contract of all losses, for each value of their options, and what the contract does not cover."""

from __future__ import annotations

import doctest
import inspect
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

from kdcli import losses
from kdcli.errors import UsageError
from kdcli.loss import Loss
from kdcli.loss_contract.check import CHECKS, check_contract
from kdcli.loss_contract.trial import make_trial
from kdcli.losses import LOSS_KINDS, make

KIND = pytest.mark.parametrize("kind", LOSS_KINDS)
TEMPERED = pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(
            (kind, {})
            for kind, member in LOSS_KINDS.items()
            if "temperature" in member.model_fields and kind != "hint"
        ),
        ("hint", {"distance": "kl"}),
    ],
    ids=str,
)
# Numbers that omit a part of the formula.
MORE = [
    ("decoupled", {"alpha": 0.0}),
    ("decoupled", {"beta": 0.0}),
    ("dist", {"beta": 0.0}),
    ("dist", {"gamma": 0.0}),
    ("multi_level", {"instance_level": 0.0, "class_level": 0.0}),
    ("multi_level", {"instance_level": 0.0, "batch_level": 0.0}),
]
# Choices that refuse some output kinds, with a message that test_output_kinds.py asserts.
REFUSES = {("labels", "cross_entropy"), ("soft_targets", True)}


def variants():
    """Each kind with its defaults, then with each value of its choices."""
    for kind, member in LOSS_KINDS.items():
        yield kind, {}
        for name, field in member.model_fields.items():
            if name in Loss.model_fields:
                continue
            words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            if field.annotation is bool:
                words = (False, True)
            yield from ((kind, {name: word}) for word in words if word != field.default)
    yield from MORE


@pytest.mark.parametrize(("kind", "options"), list(variants()), ids=str)
def test_every_variant_keeps_the_contract(kind, options):
    found = check_contract(make(kind, **options))
    assert [point.name for point in found] == ["runs", *CHECKS]
    failed = {point.name: point.reason for point in found if point.state == "failed"}
    if (kind, *options.values()) in REFUSES:
        assert "needs a classifier" in failed.pop("output kinds")
    assert failed == {}
    # Class variables may exclude a kind from some points, but not from most.
    assert sum(point.state == "passed" for point in found) >= 12


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
    with pytest.raises(ValueError, match="a run adds a projection, a direct call needs equal shapes"):
        loss(student=first["student"], teacher=second["teacher"])


def inputs(shape=(4, 5), *, seed=0):
    """Student, teacher and labels for logits or features of a shape."""
    import tensorflow as tf

    random = np.random.default_rng(seed)
    student, teacher = (tf.constant(random.normal(size=shape), "float32") for _ in range(2))
    return {"student": student, "teacher": teacher, "labels": random.integers(0, shape[-1], shape[:-1])}


def test_standardize_changes_default_weight_and_temperature():
    assert (make("soft_targets").weight, make("soft_targets").temperature) == (0.9, 4.0)
    made = make("soft_targets", standardize=True)
    assert (made.weight, made.temperature) == (9.0, 2.0)
    assert make("soft_targets", standardize=True, temperature=3.0).temperature == 3.0


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match=r"^unknown loss 'soft_target'; did you mean 'soft_targets'\?$") as caught:
        make("soft_target")
    assert caught.value.hint == "kd losses ls"


@KIND
def test_an_unknown_option_is_refused(kind):
    with pytest.raises(UsageError, match="temprature"):
        make(kind, temprature=4.0)


@pytest.mark.parametrize("thing", [*LOSS_KINDS.values(), losses.make], ids=lambda thing: thing.__name__)
def test_the_example_in_the_docstring_runs(thing):
    text = inspect.getdoc(thing)
    example = doctest.DocTestParser().get_doctest(text, {}, thing.__name__, None, 0)
    assert example.examples
    said = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed
    assert failed == 0, "".join(said)


@KIND
def test_every_kind_has_complete_class_variables(kind):
    member = LOSS_KINDS[kind]
    assert member.known_as
    assert member.paper or kind == "labels"
    assert "→" in member.shape_text
    assert member.one_class <= member.needs_labels
    # A loss with a memory or an opponent needs one device: copies would diverge.
    assert member.one_device or not member.keeps


@pytest.mark.parametrize(
    ("kind", "names"),
    [("decoupled", "alpha and beta"), ("dist", "beta and gamma"), ("relational", "distance and angle")],
)
def test_a_loss_that_compares_nothing_is_refused(kind, names):
    with pytest.raises(UsageError, match=f"{kind}: .*{names} are both 0: nothing is compared"):
        make(kind, **dict.fromkeys(names.split(" and "), 0.0))


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_unused_temperature_is_refused(temperature):
    with pytest.raises(UsageError, match=r"hint: .*temperature needs distance: kl"):
        make("hint", temperature=temperature)
    assert make("hint", distance="kl", temperature=temperature).temperature == temperature


@KIND
def test_dumped_loss_is_read_back(kind):
    loss = make(kind)
    for mode in ("python", "json"):
        assert LOSS_KINDS[kind](**loss.model_dump(mode=mode, by_alias=True, exclude_none=True)) == loss


KINDS_OF_LAYERS = [
    kind for kind, member in LOSS_KINDS.items() if not make(kind).on_logits and not member.all_with_all
]


@pytest.mark.parametrize("kind", KINDS_OF_LAYERS)
def test_other_numbers_of_layers_are_refused_by_one_message(kind):
    trial = make_trial(make(kind))
    students = trial.given["student"]
    with pytest.raises(ValueError, match=f"{len(students) + 1} student features but {len(students)} teacher"):
        trial.with_changes(student=[*students, students[-1]]).value()
