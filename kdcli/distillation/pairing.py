"""Which student layer learns from which teacher layer, when the recipe does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdcli.distillation.network_stages import (
    Feature,
    align_stages,
    find_last_features,
    find_stage_ends,
    pair_evenly,
)
from kdcli.distillation.projection import can_project
from kdcli.errors import ModelError
from kdcli.loss import FEATURE_NAMES, FeatureLoss, Shape
from kdcli.models.network import Network, check_taps

MAX_PAIRS = 4
# Axes beside the batch of student and teacher where a projection is made, the best first.
_PROJECTED = ((3, 3), (2, 2), (3, 2), (2, 3), (1, 1), (3, 1), (2, 1))

Features = dict[int, tuple[Feature, ...]]


@dataclass(frozen=True)
class Pair:
    """A student tap and a teacher tap, whether kd chose one of them, and why that one."""

    student: str
    teacher: str
    automatic: bool
    why: str | None = field(default=None, compare=False)


def pair_layers(loss: FeatureLoss, *, student: Network, teacher: Network) -> tuple[Pair, ...]:
    """The pairs of a feature loss: as named, or chosen as the kind's `pairing` says.

    `last` is the last feature of the highest rank that both have; `several` are at most 4 pairs by relative depth
    and size.

    Raises:
        UsageError: a name that is no layer.
        ModelError: networks without features that the kind can compare.
    """
    teachers, students = loss.teacher_layers, loss.student_layers
    check_taps(teacher, teachers, role="teacher", loss=loss.label)
    check_taps(student, students, role="student", loss=loss.label)
    if teachers and students:
        pairs = tuple(Pair(s, t, False) for s, t in zip(students, teachers, strict=True))
    else:
        ours = _named(student, students[0]) if students else _found(loss, student)
        theirs = _named(teacher, teachers[0]) if teachers else _found(loss, teacher)
        found, how = _chosen(loss, ours, theirs)
        how = how.format("the student" if teachers else "the teacher" if students else "both")
        pairs = tuple(Pair(one.tap, other.tap, True, f"{how} ({_sizes(one, other)})") for one, other in found)
    for pair in pairs:
        name = f"losses.{loss.label}: {pair.student} → {pair.teacher}"
        check_shapes(loss, student.taps[pair.student], teacher.taps[pair.teacher], pair=name)
    return pairs


def _named(network: Network, tap: str) -> Features:
    return {len(network.taps[tap]): (Feature(tap, network.taps[tap], 1.0),)}


def _found(loss: FeatureLoss, network: Network) -> Features:
    if loss.pairing == "several" or loss.least_pairs > 1:
        return find_stage_ends(network, loss)
    return {rank: (stage,) for rank, stage in find_last_features(network, loss).items()}


def _sizes(one: Feature, other: Feature) -> str:
    """The shapes of a student's and a teacher's feature."""
    return ", ".join("×".join("any" if n is None else str(n) for n in side.shape) for side in (one, other))


def _chosen(loss: FeatureLoss, ours: Features, theirs: Features) -> tuple[Sequence[tuple[Feature, Feature]], str]:
    """The pairs, and how they were chosen, with a place for whose features they are."""
    common, most = [], 0
    for own, other in _PROJECTED if loss.projects else [(rank, rank) for rank in loss.axes]:
        if own in ours and other in theirs and other in loss.axes and (loss.projects or own in loss.axes):
            common.append((ours[own], theirs[other]))
            found, how = _matched(loss, ours[own], theirs[other])
            if found and len(found) >= loss.least_pairs:
                return found, how
            most = max(most, len(found))
    if common:
        raise _too_few_pairs(loss, *common[0], found=most)
    if loss.attention_scores:
        without = " and the ".join(role for role, has in (("student", ours), ("teacher", theirs)) if 3 not in has)
        raise ModelError(
            f"losses.{loss.label}: {loss.kind} compares attention scores (heads, queries, keys), "
            f"and kd finds none in the {without}",
            hint="a MultiHeadAttention has them, as NAME/scores in kd inspect; for other networks kd losses ls",
        )
    takes = " or ".join(FEATURE_NAMES[rank] for rank in loss.axes if rank in FEATURE_NAMES)
    only = f"; {loss.kind} compares {takes}" if loss.axes != FeatureLoss.axes else ""
    raise ModelError(
        f"losses.{loss.label}: the student has features of {_ranks(ours)}, the teacher of {_ranks(theirs)}{only}",
        hint="name a teacher_layer and a student_layer",
    )


def _matched(
    loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature]
) -> tuple[Sequence[tuple[Feature, Feature]], str]:
    def fits(one: Feature, other: Feature) -> bool:
        become = not loss.projects or can_project(one.shape, other.shape)
        return become and sizes_match(loss, one.shape, other.shape)

    kind = "attention scores" if loss.attention_scores else FEATURE_NAMES.get(len(ours[0].shape), "features")
    how = f"the last {kind} of {{}}"
    # Blocks of one size, and vectors, have no sizes to go by.
    if len({stage.shape[:-1] for stage in ours}) == len({stage.shape[:-1] for stage in theirs}) == 1:
        pairs = pair_evenly(ours, theirs, MAX_PAIRS)
        how = how if len(ours) == len(theirs) == 1 else f"{kind} of {{}} at equal relative depth"
        return (pairs if all(fits(*pair) for pair in pairs) else ()), how
    if len(ours) > 1 or len(theirs) > 1:
        how = f"{kind} at the ends of stages of {{}}, nearest in size"
    return align_stages(ours, theirs, fits)[-MAX_PAIRS:], how


def _ranks(found: Features) -> str:
    return ", ".join(FEATURE_NAMES[rank] for rank in found if rank in FEATURE_NAMES) or "no kind"


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
    if not loss.projects and not sizes_match(loss, student, teacher):
        raise ModelError(
            f"{pair}: features of {student} and {teacher}; {loss.kind} needs equal {_equal(loss)}",
            hint="name layers that are equal there; hint projects the student's feature to the teacher's shape",
        )


def sizes_match(loss: FeatureLoss, student: Shape, teacher: Shape) -> bool:
    """Whether what the kind needs `equal` is equal; of attention scores the numbers of heads may differ."""
    channels = "channels" not in loss.equal or student[-1] == teacher[-1]
    begin = 1 if loss.attention_scores else 0
    return channels and ("space" not in loss.equal or student[begin:-1] == teacher[begin:-1])


def _too_few_pairs(
    loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature], *, found: int
) -> ModelError:
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
    if loss.projects or any(sizes_match(loss, one.shape, other.shape) for one in ours for other in theirs):
        return "name layers in teacher_layer and student_layer; hint projects whatever their shapes"
    return (
        f"these networks have no layers of equal {_equal(loss)} where kd looks: build the student with some of "
        "the teacher's sizes, or take a kind that needs none equal, such as hint or attention_transfer"
    )


def _equal(loss: FeatureLoss) -> str:
    if loss.attention_scores:
        return "queries and keys"
    return " and ".join({"channels": "channels", "space": "height and width, or steps"}[one] for one in loss.equal)
