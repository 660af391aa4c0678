"""Where a teacher's answers are kept, and to how many views: chosen once, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.errors import StorageError, UsageError

# Distinct views that `views: auto` keeps; below the second number a new view every epoch is worth more.
AUTO_VIEWS, FEWEST_VIEWS = 8, 4


@dataclass(frozen=True)
class Placement:
    """What becomes of the teacher's answers.

    Args:
        mode: `live`, `memory` or `disk`.
        views: how many are answered; None is a new one every epoch.
        reason: in words.
    """

    mode: str
    views: int | None
    reason: str


@dataclass(frozen=True)
class FreeSpace:
    """What there is room for.

    Args:
        cache: bytes that the cache may still take; None where there is no cache to write to.
        memory: bytes of free memory.
        unusable: why there is no cache, a clause.
        bound: what bounds the cache, in words.
        there: whether all answers lie in it already.
    """

    cache: int | None
    memory: int
    unusable: str = ""
    bound: str = "--cache-limit"
    there: bool = False


def choose_placement(
    wanted: str, views: int | str, *, augmented: bool, epochs: int, view_bytes: int, room: FreeSpace
) -> Placement:
    """The mode and the number of views that a recipe asks for, or that fit.

    With augmentation `auto` keeps 8 views, or one for each epoch where there are fewer: each is answered once,
    epochs take them in turn. Where 4 do not fit either, the teacher is asked live for a new view every epoch.

    Args:
        wanted: `auto`, `live`, `memory` or `disk`.
        views: a number (more than there are epochs are not answered), `all` or `auto`.
        augmented: whether examples have more than one view.
        epochs: of the training.
        view_bytes: of the answers to one view.
        room: for them.

    Raises:
        UsageError: `all` views cannot be kept.
        StorageError: `disk` was asked for and the cache has no room.
    """
    number = min(views, epochs) if isinstance(views, int) else None
    if not augmented:
        number = 1
    if wanted == "live":
        return Placement("live", number, "as asked")
    if number is None and views == "all":
        if wanted != "auto":
            raise UsageError(
                f"teacher.targets: {wanted} cannot be: a new view every epoch leaves nothing to keep",
                hint="--set teacher.views=8 keeps 8 views",
            )
        return Placement("live", None, "a new view every epoch is asked for, so there is nothing to keep")
    counts = [number] if number else list(range(min(AUTO_VIEWS, epochs), min(FEWEST_VIEWS, epochs) - 1, -1))
    for mode, space in _places(wanted, room):
        for count in counts:
            if space is None or count * view_bytes <= space:
                return Placement(mode, count, _reason(wanted, mode, count, epochs, room, chosen=number is None))
    needed = counts[-1] * view_bytes
    if wanted == "disk":
        raise StorageError(
            f"teacher.targets: disk cannot be: {needed} bytes of answers are needed, "
            + (f"the cache may take {room.cache} ({room.bound})" if room.cache is not None else room.unusable),
            hint="a larger --cache-limit, another KD_CACHE_DIR, or --set teacher.targets=live",
        )
    reason = f"{needed} bytes of answers are too many: {room.memory} bytes are free"
    if room.cache is not None:
        reason = f"{needed} bytes of answers are too many: the cache may take {room.cache} ({room.bound})"
        reason += "; teacher.targets=memory would hold them" if needed <= room.memory // 4 else ""
    return Placement("live", number, reason)


def _places(wanted: str, room: FreeSpace) -> list[tuple[str, int | None]]:
    """Where answers may go, with the bytes that there are; None is not bounded."""
    if wanted == "memory":
        return [("memory", None)]
    if room.cache is not None:
        return [("disk", room.cache)]
    # While they are made the answers exist twice: as arrays, then as tensors.
    return [("memory", room.memory // 4)] if wanted == "auto" else []


def _reason(wanted: str, mode: str, count: int, epochs: int, room: FreeSpace, *, chosen: bool) -> str:
    where = "as asked" if wanted == mode else "they fit into the cache"
    where = "all of them lie in the cache already" if room.there else where
    if mode == "memory" and wanted == "auto":
        where = f"they fit in memory; {room.unusable}"
    if not chosen:
        return where
    if count == epochs:
        return f"{where}; every epoch has a view of its own"
    fewer = "" if count == AUTO_VIEWS else f", as many as fit ({AUTO_VIEWS} are usual)"
    return f"{where}; {count} views in turn lose no accuracy that could be measured{fewer}"
