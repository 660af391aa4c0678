"""The points of the losses' contract that concern what a kind says it takes: shapes, heads, labels, schedules."""

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
    """Maps, sequences and vectors as `axes` says; where nothing need be equal, another size and other channels."""
    loss = trial.loss
    if loss.on_logits or not isinstance(loss, FeatureLoss):
        raise NotApplicable("the kind compares outputs")
    for axes in loss.axes:
        shapes = default_shapes(loss, axes)
        others = {shapes}
        if not loss.projects and "channels" not in loss.equal:
            others.add(tuple((*shape[:-1], 4) for shape in shapes))
        if not loss.projects and axes == 3 and "space" not in loss.equal:
            others |= {tuple((s[0] + 1, s[1] + 2, s[2]) for s in shapes), tuple((3, 2, s[2]) for s in shapes)}
        for student in sorted(others):
            met = f"student {student} with teacher {shapes}"
            try:
                value = make_trial(loss, student=student, teacher=shapes).value()
            # The formula is somebody's own: it may raise anything.
            except Exception as error:
                raise ContractViolation(f"{met}: {describe_error(error)}") from error
            if not np.isfinite(value).all():
                raise ContractViolation(f"{met}: {format_value(value)}")


def check_output_kinds(trial: Trial) -> None:
    """Logits of classes, chances of their own (`sigmoid`) and values, as `heads` says."""
    if not trial.loss.on_logits:
        raise NotApplicable("the kind compares features")
    for head in trial.loss.output_kinds:
        labels = make_labels(head, trial.given["teacher"])
        value = trial.with_changes(labels=labels, output_kind=head).value()
        if value.shape.rank != (0 if trial.loss.whole_batch else 1) or not np.isfinite(value).all():
            raise ContractViolation(f"a head of {head} gives {format_value(value)}")


def check_mixed_labels(trial: Trial) -> None:
    """Mixed labels are shares of the classes: compared, or refused by a kind that needs one class an example."""
    loss = trial.loss
    if not loss.needs_labels:
        raise NotApplicable("the kind needs no labels")
    if "logits" not in loss.output_kinds:
        raise NotApplicable("the kind knows no classes")
    classes = trial.given["student"].shape[-1] if loss.on_logits else CLASSES
    mixed = trial.with_changes(labels=tf.one_hot(trial.given["labels"], classes) * 0.8 + 0.2 / classes)
    if not loss.one_class:
        if not np.isfinite(mixed.value()).all():
            raise ContractViolation(f"mixed labels give {format_value(mixed.value())}")
        return
    try:
        mixed.value()
    except ValueError:
        return
    raise ContractViolation("one_class says that mixed labels are refused, with a ValueError; they are not")


def check_schedules(trial: Trial) -> None:
    """The weight rises by `warmup` and changes as a `Change` says; so does a temperature where there is one."""
    loss = trial.loss.model_copy(update={"weight": Change(start=2.0, to=1.0, over=0.5), "warmup": 0.25})
    found = [float(loss.weight_at(progress)) for progress in (0.0, 0.125, 0.25, 0.5, 1.0)]
    if not np.allclose(found, [0.0, 0.875, 1.5, 1.0, 1.0]):
        raise ContractViolation(f"a weight from 2 to 1 with a warm-up has the values {found}")
    for name in set(type(loss).model_fields) - set(Loss.model_fields):
        _follows(trial, name)


def _follows(trial: Trial, name: str) -> None:
    kind, settings = type(trial.loss), trial.loss.model_dump(by_alias=True, exclude_unset=True)
    try:
        changing = kind(**{**settings, name: {"from": 3.0, "to": 1.5, "over": 0.5}})
        early, late = (kind(**{**settings, name: value}) for value in (3.0, 1.5))
    except ValueError:
        # No option that can change, or not one with these settings.
        return
    for progress, fixed in ((0.0, early), (0.5, late), (1.0, late)):
        found = trial.with_changes(loss=changing, progress=progress).value()
        require_equal(found, trial.with_changes(loss=fixed).value(), f"{name} does not change over training")
    # An option of the parts may show later than in this value.
    alike = np.array_equal(trial.with_changes(loss=early).value(), trial.with_changes(loss=late).value())
    if alike and not trial.loss.has_parts:
        raise ContractViolation(f"{name} is accepted and has no effect")
