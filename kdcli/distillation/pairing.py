"""Pairs of student and teacher layers, as the recipe names them or chosen automatically."""

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
from kdcli.loss import FEATURE_NAMES, FeatureLoss
from kdcli.models.network import Network, check_taps
from kdcli.tensors import Shape

MAX_PAIRS = 4
# Ranks of student and teacher features between which a projection is made, the best first.
_PROJECTED = ((3, 3), (2, 2), (3, 2), (2, 3), (1, 1), (3, 1), (2, 1))

Features = dict[int, tuple[Feature, ...]]


@dataclass(frozen=True)
class Pair:
    """A student tap and a teacher tap, whether kd chose one of them, and the reason for the choice."""

    student: str
    teacher: str
    automatic: bool
    why: str | None = field(default=None, compare=False)


def pair_layers(loss: FeatureLoss, *, student: Network, teacher: Network) -> tuple[Pair, ...]:
    """Pair the layers of a feature loss, as named or as the kind's `pairing` requires.

    `last` is the last feature of the highest rank that both networks have; `several` are at most 4 pairs by
    relative depth and size.

    Raises:
        UsageError: a named layer does not exist.
        ModelError: the networks have no features that the kind can compare.
    """
    teachers, students = loss.teacher_layers, loss.student_layers
    check_taps(teacher, teachers, role="teacher", loss=loss.label)
    check_taps(student, students, role="student", loss=loss.label)
    if teachers and students:
        pairs = tuple(Pair(s, t, automatic=False) for s, t in zip(students, teachers, strict=True))
    else:
        ours = _use_named(student, students[0]) if students else _find_features(loss, student)
        theirs = _use_named(teacher, teachers[0]) if teachers else _find_features(loss, teacher)
        found, how = _choose_pairs(loss, ours, theirs)
        how = how.format("the student" if teachers else "the teacher" if students else "both")
        pairs = tuple(
            Pair(one.tap, other.tap, automatic=True, why=f"{how} ({_sizes(one, other)})") for one, other in found
        )
    for pair in pairs:
        name = f"losses.{loss.label}: {pair.student} → {pair.teacher}"
        check_shapes(loss, student.taps[pair.student], teacher.taps[pair.teacher], pair=name)
    return pairs


def _use_named(network: Network, tap: str) -> Features:
    return {len(network.taps[tap]): (Feature(tap, network.taps[tap], 1.0),)}


def _find_features(loss: FeatureLoss, network: Network) -> Features:
    if loss.pairing == "several" or loss.least_pairs > 1:
        return find_stage_ends(network, loss)
    return {rank: (stage,) for rank, stage in find_last_features(network, loss).items()}


def _sizes(one: Feature, other: Feature) -> str:
    """The shapes of a student feature and a teacher feature."""
    return ", ".join("×".join("any" if n is None else str(n) for n in side.shape) for side in (one, other))


def _choose_pairs(
    loss: FeatureLoss, ours: Features, theirs: Features
) -> tuple[Sequence[tuple[Feature, Feature]], str]:
    """The pairs, and how they were chosen, with a placeholder for the side or sides with chosen features."""
    common, most = [], 0
    for own, other in _PROJECTED if loss.projects else [(rank, rank) for rank in loss.axes]:
        if own in ours and other in theirs and other in loss.axes and (loss.projects or own in loss.axes):
            common.append((ours[own], theirs[other]))
            found, how = _match_stages(loss, ours[own], theirs[other])
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
            hint="MultiHeadAttention layers have them (NAME/scores in kd inspect); other kinds: kd losses ls",
        )
    takes = " or ".join(FEATURE_NAMES[rank] for rank in loss.axes if rank in FEATURE_NAMES)
    only = f"; {loss.kind} compares {takes}" if loss.axes != FeatureLoss.axes else ""
    raise ModelError(
        f"losses.{loss.label}: the student's features are {_ranks(ours)}, the teacher's {_ranks(theirs)}{only}",
        hint="set teacher_layer and student_layer",
    )


def _match_stages(
    loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature]
) -> tuple[Sequence[tuple[Feature, Feature]], str]:
    def fits(one: Feature, other: Feature) -> bool:
        become = not loss.projects or can_project(one.shape, other.shape)
        return become and sizes_match(loss, one.shape, other.shape)

    kind = "attention scores" if loss.attention_scores else FEATURE_NAMES.get(len(ours[0].shape), "features")
    how = f"the last {kind} of {{}}"
    # Blocks of one size, and vectors, cannot be matched by size.
    if len({stage.shape[:-1] for stage in ours}) == len({stage.shape[:-1] for stage in theirs}) == 1:
        pairs = pair_evenly(ours, theirs, MAX_PAIRS)
        how = how if len(ours) == len(theirs) == 1 else f"{kind} of {{}} at equal relative depth"
        return (pairs if all(fits(*pair) for pair in pairs) else ()), how
    if len(ours) > 1 or len(theirs) > 1:
        how = f"{kind} at the stage ends of {{}}, nearest in size"
    return align_stages(ours, theirs, fits)[-MAX_PAIRS:], how


def _ranks(found: Features) -> str:
    return ", ".join(FEATURE_NAMES[rank] for rank in found if rank in FEATURE_NAMES) or "of no known kind"


_NAMES = {3: "maps (h, w, channels)", 2: "sequences (steps, channels)", 1: "vectors (channels)"}
_SCORES = {3: "attention scores (heads, queries, keys)"}


def check_shapes(loss: FeatureLoss, student: Shape, teacher: Shape, *, pair: str) -> None:
    """Refuse features of unknown size, with a rank that the kind does not take, or of sizes that must be equal.

    Args:
        loss: the feature loss.
        student, teacher: shapes without the batch axis.
        pair: name of the pair in messages.

    Raises:
        ModelError: the shapes do not fit; the message names them.
    """
    names = _SCORES if loss.attention_scores else _NAMES
    for role, shape in (("student", student), ("teacher", teacher)):
        if len(shape) not in loss.axes and not (role == "student" and loss.projects):
            expected = " or ".join(names[rank] for rank in loss.axes if rank in names)
            raise ModelError(
                f"{pair}: the {role}'s feature has {len(shape)} axes without the batch, {shape}; "
                f"{loss.kind} compares {expected}",
                hint=f"set another {role}_layer (kd inspect lists them), or leave both out",
            )
    if None in (student[-1], teacher[-1]) or (None in (*student, *teacher) and student != teacher):
        raise ModelError(
            f"{pair}: the shapes {student} and {teacher} are not fixed before the first batch",
            hint="name layers of fixed shape, or save the model with a fixed input shape",
        )
    if not loss.projects and not sizes_match(loss, student, teacher):
        raise ModelError(
            f"{pair}: the shapes are {student} and {teacher}; {loss.kind} needs equal {_equal(loss)}",
            hint=f"name layers of equal {_equal(loss)}; or use hint, which projects the student's feature",
        )


def sizes_match(loss: FeatureLoss, student: Shape, teacher: Shape) -> bool:
    """Whether the sizes that the kind needs `equal` are equal; numbers of attention heads may differ."""
    channels = "channels" not in loss.equal or student[-1] == teacher[-1]
    begin = 1 if loss.attention_scores else 0
    return channels and ("space" not in loss.equal or student[begin:-1] == teacher[begin:-1])


def _too_few_pairs(
    loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature], *, found: int
) -> ModelError:
    """The error for networks in which not enough pairs are found."""
    equal = f" of equal {_equal(loss)}" if loss.equal else ""
    own, other = (", ".join("×".join(map(str, stage.shape)) for stage in side) for side in (ours, theirs))
    return ModelError(
        f"losses.{loss.label}: {loss.kind} needs {loss.least_pairs} pair{'s' * (loss.least_pairs > 1)} of layers"
        f"{equal}, {found} found: the student has {own}, the teacher {other}",
        hint=_suggest_alternative(loss, ours, theirs),
    )


def _suggest_alternative(loss: FeatureLoss, ours: Sequence[Feature], theirs: Sequence[Feature]) -> str:
    """The hint: to name layers only where some layers of the two sides can be compared."""
    if loss.projects or any(sizes_match(loss, one.shape, other.shape) for one in ours for other in theirs):
        return "name layers in teacher_layer and student_layer; hint projects features of any shape"
    return (
        f"the networks have no stages of equal {_equal(loss)}: build the student with some of the teacher's "
        "sizes, or use a kind that does not need equal sizes, such as hint or attention_transfer"
    )


def _equal(loss: FeatureLoss) -> str:
    if loss.attention_scores:
        return "queries and keys"
    return " and ".join({"channels": "channels", "space": "height and width, or steps"}[one] for one in loss.equal)
