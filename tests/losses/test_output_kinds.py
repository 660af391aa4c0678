"""Losses on sigmoid outputs, on values, and with labels in their several forms."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pytest

from kdcli.loss import Loss
from kdcli.losses import make


def tensor(array):
    import tensorflow as tf

    return tf.constant(array, "float32")


def inputs(shape=(4, 5)):
    random = np.random.default_rng(0)
    student, teacher = (tensor(random.normal(size=shape)) for _ in range(2))
    return {"student": student, "teacher": teacher, "labels": random.integers(0, shape[-1], shape[:-1])}


def test_sigmoid_outputs_are_compared_one_by_one():
    given = inputs()
    truth = tensor(np.eye(5)[given["labels"]])
    p, q = (1 / (1 + np.exp(-given[name].numpy() / 2)) for name in ("student", "teacher"))
    cross = -(q * np.log(p) + (1 - q) * np.log(1 - p))
    entropy = -(q * np.log(q) + (1 - q) * np.log(1 - q))
    found = make("soft_targets", temperature=2.0)(**given, output_kind="sigmoid")
    assert found.numpy() == pytest.approx(4 * (cross - entropy).mean(-1), rel=1e-4)
    found = make("soft_cross_entropy", temperature=2.0)(**given, output_kind="sigmoid")
    assert found.numpy() == pytest.approx(4 * cross.mean(-1), rel=1e-5)
    probability = 1 / (1 + np.exp(-given["student"].numpy()))
    binary = -(truth * np.log(probability) + (1 - truth) * np.log(1 - probability))
    found = make("labels")(student=given["student"], labels=truth, output_kind="sigmoid")
    assert found.numpy() == pytest.approx(np.mean(binary, axis=-1), rel=1e-5)


@pytest.mark.parametrize(("loss", "expected"), [("auto", 4.625), ("mse", 4.625), ("mae", 1.75), ("huber", 1.3125)])
def test_values_are_compared_without_an_activation(loss, expected):
    given = {"student": tensor([[3.0, 1.0]]), "labels": [[0.0, 0.5]]}
    made = make("labels", loss=loss)
    assert made(**given, output_kind="values").numpy() == pytest.approx([expected])
    assert make("soft_targets")(student=[[3.0]], teacher=[[1.0]], output_kind="values").numpy() == [4.0]


@pytest.mark.parametrize(("kind", "options"), [("labels", {"loss": "cross_entropy"}), ("soft_cross_entropy", {})])
def test_cross_entropy_refuses_values(kind, options):
    with pytest.raises(ValueError, match="needs a classifier, not an output of values"):
        make(kind, **options)(**inputs(), output_kind="values")


@pytest.mark.parametrize("output_kind", ["sigmoid", "values"])
def test_standardize_refuses_other_outputs_than_class_logits(output_kind):
    message = rf"soft_targets: standardize needs a classifier with logits \(got {output_kind}\)"
    with pytest.raises(ValueError, match=message):
        make("soft_targets", standardize=True)(**inputs(), output_kind=output_kind)


@pytest.mark.parametrize("loss", ["auto", "mse", "mae", "huber"])
@pytest.mark.parametrize("output_kind", ["logits", "sigmoid", "values"])
def test_labels_get_no_gradient(loss, output_kind):
    import tensorflow as tf

    student, labels = inputs()["student"], tensor(np.full((4, 5), 0.2))
    with tf.GradientTape() as tape:
        tape.watch(labels)
        value = make("labels", loss=loss)(student=student, labels=labels, output_kind=output_kind)
    assert tape.gradient(value, labels) is None


@pytest.mark.parametrize("loss", ["auto", "mse", "mae", "huber"])
def test_labels_as_numbers_and_one_hot_are_the_same(loss):
    given = inputs((4, 3, 5))
    one_hot = np.eye(5)[given["labels"]]
    made = make("labels", loss=loss)
    found = made(student=given["student"], labels=one_hot).numpy()
    assert found == pytest.approx(made(student=given["student"], labels=given["labels"]).numpy(), rel=1e-6)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    given, made = inputs(), make("labels")
    smooth = np.eye(5)[given["labels"]] * 0.8 + 0.2 / 5
    found = made(**given, label_smoothing=0.2).numpy()
    assert found == pytest.approx(made(student=given["student"], labels=smooth).numpy(), rel=1e-6)
    binary = made(student=given["student"], labels=np.ones((4, 5)), output_kind="sigmoid", label_smoothing=0.2)
    soft = made(student=given["student"], labels=np.full((4, 5), 0.9), output_kind="sigmoid")
    assert binary.numpy() == pytest.approx(soft.numpy(), rel=1e-6)


@pytest.mark.parametrize("kind", ["labels", "soft_targets", "soft_cross_entropy"])
def test_extreme_sigmoid_logits_stay_finite(kind):
    import tensorflow as tf

    student = tensor([[1e4, -1e4]])
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = make(kind)(student=student, teacher=-student, labels=[[0, 1]], output_kind="sigmoid")
    assert value.numpy()[0] > 1e3
    assert np.isfinite(tape.gradient(value, student).numpy()).all()


def test_former_names_of_class_variables_are_accepted_with_a_warning():
    with pytest.warns(
        FutureWarning, match=r"Former\.(heads|works_on) is now (output_kinds|accepted_output_kinds)"
    ) as seen:

        class Former(Loss):
            heads: ClassVar[tuple[str, ...]] = ("logits", "values")

            kind: Literal["former"] = "former"

            @property
            def works_on(self):
                return ("values",)

    assert len(seen) == 2
    assert (Former.output_kinds, Former().accepted_output_kinds) == (("logits", "values"), ("values",))
    assert Loss.output_kinds == ("logits",)
