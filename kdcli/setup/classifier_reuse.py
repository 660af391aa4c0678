"""Classifier reuse: before training the student is grown into its teacher's classifier."""

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
    """Extend the student by the teacher's classifier, as a loss of the recipe says.

    Returns:
        The student, the losses (the term compares the projected map, which is a layer of the student now), and the
        layers as the run's recipe names them: a run that is continued extends its student again.

    Raises:
        UsageError: several such terms, or several pairs of layers.
        ModelError: a side that is no Keras model whose layers are known as a graph.
    """
    losses = recipe.losses or ()
    places = [number for number, loss in enumerate(losses) if isinstance(loss, ClassifierReuse)]
    loss: Any = losses[places[0]]
    if len(places) > 1:
        raise UsageError("two losses are classifier_reuse: a student goes on into one classifier")
    ours, theirs = student.network, teacher.network
    for role, network in (("student", ours), ("teacher", theirs)):
        if not isinstance(network, KerasNetwork):
            raise ModelError(
                f"losses.{loss.label} joins the student and the teacher's classifier in one Keras model, and the "
                f"{role} ({network.name}) is none",
                hint="hint compares the same features and leaves the student as it is",
            )
    pairs = pair_layers(loss, student=ours, teacher=theirs)
    if len(pairs) > 1:
        raise UsageError(f"losses.{loss.label}: takes one pair of layers, got {len(pairs)}")
    pair = pairs[0]
    keras.utils.set_random_seed(recipe.train.seed)
    projector = loss.projector(ours.taps[pair.student], theirs.taps[pair.teacher])
    network, projected = graft_classifier(
        ours, theirs, projector, student_tap=pair.student, teacher_tap=pair.teacher
    )
    text = f"grown into the teacher's classifier: {ours.parameters:,} → {network.parameters:,} weights"
    network.notes = (*ours.notes, text)
    named = loss.model_copy(update={"student_layer": projected, "teacher_layer": pair.teacher})
    layers = {"student_layer": [pair.student], "teacher_layer": [pair.teacher]}
    return (
        replace(student, network=network),
        tuple(named if number == places[0] else one for number, one in enumerate(losses)),
        {("losses", places[0], name): value for name, value in layers.items()},
    )
