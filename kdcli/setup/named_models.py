"""The recipe and the data that go with models that are named, as files or as runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from kdcli.custom_kinds import has_unknown_entry
from kdcli.data.dataset import Dataset, open_dataset
from kdcli.data.examples import Examples
from kdcli.data.order import limit_positions
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.models.custom_code import attribute_errors
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import find_run_recipe
from kdcli.setup.request import SPLIT_OPTIONS, RecipeLike, RecipeOptions, Request, make_request


def request_for_models(
    models: Sequence[str | Path],
    recipe: RecipeLike | None,
    *,
    with_data: bool = True,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RecipeOptions],
) -> Request:
    """The request for models that are named: the recipe, else the data of the first run among them.

    Args:
        models: files and runs.
        recipe: as for `make_request`, or None.
        with_data: whether examples will be read.
        gates: bounds given beside the recipe's.
        options: as for `make_request`.

    Raises:
        UsageError: the recipe, a setting or an option is wrong, or runs have different data.
    """
    if recipe is None:
        recipe = {}
        runs = {str(model): found for model in models if (found := find_run_recipe(Path(model)))}
        own = next(iter(runs.values()), None)
        if own is not None and options.get("data") is None:
            _refuse_several_sources(runs)
        if own is not None:
            # Its data and split only: how its networks take their input is theirs alone.
            recipe = _data_of(read_run_recipe(own), with_source=with_data and options.get("data") is None)
    return make_request(recipe, role="student", gates=gates, **options)


def _data_of(run: Recipe, *, with_source: bool) -> dict[str, Any]:
    values = run.model_dump(mode="json", by_alias=True, exclude_none=True)
    # What is not used here is left out: one of the user's own would ask for its file.
    unused = ("augment",) if with_source else ("augment", "source", "target_scale")
    data = {name: value for name, value in values["data"].items() if name not in unused}
    found: dict[str, Any] = {"data": data, "train": {"seed": values["train"]["seed"]}}
    if with_source and has_unknown_entry(run.data.source):
        found["requires"] = values["requires"]
    return found


def _refuse_several_sources(runs: Mapping[str, Path]) -> None:
    """Refuse runs that were trained on different data, when nobody says which to take."""
    sources = {name: read_run_recipe(path).data.source for name, path in runs.items()}
    first, *others = sources
    for name in others:
        if sources[name] != sources[first]:
            raise UsageError(
                f"{first} and {name} were trained on different data", hint="--data D says which to take"
            )


def check_limits(*, limit: float | None, batch_size: int | None, split: str = "auto") -> None:
    """Refuse a limit or a batch of no examples, and an unknown split.

    Raises:
        UsageError: naming the option.
    """
    if limit is not None and not (limit >= 1 if isinstance(limit, int) else 0 < limit <= 1):
        raise UsageError(
            f"--limit must be a count of at least 1, or a share above 0 and up to 1.0, got {limit}",
            hint="--limit 500, or --limit 0.1",
        )
    if split not in SPLIT_OPTIONS:
        raise UsageError(f"--split must be one of {', '.join(SPLIT_OPTIONS)}, got {split!r}")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {batch_size}", hint="--batch-size 64")


def require_data(request: Request) -> None:
    """Refuse to go on without data.

    Raises:
        UsageError: naming the option.
    """
    if request.recipe.data.source is None and request.arrays is None:
        raise UsageError(
            "no data: neither the recipe, a run nor an option gives data.source", hint="--data digits"
        )


def open_named_data(request: Request, *, carve: bool, on_event: OnEvent) -> Dataset:
    """The data for models that are named; what the source has to say is said.

    Args:
        asked: from `asked_for`.
        carve: split validation off the training part and apply the recipe's limit, as training did.
        on_event: told the notes.

    Raises:
        DataError: anything that cannot be right.
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
    request: Request, *, split: str, limit: float | None, on_event: OnEvent
) -> tuple[Dataset, Examples]:
    """The examples that models are measured on, and the data that they are from; which and how many is said.

    Args:
        asked: from `asked_for`.
        split: `auto`, `train`, `validation`, `test` or `all`.
        limit: how many of the split: a count, or a share written with a point; stratified.
        on_event: told.

    Raises:
        DataError: anything that cannot be right, or no such split.
    """
    # The recipe's own limit is of its training part; the one given here is of what is measured.
    dataset = open_named_data(request, carve=split in ("train", "validation"), on_event=on_event)
    return dataset, select_examples(dataset, request, split=split, limit=limit, on_event=on_event)


def select_examples(
    dataset: Dataset, request: Request, *, split: str, limit: float | None, on_event: OnEvent
) -> Examples:
    """A split of data that is open, or the part of it that a limit leaves; which and how many is said.

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
    """The data as the source has it, the data with the split, and the split's examples.

    Raises:
        DataError: anything that cannot be right, or no such split.
    """
    dataset = whole = open_named_data(request, carve=False, on_event=on_event)
    if split == "validation" and whole.validation is None:
        dataset = open_named_data(request, carve=True, on_event=ignore_event)
    return whole, dataset, select_examples(dataset, request, split=split, limit=limit, on_event=on_event)
