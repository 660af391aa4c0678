"""Checks of what a loss says it accepts: feature shapes, output kinds, labels, schedules."""

from __future__ import annotations

import numpy as np

from kdcli.lazy import tf
from kdcli.loss import FeatureLoss, Loss
from kdcli.loss_contract.outcome import (
    ContractViolation,
    NotApplicable,
    describe_error,
    format_value,
    require_equal,
)
from kdcli.loss_contract.trial import CLASSES, Trial, default_shapes, make_labels, make_trial
from kdcli.spec import Change


def check_feature_shapes(trial: Trial) -> None:
    """A loss accepts the numbers of axes in `axes`, and different sizes and channels unless they must be equal."""
    loss = trial.loss
    if loss.on_logits or not isinstance(loss, FeatureLoss):
        raise NotApplicable("the kind compares outputs, not features")
    for axes in loss.axes:
        shapes = default_shapes(loss, axes)
        others = {shapes}
        if not loss.projects and "channels" not in loss.equal:
            others.add(tuple((*shape[:-1], 4) for shape in shapes))
        if not loss.projects and axes == 3 and "space" not in loss.equal:
            others |= {tuple((s[0] + 1, s[1] + 2, s[2]) for s in shapes), tuple((3, 2, s[2]) for s in shapes)}
        for student in sorted(others):
            shown = f"student {student} with teacher {shapes}"
            try:
                value = make_trial(loss, student=student, teacher=shapes).value()
            # The formula may be custom code, which can raise anything.
            except Exception as error:
                raise ContractViolation(f"{shown}: {describe_error(error)}") from error
            if not np.isfinite(value).all():
                raise ContractViolation(f"{shown}: {format_value(value)}")


def check_accepted_output_kinds(trial: Trial) -> None:
    """A loss accepts the output kinds in `output_kinds`: `logits`, `sigmoid`, `values`."""
    if not trial.loss.on_logits:
        raise NotApplicable("the kind compares features, not outputs")
    for output_kind in trial.loss.output_kinds:
        labels = make_labels(output_kind, trial.given["teacher"])
        value = trial.with_changes(labels=labels, output_kind=output_kind).value()
        if value.shape.rank != (0 if trial.loss.whole_batch else 1) or not np.isfinite(value).all():
            raise ContractViolation(f"output kind {output_kind}: the value is {format_value(value)}")


def check_mixed_labels(trial: Trial) -> None:
    """A loss accepts mixed labels, which are rows of probabilities, or refuses them if `one_class` is set."""
    loss = trial.loss
    if not loss.needs_labels:
        raise NotApplicable("the kind needs no labels")
    if "logits" not in loss.output_kinds:
        raise NotApplicable("the kind is not for classes")
    classes = trial.given["student"].shape[-1] if loss.on_logits else CLASSES
    mixed = trial.with_changes(labels=tf.one_hot(trial.given["labels"], classes) * 0.8 + 0.2 / classes)
    if not loss.one_class:
        if not np.isfinite(mixed.value()).all():
            raise ContractViolation(f"mixed labels: the value is {format_value(mixed.value())}")
        return
    try:
        mixed.value()
    except ValueError:
        return
    raise ContractViolation("one_class is set, but mixed labels do not raise a ValueError")


def check_schedules(trial: Trial) -> None:
    """The weight follows its warm-up and schedule, and so does every other setting that can change."""
    loss = trial.loss.model_copy(update={"weight": Change(start=2.0, to=1.0, over=0.5), "warmup": 0.25})
    found = [float(loss.weight_at(progress)) for progress in (0.0, 0.125, 0.25, 0.5, 1.0)]
    if not np.allclose(found, [0.0, 0.875, 1.5, 1.0, 1.0]):
        raise ContractViolation(f"a weight from 2 to 1 with a warm-up takes the values {found}")
    for name in set(type(loss).model_fields) - set(Loss.model_fields):
        _check_schedule(trial, name)


def _check_schedule(trial: Trial, name: str) -> None:
    kind, settings = type(trial.loss), trial.loss.model_dump(by_alias=True, exclude_unset=True)
    try:
        changing = kind(**{**settings, name: {"from": 3.0, "to": 1.5, "over": 0.5}})
        early, late = (kind(**{**settings, name: value}) for value in (3.0, 1.5))
    except ValueError:
        # Not a setting that can change, or not together with the other settings.
        return
    for progress, fixed in ((0.0, early), (0.5, late), (1.0, late)):
        found = trial.with_changes(loss=changing, progress=progress).value()
        require_equal(found, trial.with_changes(loss=fixed).value(), f"{name} does not change over training")
    # A setting of the parts may not affect this value.
    equal = np.array_equal(trial.with_changes(loss=early).value(), trial.with_changes(loss=late).value())
    if equal and not trial.loss.has_parts:
        raise ContractViolation(f"{name} is accepted, but has no effect")
