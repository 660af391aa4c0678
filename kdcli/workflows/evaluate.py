"""kd evaluate: one or several models on one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset, open_dataset
from kdcli.data.examples import Examples
from kdcli.data.order import limited
from kdcli.errors import UsageError
from kdcli.evaluation.footprint import file_bytes
from kdcli.events import Note, OnEvent, ignore
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.opening import model_file, model_format, open_model
from kdcli.recipe.reading import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import recipe_of_run, role_of_run
from kdcli.runs.recording import hash_file
from kdcli.runs.results import EvaluatedModel, Evaluation
from kdcli.workflows.asking import Asked, ask
from kdcli.workflows.fitting import evaluate_split
from kdcli.workflows.networks import understand
from kdcli.workflows.starting import start_tensorflow

SPLITS = ("auto", "train", "validation", "test", "all")


def evaluate(
    *models: str | Path,
    data: Any = None,
    teacher: str | Path | None = None,
    recipe: Any = None,
    settings: Sequence[str] = (),
    split: str = "auto",
    limit: float | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    on_event: OnEvent = ignore,
) -> Evaluation:
    """Measure models on a split: accuracy with its interval, loss, calibration, agreement with a teacher.

    Args:
        models: `.keras` or `.h5` files, or run directories, which bring their data and preparation.
        data: a name, a path, or arrays as in `kdcli.distill`; of the first run when left out.
        teacher: a file or run directory to compare decisions with.
        recipe: for its `data`, `student.input` (every model) and `teacher.input`.
        settings: `path=value` texts, as for `--set`.
        split: `auto` (test where there is one, else everything), `train`, `validation`, `test`, `all`.
        limit: how many examples of the split: a count, or a share written with a point; stratified.
        batch_size: examples in a batch; 256 when left out. It changes the speed, not the figures.
        threads: of TensorFlow, before it has started.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.evaluate("student.keras", data="digits").models[0].quality.accuracy   # doctest: +SKIP
    """
    if not models:
        raise UsageError("no model to evaluate", hint="kd evaluate MODEL|RUN ... --data D")
    if split not in SPLITS:
        raise UsageError(f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
    files = [model_file(Path(model)) for model in models]
    asked = _asked(models, recipe, settings=settings, data=data)
    start_tensorflow(threads=threads, seed=asked.recipe.train.seed)
    dataset, examples = _examples(asked, split, limit)
    for text in _of_other_splits(models, split, asked):
        on_event(Note(text, warning=True))
    on_event(Note(f"{dataset.name}: {len(examples)} examples of the {examples.split} split"))
    measured: dict[str, Any] = {"task": dataset.task, "on_event": on_event, "batch_size": batch_size or 256}
    answers = None
    if teacher is not None:
        network = _network(Path(teacher), model_file(Path(teacher)), "teacher", asked, dataset, on_event)
        _, answers = evaluate_split(network, examples, **measured)
    evaluated = []
    for given, file in zip(models, files, strict=True):
        network = _network(Path(given), file, "student", asked, dataset, on_event)
        quality, _ = evaluate_split(network, examples, teacher=answers, **measured)
        form = model_format(file)
        evaluated.append(
            EvaluatedModel(file, form, hash_file(file), network.parameters, file_bytes(file), quality)
        )
    return Evaluation(examples.split, tuple(evaluated))


def _asked(models: Sequence[str | Path], recipe: Any, **options: Any) -> Asked:
    """The recipe given, else the data of the first run among the models, else the defaults."""
    if recipe is None:
        recipe = {}
        own = next((found for model in models if (found := recipe_of_run(Path(model)))), None)
        if own is not None:
            # Its data and split only: how its networks take their input is theirs alone.
            values = read_recipe(own).recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
            recipe = {"data": values["data"], "train": {"seed": values["train"]["seed"]}}
    return ask(recipe, **options)


def _examples(asked: Asked, split: str, limit: float | None) -> tuple[Dataset, Examples]:
    recipe = asked.recipe
    if recipe.data.source is None and asked.arrays is None:
        raise UsageError(
            "no data: neither the recipe, a run nor an option gives data.source", hint="--data digits"
        )
    # The recipe's own limit is of its training part; the one given here is of what is evaluated.
    carve = split in ("train", "validation")
    dataset = open_dataset(recipe.data, seed=recipe.train.seed, arrays=asked.arrays, carve=carve)
    examples = dataset.split(split)
    if limit is not None:
        kept = limited(examples.all_labels(), len(examples), limit=limit, seed=recipe.train.seed)
        examples = examples.subset(kept)
    return dataset, examples


def _of_other_splits(models: Sequence[str | Path], split: str, asked: Asked) -> list[str]:
    """Runs that were trained on other examples than the split is carved from."""
    if split not in ("train", "validation"):
        return []
    ours, texts = _carving(asked.recipe), []
    for model in models:
        own = recipe_of_run(Path(model))
        if own is not None and _carving(read_recipe(own).recipe) != ours:
            texts.append(f"{model} was trained on another split: it may have seen some of these examples")
    return texts


def _carving(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.data.source, recipe.data.validation, recipe.data.limit, recipe.train.seed


def _network(
    given: Path, file: Path, role: str, asked: Asked, dataset: Dataset, on_event: OnEvent
) -> KerasNetwork:
    """A network behind its preparation: a run brings its own, a file takes the recipe's."""
    own = recipe_of_run(given)
    section = getattr(asked.recipe, role)
    if own is not None:
        role = role_of_run(given)
        section = getattr(read_recipe(own).recipe, role)
    return understand(
        KerasNetwork(open_model(file), name=str(file)),
        dataset.train,
        task=dataset.task,
        outputs=dataset.outputs,
        section=section,
        role=role,
        measured=True,
        seed=asked.recipe.train.seed,
        on_event=on_event,
    )
