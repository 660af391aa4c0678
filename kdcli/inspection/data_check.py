"""Check a model on real examples: preprocessing, output kind and main metric."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from kdcli.data.order_and_splits import limit_positions
from kdcli.evaluation.quality import MAIN_METRIC
from kdcli.inspection.file import describe_network
from kdcli.runs.inspection_results import DataCheck, Inspection
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import open_named_data
from kdcli.setup.request import Request

# Number of examples without a limit.
_DEFAULT_EXAMPLES = 512


def check_on_data(
    found: Inspection, model: Path, request: Request, *, limit: float | None, batch_size: int
) -> Inspection:
    """Add the preprocessing, the output kind and the main metric, found on examples, to an inspection.

    Args:
        found: the inspection without data.
        model: the model file or run directory.
        request: the request with the data.
        limit: number of examples, or a fraction of them; 512 if None.
        batch_size: examples per batch.

    Raises:
        KdError: the data or the model has an error.
    """
    on_event = request.context.on_event
    dataset = open_named_data(request, carve=False, on_event=on_event)
    examples = dataset.split("auto")
    positions = limit_positions(
        examples.all_labels(), len(examples), limit=limit or _DEFAULT_EXAMPLES, seed=request.recipe.data_seed
    )
    examples = examples.subset(positions)
    with ExitStack() as resources:
        opened = open_evaluated_file(
            model,
            "student",
            request=request,
            dataset=dataset,
            threads=request.context.threads,
            opened=resources,
            on_event=on_event,
        )
        quality, outputs = opened.measure(examples, task=dataset.task, on_event=on_event, batch_size=batch_size)
        network, main = opened.network, MAIN_METRIC[dataset.task]
        value = quality.metric(main)
        checked = DataCheck(
            data=dataset.name,
            split=examples.split,
            examples=len(examples),
            task=dataset.task,
            input={name: preprocessing.to_json() for name, preprocessing in network.preprocessing.items()},
            answer=tuple(outputs.shape[1:]),
            metric=None if value is None else (main, value),
        )
        return replace(describe_network(found, network), output_kind=network.saved_kind, checked=checked)
