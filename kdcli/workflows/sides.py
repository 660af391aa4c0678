"""The two sides of a run, opened: the student, the teacher, or several teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdcli.data.dataset import Dataset, with_outputs
from kdcli.errors import ModelError, UsageError
from kdcli.workflows.around import Surroundings
from kdcli.workflows.asking import Asked
from kdcli.workflows.members import members
from kdcli.workflows.networks import Opened, open_network
from kdcli.workflows.placing import data_key
from kdcli.workflows.recorded_teacher import is_recorded, open_recorded


def open_side(
    role: str, asked: Asked, dataset: Dataset, around: Surroundings, start: str | None = None, teacher: Any = None
) -> Opened:
    """One side of a run; without a `start` it is no one's to train, and has its weights.

    Args:
        role: `teacher` or `student`.
        asked, dataset, around: of the run.
        start: where its weights come from.
        teacher: what a clone is made like.
    """
    section = getattr(asked.recipe, role)
    return open_network(
        role,
        given=asked.models.get(role),
        source=section.model,
        start="file" if start in ("auto", None) else str(start),
        dataset=dataset,
        section=section,
        seed=asked.recipe.train.seed,
        on_event=around.on_event,
        teacher=teacher,
        trust=asked.trust,
        trainable=start is not None,
        threads=around.threads,
    )


def open_teacher(asked: Asked, dataset: Dataset, around: Surroundings) -> Opened:
    """One teacher, opened once."""
    section = asked.recipe.teacher.model_dump_json()
    key = ("teacher", *data_key(asked), section, id(asked.models.get("teacher")))
    recorded = is_recorded(asked)
    return around.once(
        key, lambda: open_recorded(asked, dataset) if recorded else open_side("teacher", asked, dataset, around)
    )


def open_teachers(asked: Asked, dataset: Dataset, around: Surroundings) -> tuple[Opened, ...]:
    """All teachers of a run, in order.

    Raises:
        ModelError: two of them answer in ways that cannot be mixed.
        UsageError: a temperature of what gives values.
    """
    first, *others = members(asked)
    opened = [open_teacher(first, dataset, around)]
    # Where the data does not say how many classes there are, the first teacher does.
    known = with_outputs(dataset, opened[0].network.outputs)
    opened += [open_teacher(other, known, around) for other in others]
    _refuse_unlike(opened)
    for number, section in enumerate(asked.recipe.teachers):
        if section.temperature not in (None, 1.0) and opened[number].network.head == "values":
            raise UsageError(f"teacher.{number}.temperature is for classes, and the data has values")
    return tuple(opened)


def _refuse_unlike(opened: Sequence[Opened]) -> None:
    """Refuse teachers whose answers are not the same kind of thing, or not of the same size."""
    first = opened[0].network
    for other in (one.network for one in opened[1:]):
        ours, theirs = _answers(first), _answers(other)
        sides = list(zip(ours[1], theirs[1], strict=False))
        same = len(ours[1]) == len(theirs[1]) and all(None in pair or pair[0] == pair[1] for pair in sides)
        if ours[0] != theirs[0] or not same:
            raise ModelError(
                f"two teachers cannot be mixed: {first.name} gives {_said(*ours)}, {other.name} {_said(*theirs)}",
                hint="teachers with the same kind of output; teacher.0.output_kind and teacher.0.classes say how "
                "one is read",
            )


def _answers(network: Any) -> tuple[str, tuple[int | None, ...]]:
    """What its answers are, and the shape of one."""
    return network.head, (*network.output_shape[:-1], network.outputs)


def _said(head: str, shape: tuple[int | None, ...]) -> str:
    return f"{head} of {'×'.join('any' if side is None else str(side) for side in shape)}"
