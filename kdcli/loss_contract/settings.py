"""The points of the losses' contract that concern what a kind says it takes: shapes, heads, labels, schedules."""

from __future__ import annotations

import numpy as np

from kdcli.lazy import tf
from kdcli.loss import FeatureLoss, Loss
from kdcli.loss_contract.outcome import Broken, Skipped, said, same, shown
from kdcli.loss_contract.trial import CLASSES, Trial, labels_of, try_out, usual_shapes
from kdcli.spec import Change


def takes_the_shapes_it_names(trial: Trial) -> None:
    """Maps, sequences and vectors as `axes` says; where nothing need be equal, another size and other channels."""
    loss = trial.loss
    if loss.on_logits or not isinstance(loss, FeatureLoss):
        raise Skipped("the kind compares outputs")
    for axes in loss.axes:
        shapes = usual_shapes(loss, axes)
        others = {shapes}
        if not loss.projects and "channels" not in loss.equal:
            others.add(tuple((*shape[:-1], 4) for shape in shapes))
        if not loss.projects and axes == 3 and "space" not in loss.equal:
            others |= {tuple((s[0] + 1, s[1] + 2, s[2]) for s in shapes), tuple((3, 2, s[2]) for s in shapes)}
        for student in sorted(others):
            met = f"student {student} with teacher {shapes}"
            try:
                value = try_out(loss, student=student, teacher=shapes).value()
            # The formula is somebody's own: it may raise anything.
            except Exception as error:
                raise Broken(f"{met}: {said(error)}") from error
            if not np.isfinite(value).all():
                raise Broken(f"{met}: {shown(value)}")


def takes_the_heads_it_names(trial: Trial) -> None:
    """Logits of classes, chances of their own (`sigmoid`) and values, as `heads` says."""
    if not trial.loss.on_logits:
        raise Skipped("the kind compares features")
    for head in trial.loss.heads:
        labels = labels_of(head, trial.given["teacher"])
        value = trial.but(labels=labels, output_kind=head).value()
        if value.shape.rank != (0 if trial.loss.whole_batch else 1) or not np.isfinite(value).all():
            raise Broken(f"a head of {head} gives {shown(value)}")


def takes_the_labels_it_names(trial: Trial) -> None:
    """Mixed labels are shares of the classes: compared, or refused by a kind that needs one class an example."""
    loss = trial.loss
    if not loss.needs_labels:
        raise Skipped("the kind needs no labels")
    if "logits" not in loss.heads:
        raise Skipped("the kind knows no classes")
    classes = trial.given["student"].shape[-1] if loss.on_logits else CLASSES
    mixed = trial.but(labels=tf.one_hot(trial.given["labels"], classes) * 0.8 + 0.2 / classes)
    if not loss.one_class:
        if not np.isfinite(mixed.value()).all():
            raise Broken(f"mixed labels give {shown(mixed.value())}")
        return
    try:
        mixed.value()
    except ValueError:
        return
    raise Broken("one_class says that mixed labels are refused, with a ValueError; they are not")


def follows_schedules(trial: Trial) -> None:
    """The weight rises by `warmup` and changes as a `Change` says; so does a temperature where there is one."""
    loss = trial.loss.model_copy(update={"weight": Change(start=2.0, to=1.0, over=0.5), "warmup": 0.25})
    found = [float(loss.weight_at(progress)) for progress in (0.0, 0.125, 0.25, 0.5, 1.0)]
    if not np.allclose(found, [0.0, 0.875, 1.5, 1.0, 1.0]):
        raise Broken(f"a weight from 2 to 1 with a warm-up has the values {found}")
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
        found = trial.but(loss=changing, progress=progress).value()
        same(found, trial.but(loss=fixed).value(), f"{name} does not change over training")
    # An option of the parts may show later than in this value.
    alike = np.array_equal(trial.but(loss=early).value(), trial.but(loss=late).value())
    if alike and not trial.loss.owns_parts:
        raise Broken(f"{name} is accepted and has no effect")
