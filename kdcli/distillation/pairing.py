"""Which student layer learns from which teacher layer, when the recipe does not say."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.errors import ModelError, UsageError
from kdcli.loss import FeatureLoss
from kdcli.models.network import Network, check_taps


@dataclass(frozen=True)
class Pair:
    """A student tap and a teacher tap, and whether somebody named them."""

    student: str
    teacher: str
    automatic: bool


def pair_layers(loss: FeatureLoss, *, student: Network, teacher: Network) -> tuple[Pair, ...]:
    """The pairs of a feature loss: as named, or the last feature of the highest rank that both have.

    Raises:
        UsageError: a name that is no layer, or different numbers of names.
        ModelError: networks without features of the same rank.
    """
    teachers, students = loss.teacher_layers, loss.student_layers
    check_taps(teacher, teachers, who="teacher", loss=loss.label)
    check_taps(student, students, who="student", loss=loss.label)
    if teachers and students and len(teachers) != len(students):
        raise UsageError(
            f"losses.{loss.label}: {len(teachers)} teacher layers but {len(students)} student layers",
            hint="name as many student_layer as teacher_layer, or leave both out",
        )
    if max(len(teachers), len(students)) > 1 and not (teachers and students):
        missing = "student_layer" if teachers else "teacher_layer"
        raise UsageError(f"losses.{loss.label}: several layers are named, so {missing} must name as many")
    if teachers and students:
        return tuple(Pair(s, t, False) for s, t in zip(students, teachers, strict=True))
    ours = {len(student.taps[students[0]]): students[0]} if students else last_features(student)
    theirs = {len(teacher.taps[teachers[0]]): teachers[0]} if teachers else last_features(teacher)
    for rank in (3, 2, 1):
        if rank in ours and rank in theirs:
            return (Pair(ours[rank], theirs[rank], True),)
    raise ModelError(
        f"losses.{loss.label}: the student has features of {_ranks(ours)}, the teacher of {_ranks(theirs)}",
        hint="name a teacher_layer and a student_layer",
    )


def last_features(network: Network) -> dict[int, str]:
    """The last feature by its number of axes: maps (3) and sequences (2) before pooling, vectors (1) of any kind.

    What makes the output is left out, the logits before a softmax too.
    """
    found: dict[int, str] = {}
    for name, shape in network.taps.items():
        rank = len(shape)
        point = rank > 1 and all(side == 1 for side in shape[:-1])
        logits = rank == 1 and shape == (network.outputs,)
        if not (name in network.secondary or point or logits):
            found[rank] = name
    return found


def _ranks(found: dict[int, str]) -> str:
    words = {3: "maps", 2: "sequences", 1: "vectors"}
    return ", ".join(words[rank] for rank in found if rank in words) or "no kind"
