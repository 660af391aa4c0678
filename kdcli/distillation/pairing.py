"""Which student layer learns from which teacher layer, when the recipe does not say."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.errors import ModelError, UsageError
from kdcli.models.network import Network, check_taps
from kdcli.spec import FeatureLoss


@dataclass(frozen=True)
class Pair:
    """A student tap and a teacher tap, and whether somebody named them."""

    student: str
    teacher: str
    automatic: bool


def pair_layers(loss: FeatureLoss, *, student: Network, teacher: Network) -> tuple[Pair, ...]:
    """The pairs of a feature loss: as named, or the last feature map before pooling on both sides.

    Raises:
        ModelError: a name that is no layer, or a network without a feature to pair.
        UsageError: different numbers of names.
    """
    teachers, students = loss.teacher_layers, loss.student_layers
    check_taps(teacher, teachers, who="teacher")
    check_taps(student, students, who="student")
    if teachers and students and len(teachers) != len(students):
        raise UsageError(
            f"losses.{loss.label}: {len(teachers)} teacher layers but {len(students)} student layers",
            hint="name as many student_layer as teacher_layer, or leave both out",
        )
    count = max(len(teachers), len(students), 1)
    if count > 1 and not (teachers and students):
        missing = "student_layer" if teachers else "teacher_layer"
        raise UsageError(f"losses.{loss.label}: several layers are named, so {missing} must name as many")
    teachers = teachers or (last_feature(teacher, who="teacher"),)
    students = students or (last_feature(student, who="student"),)
    automatic = not (loss.teacher_layers and loss.student_layers)
    return tuple(Pair(s, t, automatic) for s, t in zip(students, teachers, strict=True))


def last_feature(network: Network, *, who: str) -> str:
    """The last feature map before pooling; without maps, the last feature before the output.

    Raises:
        ModelError: the network has no inner tensor.
    """
    names = [name for name in network.taps if name not in network.reducing]
    for rank in (3, 2, 1):
        fitting = [name for name in names if len(network.taps[name]) == rank and _has_extent(network.taps[name])]
        fitting = [name for name in fitting if rank > 1 or name not in network.closing]
        if fitting:
            return fitting[-1]
    raise ModelError(f"the {who} ({network.name}) has no inner feature to pair", hint=f"name a {who}_layer")


def _has_extent(shape: tuple[int | None, ...]) -> bool:
    return len(shape) == 1 or any(side != 1 for side in shape[:-1])
