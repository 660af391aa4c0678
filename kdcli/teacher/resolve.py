"""Every `auto` about a teacher's answers resolved once: precision, types, place, number of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from kdcli.cache.folder import (
    count_allowed_bytes,
    explain_unusable,
    find_cache_folder,
    is_cache_folder_set,
    is_writable,
)
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.data.dataset import Dataset
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.views import Views
from kdcli.distillation.terms import Term, list_teacher_taps
from kdcli.errors import StorageError, UsageError
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS
from kdcli.recipe.sections import Recipe
from kdcli.runs.writer import make_folder
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.request import Request
from kdcli.teacher.cache_key import Components, teacher_components, training_components
from kdcli.teacher.outputs import MeasuredOutputs, TeacherOutputs, measure_outputs
from kdcli.teacher.placement import AUTO_VIEWS, FreeSpace, Placement, choose_placement
from kdcli.teacher.split_logits import SplitLogits


def build_member_outputs(
    request: Request,
    dataset: Dataset,
    opened: OpenedModel,
    terms: Sequence[Term],
    *,
    epochs: int,
    beside: Sequence[TeacherOutputs] = (),
) -> TeacherOutputs:
    """The teacher of a run, ready to answer; what was measured is remembered in the cache.

    Args:
        asked: what to do.
        dataset: whose training examples are answered.
        opened: the teacher.
        terms: what they ask it for.
        around: listener, limit of the cache, what is opened once.
        epochs: of the training.
        beside: other teachers of the run, whose answers are kept too.

    Raises:
        UsageError: a precision or a number of views that cannot be.
        StorageError: a cache that was asked for and cannot be used.
        ModelError: an answer that is not finite.
    """
    recipe, network = request.recipe, opened.network
    plain = open_split_logits(request, dataset, opened)
    wanted = any(term.loss.needs_teacher for term in terms)
    if isinstance(network, RecordedNetwork):
        measured = MeasuredOutputs("float32", (ArraySpec(LOGITS, "float32", (network.outputs,)),), ())
        placement, view_bytes = Placement("memory", 1, "they are recorded"), 0
    else:
        measured = measure_outputs(recipe.teacher.precision, plain, list_teacher_taps(terms))
        view_bytes = Layout(len(dataset.train), 1, measured.arrays).bytes if wanted else 0
        placement = _keep(recipe, plain, measured, view_bytes=view_bytes, epochs=epochs, beside=beside)
    if (
        recipe.train.jit == "on"
        and placement.mode == "disk"
        and (placement.views or 1) * view_bytes > RESIDENT_BYTES
    ):
        raise UsageError(
            f"train.jit: XLA needs the teacher's answers in memory, they are larger than {RESIDENT_BYTES} bytes",
            hint="--set train.jit=off, or --set teacher.targets=memory",
        )
    if placement.mode == "live":
        precision = _live_precision(recipe.teacher.precision, network)
        texts = measured.texts if precision == measured.precision else (f"the teacher answers in {precision}",)
        measured = replace(measured, precision=precision, texts=texts)
    views = make_views(recipe, dataset, placement.views)
    return TeacherOutputs(views, placement, measured, recipe.teacher.precision, wanted, plain)


def open_split_logits(request: Request, dataset: Dataset, opened: OpenedModel) -> SplitLogits:
    """The teacher's answers to whole splits, kept in the cache where the recipe lets them be.

    Raises:
        StorageError: a cache that was asked for and cannot be used.
    """
    targets = request.recipe.teacher.targets
    if isinstance(opened.network, RecordedNetwork):
        return SplitLogits(opened, dataset, None, None, request.context)
    base = teacher_components(opened, request.code)
    folder, why = (
        (None, "") if targets in ("live", "memory") else _folder(targets, base, dry_run=request.context.dry_run)
    )
    return SplitLogits(opened, dataset, folder, base, request.context, why)


def make_views(recipe: Recipe, dataset: Dataset, count: int | None) -> Views:
    """The views of the training examples; `count` None is a new one every epoch."""
    views = Views(recipe.data.augment, seed=recipe.data_seed, count=count, examples=len(dataset.train))
    views.check(dataset.train)
    return views


def _folder(targets: str, base: Components | None, *, dry_run: bool) -> tuple[Path | None, str]:
    """The cache's folder, or None and why there is none.

    Raises:
        StorageError: it was asked for and cannot be used.
    """
    if base is None:
        if targets == "disk":
            raise StorageError(
                "teacher.targets: disk cannot be: a teacher that does not say how it is made is not known again",
                hint="give it as a file, or --set teacher.targets=memory",
            )
        return None, "the teacher, an object that does not say how it is made, would not be known again"
    folder = find_cache_folder()
    reason = explain_unusable(folder)
    if reason is None and not dry_run and not folder.exists():
        try:
            make_folder(folder)
        except StorageError as error:
            reason = error.message.removeprefix(f"{folder}: ")
    if reason is None:
        return folder, ""
    if is_cache_folder_set() or targets == "disk":
        raise StorageError(f"{folder}: {reason}", hint="another KD_CACHE_DIR, or --set teacher.targets=memory")
    return None, f"the cache cannot be used ({folder}: {reason})"


def _keep(
    recipe: Recipe,
    plain: SplitLogits,
    measured: MeasuredOutputs,
    *,
    view_bytes: int,
    epochs: int,
    beside: Sequence[TeacherOutputs],
) -> Placement:
    """Where the answers go and to how many views, as the chief of several workers decides."""

    def choose() -> dict[str, Any]:
        placement = choose_placement(
            recipe.teacher.targets,
            recipe.teacher.views,
            augmented=bool(recipe.data.augment),
            epochs=epochs,
            view_bytes=view_bytes,
            room=_beside(_room(recipe, plain, measured, epochs), beside),
        )
        return asdict(placement)

    return Placement(**plain.context.workers.broadcast_object(choose))


def _beside(room: FreeSpace, others: Sequence[TeacherOutputs]) -> FreeSpace:
    """The room that is left beside the answers of other teachers, which are not there yet."""
    if room.there:
        return room
    taken = {mode: sum(one.bytes for one in others if one.placement.mode == mode) for mode in ("disk", "memory")}
    taken["disk"] -= sum(one.bytes for one in others if one.complete)
    cache = None if room.cache is None else max(room.cache - taken["disk"], 0)
    return replace(room, cache=cache, memory=max(room.memory - 4 * taken["memory"], 0))


def _live_precision(request: str, network: Network) -> str:
    """In which precision a teacher answers that is asked in every step: float32, unless a recipe says otherwise.

    What was measured is a pass of its own, in a graph that is made for it; in a step layers are told.

    Raises:
        UsageError: half precision for a graph, which would reach the student too.
    """
    if request in ("auto", "float32"):
        return "float32"
    if not isinstance(network, KerasNetwork):
        raise UsageError(
            f"teacher.precision: {request} cannot be for a SavedModel that is asked in every step",
            hint="--set teacher.precision=float32, or --set teacher.views=8 keeps its answers",
        )
    return request


def _room(recipe: Recipe, plain: SplitLogits, measured: MeasuredOutputs, epochs: int) -> FreeSpace:
    """What there is room for; wanted answers that the cache holds already need none.

    Raises:
        StorageError: a cache that was asked for lacks them and cannot be written.
    """
    free = psutil.virtual_memory().available
    if plain.folder is None or plain.base is None:
        return FreeSpace(None, free, plain.unkept)
    count = min(recipe.teacher.views if isinstance(recipe.teacher.views, int) else AUTO_VIEWS, epochs)
    train = plain.dataset.train
    components = training_components(
        plain.base,
        train,
        make_views(recipe, plain.dataset, count if recipe.data.augment else 1),
        precision=measured.precision,
        arrays=measured.arrays,
        memo=plain.context.memo,
    )
    entry = plain.context.find_entry(plain.folder, components)
    if entry is not None and not entry.missing():
        return FreeSpace(entry.bytes, free, there=True)
    if not is_writable(plain.folder):
        if is_cache_folder_set() or recipe.teacher.targets == "disk":
            raise StorageError(
                f"{plain.folder}: it cannot be written, and lacks answers that are wanted",
                hint="another KD_CACHE_DIR, or --set teacher.targets=memory",
            )
        return FreeSpace(None, free, f"the cache cannot be written ({plain.folder})")
    there = 0 if entry is None else entry.bytes
    limit = plain.context.cache_limit
    bound = "a fifth of the free disk; --cache-limit" if limit is None else "--cache-limit, and the free disk"
    return FreeSpace(count_allowed_bytes(plain.folder, limit) + there, free, bound=bound)
