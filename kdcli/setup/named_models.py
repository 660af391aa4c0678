"""The recipe and the data for models that a command names as files or runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from kdcli.custom_kinds import has_unknown_entry
from kdcli.data.dataset import Dataset, open_dataset
from kdcli.data.examples import Examples
from kdcli.data.order_and_splits import limit_positions
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.models.custom_code import attribute_errors
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import find_run_recipe
from kdcli.setup.request import SPLIT_OPTIONS, RecipeLike, Request, RunOptions, make_request


def request_for_models(
    models: Sequence[str | Path],
    recipe: RecipeLike | None,
    *,
    with_data: bool = True,
    role: str = "student",
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RunOptions],
) -> Request:
    """Build the request for named models: from the recipe, else from the data of the first run among them.

    Args:
        models: files and runs.
        recipe: as for `make_request`; None takes the data of a run.
        with_data: whether examples will be read.
        role: the section to which the options `signature` and `output` apply.
        gates: bounds in addition to the recipe's.
        options: as for `make_request`.

    Raises:
        UsageError: the recipe, a setting or an option is wrong, or the runs have different data.
    """
    if recipe is None:
        recipe = {}
        runs = {str(model): found for model in models if (found := find_run_recipe(Path(model)))}
        run_recipe = next(iter(runs.values()), None)
        has_data_option = options.get("data") is not None
        if run_recipe is not None:
            if not has_data_option:
                _refuse_different_sources(runs)
            # Only its data and split: the input settings apply to the run's own networks alone.
            recipe = _select_data(read_run_recipe(run_recipe), with_source=with_data and not has_data_option)
    return make_request(recipe, role=role, gates=gates, **options)


def _select_data(run: Recipe, *, with_source: bool) -> dict[str, Any]:
    values = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    # Unused entries are dropped: a custom kind among them would require its file.
    unused = ("augment",) if with_source else ("augment", "source", "target_scale")
    data = {name: value for name, value in values["data"].items() if name not in unused}
    found: dict[str, Any] = {"data": data, "train": {"seed": values["train"]["seed"]}}
    if with_source and has_unknown_entry(run.data.source):
        found["requires"] = values["requires"]
    return found


def _refuse_different_sources(runs: Mapping[str, Path]) -> None:
    """Refuse runs that were trained on different data."""
    sources = {name: read_run_recipe(path).data.source for name, path in runs.items()}
    first, *others = sources
    for name in others:
        if sources[name] != sources[first]:
            raise UsageError(
                f"{first} and {name} were trained on different data", hint="choose the data with --data D"
            )


def check_limits(*, limit: float | None, batch_size: int | None, split: str = "auto") -> None:
    """Refuse a limit or a batch size below one example, and an unknown split.

    Raises:
        UsageError: naming the option.
    """
    if limit is not None and not (limit >= 1 if isinstance(limit, int) else 0 < limit <= 1):
        raise UsageError(
            f"--limit must be a count of at least 1, or a fraction above 0 and up to 1.0 (got {limit})",
            hint="--limit 500, or --limit 0.1",
        )
    if split not in SPLIT_OPTIONS:
        raise UsageError(f"--split must be one of {', '.join(SPLIT_OPTIONS)} (got {split!r})")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1 (got {batch_size})", hint="--batch-size 64")


def require_data(request: Request) -> None:
    """Refuse a request without data.

    Raises:
        UsageError: naming the option.
    """
    if not request.has_data:
        raise UsageError("no data: data.source is not set by the recipe, a run or an option", hint="--data digits")


def open_named_data(request: Request, *, carve: bool, on_event: OnEvent) -> Dataset:
    """Open the data for named models; the source's notes go to the listener.

    Args:
        request: from `request_for_models`.
        carve: split off validation examples and apply the recipe's limit, as training did.
        on_event: receives the notes.

    Raises:
        DataError: the data cannot be read or is inconsistent.
    """
    recipe = request.recipe
    with attribute_errors(request.code):
        dataset = open_dataset(
            recipe.data,
            seed=recipe.data_seed,
            arrays=request.arrays,
            split_validation=carve,
            output_names=recipe.outputs,
        )
    for text in dataset.notes:
        on_event(Note(text))
    return dataset


def open_examples(
    request: Request, *, split: str, limit: float | None, validation: bool = False, on_event: OnEvent
) -> tuple[Dataset, Examples]:
    """Open the data, and select the examples on which models are measured.

    Args:
        request: from `request_for_models`.
        split: `auto`, `train`, `validation`, `test` or `all`.
        limit: number of examples of the split (int), or a fraction of them (float); stratified. All when None.
        validation: whether validation examples are needed beside them.
        on_event: receives notes, such as the split and the number of examples.

    Raises:
        DataError: the data cannot be read or is inconsistent, or has no such split.
    """
    # The recipe's own limit applies to its training split, this one to the measured split.
    dataset = open_named_data(request, carve=validation or split in ("train", "validation"), on_event=on_event)
    return dataset, select_examples(dataset, request, split=split, limit=limit, on_event=on_event)


def select_examples(
    dataset: Dataset, request: Request, *, split: str, limit: float | None, on_event: OnEvent
) -> Examples:
    """Select a split of opened data, or `limit` of its examples; a note says which and how many.

    Raises:
        DataError: the data has no such split.
    """
    examples = dataset.split(split)
    if limit is not None:
        seed = request.recipe.data_seed
        examples = examples.subset(limit_positions(examples.all_labels(), len(examples), limit=limit, seed=seed))
    on_event(Note(f"{dataset.name}: {len(examples)} examples of the {examples.split} split"))
    return examples


def open_split(
    request: Request, *, split: str, limit: float | None, on_event: OnEvent
) -> tuple[Dataset, Dataset, Examples]:
    """Open the data: whole, with the split carved off if it has none, and the examples of the split.

    Raises:
        DataError: the data cannot be read or is inconsistent, or has no such split.
    """
    dataset = whole = open_named_data(request, carve=False, on_event=on_event)
    if split == "validation" and whole.validation is None:
        dataset = open_named_data(request, carve=True, on_event=ignore_event)
    return whole, dataset, select_examples(dataset, request, split=split, limit=limit, on_event=on_event)
