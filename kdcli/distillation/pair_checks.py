"""Pairs of layers that a kind cannot compare are refused before anything is built for them."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.distillation.stage_ends import Feature
from kdcli.errors import ModelError
from kdcli.loss import FeatureLoss, Shape

_NAMES = {3: "maps (h, w, channels)", 2: "sequences (steps, channels)", 1: "vectors (channels)"}
_SCORES = {3: "attention scores (heads, queries, keys)"}


def check_shapes(loss: FeatureLoss, student: Shape, teacher: Shape, *, pair: str) -> None:
    """Refuse features of unknown size, with other axes than the kind takes, or of sizes that must be equal.

    Args:
        loss: the kind.
        student, teacher: shapes without the batch axis.
        pair: what messages call the two.

    Raises:
        ModelError: naming the shapes.
    """
    names = _SCORES if loss.attention_scores else _NAMES
    for role, shape in (("student", student), ("teacher", teacher)):
        if len(shape) not in loss.axes and not (role == "student" and loss.projects):
            wanted = " or ".join(names[rank] for rank in loss.axes if rank in names)
            raise ModelError(
                f"{pair}: the {role}'s feature has {len(shape)} axes beside the batch, {shape}; "
                f"{loss.kind} compares {wanted}",
                hint=f"name another {role}_layer (kd inspect lists them), or leave both out",
            )
    if None in (student[-1], teacher[-1]) or (None in (*student, *teacher) and student != teacher):
        raise ModelError(
            f"{pair}: features of {student} and {teacher}: the size is not known before the data flows",
            hint="name layers of fixed shape, or save the model with a fixed input shape",
        )
    if not loss.projects and not fitting(loss, student, teacher):
        raise ModelError(
            f"{pair}: features of {student} and {teacher}; {loss.kind} needs equal {_equal(loss)}",
            hint="name layers that are equal there; hint projects the student's feature to the teacher's shape",
        )


def fitting(loss: FeatureLoss, student: Shape, teacher: Shape) -> bool:
    """Whether what the kind needs `equal` is equal; of attention scores the numbers of heads may differ."""
    channels = "channels" not in loss.equal or student[-1] == teacher[-1]
    begin = 1 if loss.attention_scores else 0
    return channels and ("space" not in loss.equal or student[begin:-1] == teacher[begin:-1])


def too_few(loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature], *, found: int) -> ModelError:
    """The refusal of networks in which not enough pairs are found."""
    equal = f" of equal {_equal(loss)}" if loss.equal else ""
    own, other = (", ".join("×".join(map(str, stage.shape)) for stage in side) for side in (ours, theirs))
    return ModelError(
        f"losses.{loss.label}: {loss.kind} needs {loss.least_pairs} pair{'s' * (loss.least_pairs > 1)} of layers"
        f"{equal}, {found} found: the student has {own}, the teacher {other}",
        hint=_instead(loss, ours, theirs),
    )


def _instead(loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature]) -> str:
    """What can be done: naming layers only where some of the two sides can be compared."""
    if loss.projects or any(fitting(loss, one.shape, other.shape) for one in ours for other in theirs):
        return "name layers in teacher_layer and student_layer; hint projects whatever their shapes"
    return (
        f"these networks have no layers of equal {_equal(loss)} where kd looks: build the student with some of "
        "the teacher's sizes, or take a kind that needs none equal, such as hint or attention_transfer"
    )


def _equal(loss: FeatureLoss) -> str:
    if loss.attention_scores:
        return "queries and keys"
    return " and ".join({"channels": "channels", "space": "height and width, or steps"}[one] for one in loss.equal)
