"""Inspect a zoo model as it would be built for some data, in a few sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.errors import UsageError
from kdcli.evaluation.footprint import count_weight_bytes
from kdcli.evaluation.latency.short_session import run_short_session
from kdcli.events import OnEvent, ignore_event
from kdcli.inspection.file import describe_network
from kdcli.recipe.sections import Recipe
from kdcli.runs.inspection_results import Inspection, ZooSize
from kdcli.setup.named_models import open_named_data
from kdcli.setup.open_models import OpenedModel, open_model
from kdcli.setup.request import RecipeLike, RecipeOptions, make_request
from kdcli.setup.startup import start_tensorflow
from kdcli.spec import ModelSource
from kdcli.zoo import Application, Clone, get_zoo_class

ZOO_PREFIX = "zoo:"
# Number of examples for timing.
_TIMED_EXAMPLES = 16


def inspect_zoo(
    model: str,
    *,
    recipe: RecipeLike | None,
    limit: float | None = None,
    **options: Unpack[RecipeOptions],
) -> Inspection:
    """Build an untrained zoo model for the data, and a few of its sizes.

    Args:
        model: `zoo:NAME`; settings such as `student.model.width=8` change the described model.
        recipe: recipe whose `student.model` is described, if it has that name.
        limit: must be None: an untrained model is not checked on examples.
        options: options of `make_request`; the data defines the input shape and the classes.

    Raises:
        UsageError: no such zoo model, no data, or a model that does not fit the data.
    """
    name = model.removeprefix(ZOO_PREFIX)
    member = get_zoo_class(name)
    if member is Clone:
        raise UsageError("zoo clone is the teacher's own architecture", hint="kd inspect TEACHER shows it")
    unused = {
        "--limit": limit,
        "--batch-size": options.get("batch_size"),
        "--signature": options.get("signature"),
        "--output": options.get("output"),
    }
    for option in (option for option, value in unused.items() if value is not None):
        raise UsageError(f"{option} has no effect on {model}, which is not trained", hint="leave it out")
    request = make_request(_choose_recipe(recipe, name, options.get("settings", ())), role="student", **options)
    on_event = request.context.on_event
    if not request.has_data:
        raise UsageError(
            "a zoo model needs data, which defines its input shape and its classes",
            hint=f"kd inspect {model} --data digits",
        )
    source = request.recipe.student.model
    if not isinstance(source, member):
        raise UsageError(f"student.model is not {name}", hint=f"kd inspect {model} without --recipe")
    start_tensorflow(threads=request.context.threads, seed=request.recipe.train.seed, code=request.code)
    dataset = open_named_data(request, carve=False, on_event=on_event)
    opened = _build(source, request.recipe, dataset, on_event=on_event)
    sizes = [source.model_copy(update=dict(size)) for size in source.sizes]
    listed = sizes if source in sizes or not source.model_fields_set - {"kind", "name"} else [source, *sizes]
    base = Inspection(
        path=Path(model),
        format="zoo",
        sha256=None,
        inputs=(),
        outputs=(),
        bytes=count_weight_bytes(opened.network.parameters)["float32"],
    )
    return _add_sizes(describe_network(base, opened.network), listed or [source], request.recipe, dataset)


def _choose_recipe(recipe: RecipeLike | None, name: str, settings: Sequence[str]) -> RecipeLike:
    """The given recipe, or one with the model."""
    if recipe is not None:
        return recipe
    model = {"kind": "zoo", "name": name}
    if get_zoo_class(name) is Application and not any("student.model" in setting for setting in settings):
        raise UsageError(
            "zoo application needs an architecture",
            hint="kd inspect zoo:application --set student.model.architecture=MobileNetV2 --data D",
        )
    return {"student": {"model": model}}


def _build(source: ModelSource, recipe: Recipe, dataset: Dataset, *, on_event: OnEvent) -> OpenedModel:
    return open_model(
        "student",
        given=None,
        source=source,
        start="auto",
        dataset=dataset,
        section=recipe.student,
        seed=recipe.train.seed,
        on_event=on_event,
    )


def _add_sizes(
    inspection: Inspection, sources: Sequence[ModelSource], recipe: Recipe, dataset: Dataset
) -> Inspection:
    raw = dataset.train.take(np.arange(min(len(dataset.train), _TIMED_EXAMPLES)))
    found = []
    for source in sources:
        network = _build(source, recipe, dataset, on_event=ignore_event).network
        found.append(
            ZooSize(
                model={"kind": "zoo", **source.model_dump(mode="json", exclude_unset=True)},
                parameters=network.parameters,
                int8_bytes=count_weight_bytes(network.parameters)["int8"],
                **run_short_session(network, raw).to_json(),
            )
        )
    return replace(inspection, sizes=tuple(found))
