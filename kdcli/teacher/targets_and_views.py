"""Where the outputs for the training examples are stored, and for how many views."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.errors import StorageError, UsageError

# Views that `views: auto` stores; below the minimum, a new view in every epoch trains better students.
MAX_AUTO_VIEWS, MIN_AUTO_VIEWS = 8, 4


@dataclass(frozen=True)
class Placement:
    """Where outputs are stored.

    Args:
        mode: `live`, `memory` or `disk`.
        views: number of views with outputs; None for a new view in every epoch.
        reason: why, as a clause for the plan.
    """

    mode: str
    views: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class FreeSpace:
    """Space that is available for outputs.

    Args:
        cache: bytes that the cache may still take; None if no cache can be written.
        memory: bytes of free memory.
        no_cache_reason: why no cache can be written, as a clause.
        limited_by: what limits the cache, in words.
        is_cached: whether all outputs are in the cache already.
    """

    cache: int | None
    memory: int
    no_cache_reason: str = ""
    limited_by: str = "--cache-limit"
    is_cached: bool = False


def choose_placement(
    requested: str, views: int | str, *, augmented: bool, epochs: int, view_bytes: int, space: FreeSpace
) -> Placement:
    """Choose the storage and the number of views as the recipe requests, or as they fit.

    With augmentation `auto` stores outputs for 8 views, or one for each epoch if there are fewer; epochs cycle
    through them. If not even 4 fit, the teacher runs live on a new view in every epoch.

    Args:
        requested: `auto`, `live`, `memory` or `disk`.
        views: number of views (no more are used than there are epochs), `all` or `auto`.
        augmented: whether examples have more than one view.
        epochs: number of epochs.
        view_bytes: bytes of the outputs for one view.
        space: available space.

    Raises:
        UsageError: outputs for `all` views cannot be stored.
        StorageError: `disk` is requested and the cache has no space.
    """
    number = min(views, epochs) if isinstance(views, int) else None
    if not augmented:
        number = 1
    if requested == "live":
        return Placement("live", number, "as requested")
    if number is None and views == "all":
        if requested != "auto":
            raise UsageError(
                f"teacher.targets={requested} needs a fixed number of views (got teacher.views=all)",
                hint="--set teacher.views=8 stores 8 views",
            )
        return Placement("live", None, "teacher.views=all needs new outputs in every epoch")
    counts = [number] if number else list(range(min(MAX_AUTO_VIEWS, epochs), min(MIN_AUTO_VIEWS, epochs) - 1, -1))
    for mode, available in _list_modes(requested, space):
        for count in counts:
            if available is None or count * view_bytes <= available:
                reason = _explain(requested, mode, space)
                return Placement(mode, count, reason if number else f"{reason}; {_explain_views(count, epochs)}")
    needed = f"the outputs need {counts[-1] * view_bytes:,} bytes"
    if space.cache is not None:
        needed += f", the cache may take {space.cache:,} bytes ({space.limited_by})"
    if requested == "disk":
        raise StorageError(
            f"teacher.targets=disk: {needed}" + (f"; {space.no_cache_reason}" if space.cache is None else ""),
            hint="a larger --cache-limit, another KD_CACHE_DIR, or --set teacher.targets=live",
        )
    if space.cache is None:
        needed += f", more than a quarter of the free memory ({space.memory:,} bytes)"
    elif counts[-1] * view_bytes <= space.memory // 4:
        needed += "; they fit in memory with teacher.targets=memory"
    return Placement("live", number, needed)


def _list_modes(requested: str, space: FreeSpace) -> list[tuple[str, int | None]]:
    """List the possible modes with the bytes available to them; None is unlimited."""
    if requested == "memory":
        return [("memory", None)]
    if space.cache is not None:
        return [("disk", space.cache)]
    # While they are computed the outputs exist twice: as arrays, then as tensors.
    return [("memory", space.memory // 4)] if requested == "auto" else []


def _explain(requested: str, mode: str, space: FreeSpace) -> str:
    if mode == "memory" and requested == "auto":
        return f"fits in memory; {space.no_cache_reason}"
    if space.is_cached:
        return "already in the cache"
    return "as requested" if requested == mode else "fits in the cache"


def _explain_views(count: int, epochs: int) -> str:
    if count == epochs:
        return "one view for each epoch"
    fewer = "" if count == MAX_AUTO_VIEWS else "; more views do not fit"
    return f"epochs cycle through {count} views, with no measurable loss of accuracy{fewer}"
