"""Classifier reuse: the student is extended by its teacher's classifier before training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdcli.distillation.pairing import pair_layers
from kdcli.errors import ModelError, UsageError
from kdcli.lazy import keras
from kdcli.loss import Loss
from kdcli.losses.classifier_reuse import ClassifierReuse
from kdcli.models.keras.classifier_reuse import graft_classifier
from kdcli.models.keras.network import KerasNetwork
from kdcli.recipe.document import SettingPath
from kdcli.recipe.sections import Recipe
from kdcli.setup.open_models import OpenedModel


def reuse_classifier(
    recipe: Recipe, student: OpenedModel, teacher: OpenedModel
) -> tuple[OpenedModel, tuple[Loss, ...], dict[SettingPath, Any]]:
    """Extend the student by the teacher's classifier, as the recipe's classifier_reuse loss asks.

    Args:
        recipe: with at least one classifier_reuse loss.
        student, teacher: as opened.

    Returns:
        The extended student; the losses, of which classifier_reuse compares the projected map (now a layer of the
        student); and the original layers, for the run's recipe: a resumed run extends its student again.

    Raises:
        UsageError: several such losses, or several pairs of layers.
        ModelError: the student or the teacher is not a Keras model.
    """
    losses = recipe.losses or ()
    found = [(number, loss) for number, loss in enumerate(losses) if isinstance(loss, ClassifierReuse)]
    position, loss = found[0]
    if len(found) > 1:
        raise UsageError("losses: classifier_reuse can be used only once, since a student gets one classifier")
    ours, theirs = student.network, teacher.network
    for role, network in (("student", ours), ("teacher", theirs)):
        if not isinstance(network, KerasNetwork):
            raise ModelError(
                f"losses.{loss.label} joins the student to the teacher's classifier in one Keras model, and the "
                f"{role} ({network.name}) is not a Keras model",
                hint="hint compares the same features and leaves the student unchanged",
            )
    pairs = pair_layers(loss, student=ours, teacher=theirs)
    if len(pairs) > 1:
        raise UsageError(f"losses.{loss.label}: expected one pair of layers (got {len(pairs)})")
    pair = pairs[0]
    keras.utils.set_random_seed(recipe.train.seed)
    projector = loss.projector(ours.taps[pair.student], theirs.taps[pair.teacher])
    network, projected = graft_classifier(
        ours, theirs, projector, student_tap=pair.student, teacher_tap=pair.teacher
    )
    text = f"extended by the teacher's classifier: {ours.parameters:,} → {network.parameters:,} parameters"
    network.notes = (*ours.notes, text)
    named = loss.model_copy(update={"student_layer": projected, "teacher_layer": pair.teacher})
    layers = {"student_layer": [pair.student], "teacher_layer": [pair.teacher]}
    return (
        replace(student, network=network),
        tuple(named if number == position else one for number, one in enumerate(losses)),
        {("losses", position, name): value for name, value in layers.items()},
    )
