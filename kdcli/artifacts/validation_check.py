"""Whether a file is close enough to its model on validation examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from kdcli.artifacts.converted_file import collect_parity_metrics
from kdcli.data.dataset import Dataset
from kdcli.data.order_and_splits import limit_positions
from kdcli.errors import UsageError
from kdcli.evaluation.parity import (
    Reference,
    compare_outputs,
    compute_outputs,
    make_file_function,
    make_model_function,
)
from kdcli.models.keras.served_model import ServedModel
from kdcli.models.network import Network
from kdcli.recipe.gates import Gate
from kdcli.spec import ExportFormat

_EXAMPLES, _BATCH_SIZE = 2000, 256


class ValidationCheck:
    """Judges files by the gates that compare them with their model, on at most 2,000 validation examples.

    Args:
        format: of the files.
        network: their model, with its preprocessing.
        kind: output kind of the files.
        dataset: with a validation split.
        gates: those on other metrics are not judged here.
        seed: RNG seed for the choice of examples.
        threads: number of threads of the runtime.

    Raises:
        UsageError: the data has no validation split.
    """

    def __init__(
        self,
        format: ExportFormat,
        network: Network,
        *,
        kind: str,
        dataset: Dataset,
        gates: Sequence[Gate],
        seed: int,
        threads: int | None,
    ) -> None:
        split = dataset.validation
        if split is None:
            raise UsageError(
                f"--quantize {format.variant}: the data has no validation split", hint="--set data.validation=0.1"
            )
        labels, count = split.all_labels(), len(split)
        self._examples = split.subset(limit_positions(labels, count, limit=min(_EXAMPLES, count), seed=seed))
        self._format, self._network, self._kind, self._task = format, network, kind, dataset.task
        self._gates, self._threads = gates, threads

    @cached_property
    def _reference(self) -> Reference:
        function = make_model_function(self._network, self._kind)
        outputs = compute_outputs(function, self._examples, batch_size=_BATCH_SIZE, on_batch=lambda done: None)
        labels = self._examples.all_labels()
        return Reference(self._network, outputs, labels, self._task, output_kind=self._kind)

    def __call__(self, serving: ServedModel, path: Path) -> bool:
        """Whether a file of a served model meets the gates."""
        runner = self._format.open(path, threads=self._threads)
        try:
            function = make_file_function(runner.predict, serving)
            outputs = compute_outputs(function, self._examples, batch_size=_BATCH_SIZE, on_batch=lambda done: None)
        finally:
            runner.close()
        metrics = collect_parity_metrics(compare_outputs(outputs, self._reference))
        judged = [(gate, metrics[gate.metric]) for gate in self._gates if gate.metric in metrics]
        return all(value is not None and gate.holds(value) for gate, value in judged)
