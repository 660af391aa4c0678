"""Builds the teacher's outputs: resolves every `auto` for precision, dtypes, storage and number of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import psutil

from kdcli.cache.folder import count_allowed_bytes, is_cache_folder_set, is_writable
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
from kdcli.setup.ensemble_requests import member_requests
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.request import Request
from kdcli.teacher.cache_key import training_components
from kdcli.teacher.ensemble import AnyOutputs, EnsembleOutputs, make_ensemble
from kdcli.teacher.outputs import MeasuredOutputs, TeacherOutputs, measure_outputs
from kdcli.teacher.split_logits import SplitLogits, open_split_logits
from kdcli.teacher.targets_and_views import MAX_AUTO_VIEWS, FreeSpace, Placement, choose_placement


def build_teacher_outputs(
    request: Request, dataset: Dataset, opened: Sequence[OpenedModel], terms: Sequence[Term], *, epochs: int
) -> AnyOutputs:
    """Build the outputs of the teacher or ensemble of a run; measurements are stored in the cache.

    Args:
        request: what to do.
        dataset: the data with the training examples.
        opened: the teacher, or the members of the ensemble.
        terms: the losses with their layers.
        epochs: number of epochs.

    Raises:
        UsageError: the precision or the number of views is not possible.
        StorageError: a cache that is requested cannot be used.
        ModelError: an output is NaN or infinite.
    """
    if not request.recipe.is_ensemble:
        return _build_member(request, dataset, opened[0], terms, epochs=epochs)
    on_logits = [term for term in terms if not term.pairs]

    def build_members(requests: Sequence[Request]) -> list[TeacherOutputs]:
        members: list[TeacherOutputs] = []
        for member_request, model in zip(requests, opened, strict=True):
            # Features come from the first member only.
            member_terms = on_logits if members else terms
            members.append(
                _build_member(member_request, dataset, model, member_terms, epochs=epochs, others=members)
            )
        return members

    requests = member_requests(request)
    members = build_members(requests)
    counts = {member.views.count for member in members}
    if len(counts) > 1:
        # If one member has space for fewer views only, all members use that number.
        fewest = min(count for count in counts if count is not None)
        members = build_members([_set_views(member_request, fewest) for member_request in requests])
    uses_mixture = any(term.loss.needs_teacher for term in on_logits)
    return EnsembleOutputs(
        members=tuple(members), ensemble=make_ensemble(request.recipe, opened), uses_mixture=uses_mixture
    )


def _set_views(request: Request, views: int) -> Request:
    section = request.recipe.teacher.model_copy(update={"views": views})
    return replace(request, recipe=request.recipe.with_teachers(section))


def _build_member(
    request: Request,
    dataset: Dataset,
    opened: OpenedModel,
    terms: Sequence[Term],
    *,
    epochs: int,
    others: Sequence[TeacherOutputs] = (),
) -> TeacherOutputs:
    """Build the outputs of one teacher; `others` are the members whose outputs need space too."""
    recipe, network = request.recipe, opened.network
    split_logits = open_split_logits(request, dataset, opened)
    needed = any(term.loss.needs_teacher for term in terms)
    if isinstance(network, RecordedNetwork):
        measured = MeasuredOutputs("float32", (ArraySpec(LOGITS, "float32", (network.outputs,)),), ())
        placement, view_bytes = Placement("memory", 1, "recorded outputs"), 0
    else:
        measured = measure_outputs(recipe.teacher.precision, split_logits, list_teacher_taps(terms))
        view_bytes = Layout(len(dataset.train), 1, measured.arrays).bytes if needed else 0
        placement = _place_outputs(
            recipe, split_logits, measured, view_bytes=view_bytes, epochs=epochs, others=others
        )
    if recipe.train.jit == "on" and placement.mode == "disk":
        _check_resident((placement.views or 1) * view_bytes)
    if placement.mode == "live":
        precision = _select_live_precision(recipe.teacher.precision, network)
        texts = measured.texts if precision == measured.precision else (f"the teacher computes in {precision}",)
        measured = replace(measured, precision=precision, texts=texts)
    return TeacherOutputs(
        views=make_views(recipe, dataset, placement.views),
        placement=placement,
        measured=measured,
        requested_precision=recipe.teacher.precision,
        needed=needed,
        split_logits=split_logits,
    )


def make_views(recipe: Recipe, dataset: Dataset, count: int | None) -> Views:
    """Make the views of the training examples.

    Args:
        recipe: the recipe, with augmentation and seed.
        dataset: the data.
        count: number of views; None for a new view in every epoch.

    Raises:
        UsageError: the augmentation needs images.
    """
    views = Views(recipe.data.augment, seed=recipe.data_seed, count=count, examples=len(dataset.train))
    views.check(dataset.train)
    return views


def _check_resident(size: int) -> None:
    if size > RESIDENT_BYTES:
        raise UsageError(
            "train.jit=on: XLA needs the teacher's outputs in memory "
            f"(got {size:,} bytes in the cache; expected at most {RESIDENT_BYTES:,})",
            hint="--set train.jit=off, or --set teacher.targets=memory",
        )


def _select_live_precision(requested: str, network: Network) -> str:
    """Select the precision of a teacher that runs in every training step: float32, unless the recipe sets it.

    Measurements do not apply here: they use a graph of their own, a training step uses the policies of the layers.

    Raises:
        UsageError: half precision of a SavedModel, whose graph option would affect the student too.
    """
    if requested in ("auto", "float32"):
        return "float32"
    if not isinstance(network, KerasNetwork):
        raise UsageError(
            f"teacher.precision={requested} needs stored outputs for a SavedModel; here it runs in every step",
            hint="--set teacher.precision=float32, or --set teacher.views=8 stores its outputs",
        )
    return requested


def _place_outputs(
    recipe: Recipe,
    split_logits: SplitLogits,
    measured: MeasuredOutputs,
    *,
    view_bytes: int,
    epochs: int,
    others: Sequence[TeacherOutputs],
) -> Placement:
    """Choose the storage and the number of views; all workers use the choice of the chief."""

    def choose() -> dict[str, Any]:
        placement = choose_placement(
            recipe.teacher.targets,
            recipe.teacher.views,
            augmented=bool(recipe.data.augment),
            epochs=epochs,
            view_bytes=view_bytes,
            space=_reserve(_measure_space(recipe, split_logits, measured, epochs), others),
        )
        return asdict(placement)

    return Placement(**split_logits.context.workers.broadcast_object(choose))


def _reserve(space: FreeSpace, others: Sequence[TeacherOutputs]) -> FreeSpace:
    """Reserve space for outputs of other members that are not stored yet."""
    if space.is_cached:
        return space
    on_disk = sum(one.bytes for one in others if one.placement.mode == "disk")
    on_disk -= sum(one.bytes for one in others if one.complete)
    in_memory = sum(one.bytes for one in others if one.placement.mode == "memory")
    cache = None if space.cache is None else max(space.cache - on_disk, 0)
    return replace(space, cache=cache, memory=max(space.memory - 4 * in_memory, 0))


def _measure_space(recipe: Recipe, split_logits: SplitLogits, measured: MeasuredOutputs, epochs: int) -> FreeSpace:
    """Measure the space for outputs; outputs that are in the cache already need none.

    Raises:
        StorageError: a cache that is requested is read-only and lacks the outputs.
    """
    memory = psutil.virtual_memory().available
    folder, context = split_logits.folder, split_logits.context
    if folder is None or split_logits.base is None:
        return FreeSpace(cache=None, memory=memory, no_cache_reason=split_logits.no_cache_reason)
    views = min(recipe.teacher.views if isinstance(recipe.teacher.views, int) else MAX_AUTO_VIEWS, epochs)
    components = training_components(
        split_logits.base,
        split_logits.dataset.train,
        make_views(recipe, split_logits.dataset, views if recipe.data.augment else 1),
        precision=measured.precision,
        arrays=measured.arrays,
        memo=context.memo,
    )
    entry = context.find_entry(folder, components)
    if entry is not None and not entry.missing():
        return FreeSpace(cache=entry.bytes, memory=memory, is_cached=True)
    if not is_writable(folder):
        if is_cache_folder_set() or recipe.teacher.targets == "disk":
            raise StorageError(
                f"{folder}: the cache cannot be written, and it lacks outputs that this run needs",
                hint="another KD_CACHE_DIR, or --set teacher.targets=memory",
            )
        return FreeSpace(cache=None, memory=memory, no_cache_reason=f"the cache cannot be written ({folder})")
    limit = context.cache_limit
    return FreeSpace(
        cache=count_allowed_bytes(folder, limit) + (0 if entry is None else entry.bytes),
        memory=memory,
        limited_by="a fifth of the free disk; see --cache-limit" if limit is None else "--cache-limit, free disk",
    )
