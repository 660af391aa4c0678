"""The end of a search: the preferred candidates as files, and the measurement of the best on test examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from kdcli.compression.candidate_runs import CandidateRuns, open_finished_run
from kdcli.compression.file_choice import FileChoice, FinalFile, choose_file
from kdcli.compression.record import SearchRecord, list_open, name_repeat
from kdcli.compression.report import write_compression
from kdcli.compression.request import BUDGET_SECONDS, CompressRequest
from kdcli.compression.rungs import Standing
from kdcli.compression.subject import SearchSubject
from kdcli.errors import LatencyCommandError, ModelError, TrainingError
from kdcli.events import Note
from kdcli.jobs.build import choose_epochs
from kdcli.models.network import Network
from kdcli.runs import writer
from kdcli.runs.compression_results import Compression
from kdcli.training.loop import steps_per_epoch

_SCRATCH_BYTES = 500_000_000
# The part of the budget that quantization-aware training may take, and how much longer its steps are.
_QUANTIZATION_PART, _ROUNDING_COST = 0.15, 2.0


class Finish:
    """Makes the file of a search whose candidates are trained.

    Args:
        runs: the trained candidates.
        compress: targets and options.
        record: of the search; extended by what is decided.
        began: when the command started, as `time.perf_counter` gives it.
    """

    def __init__(
        self, runs: CandidateRuns, compress: CompressRequest, record: SearchRecord, *, began: float
    ) -> None:
        self._runs, self._compress, self._record, self._began = runs, compress, record, began
        self._subject = runs.subject
        self._files: list[FinalFile] = []
        # Estimated seconds of all quantization-aware trainings.
        self._quantizing = 0.0

    def run(self, order: Sequence[Standing]) -> Compression:
        """Convert candidates in the order of preference until one meets every target, and measure the file.

        Args:
            order: the candidates after the last rung.

        Raises:
            ModelError: no candidate can be converted.
        """
        with ExitStack() as resources:
            choice = FileChoice(
                self._subject,
                self._compress,
                max_drop=self._record.max_drop,
                folder=resources.enter_context(writer.scratch_folder(_SCRATCH_BYTES)),
                resources=resources,
                latencies=self._record.latencies,
            )
            self._convert_all(choice, order)
            self._widen(choice)
            chosen = choose_file(self._files)
            final = choice.measure_on_test(chosen)
            self._write_record()
            gates = choice.judge(final, name=chosen.converted.path.name, strict=self._compress.strict)
            self._record.seconds["process"] = round(time.perf_counter() - self._began, 1)
            return write_compression(
                self._runs.directory,
                self._record,
                self._subject,
                self._compress,
                chosen=chosen,
                files=self._files,
                final=final,
                gates=gates,
            )

    def _convert_all(self, choice: FileChoice, order: Sequence[Standing]) -> None:
        errors: list[ModelError] = []
        for name, run in self._list_runs(order):
            try:
                self._convert(choice, name, run)
            except LatencyCommandError:
                raise
            except ModelError as error:
                errors.append(error)
                self._announce(f"{name}: {error.message}")
                continue
            if self._files[-1].passes:
                return
        if not self._files:
            raise errors[0]

    def _convert(self, choice: FileChoice, name: str, run: Path) -> None:
        try:
            network = open_finished_run(run, self._subject).network
            train = partial(self._train_quantized, name, run)
            self._files += choice.convert(name, network, train_quantized=train)
        finally:
            # What was timed is written before it decides anything.
            self._write_record()

    def _train_quantized(self, name: str, run: Path) -> Network | None:
        """The student of a run after quantization-aware training; None if that takes too much of the budget.

        It may exceed the budget a little: without it, a target is missed.
        """
        record, subject = self._record, self._subject
        train, examples = subject.request.recipe.train, len(subject.dataset.train)
        each = steps_per_epoch(examples, train.batch_size)
        steps = each * choose_epochs(train.model_copy(update={"quantize": "int8"}), each)
        seconds = _ROUNDING_COST * steps * record.costs.steps[record.split_repeat(name)[0]] + record.costs.build
        self._quantizing += seconds
        if self._quantizing > _QUANTIZATION_PART * (self._compress.budget or BUDGET_SECONDS):
            self._announce(f"{name}: too little time for quantization-aware training, about {seconds:.0f} s")
            return None
        self._announce(f"{name}: int8 misses a target: quantization-aware training, about {seconds:.0f} s")
        return self._runs.train_quantized(run)

    def _write_record(self) -> None:
        self._record.write(self._runs.directory)

    def _announce(self, text: str) -> None:
        self._subject.request.context.on_event(Note(text, warning=True))

    def _list_runs(self, order: Sequence[Standing]) -> list[tuple[str, Path]]:
        """The finished runs in the order of preference; of several repeats the best on validation comes first."""
        first, metric, directory = order[0].name, self._subject.metric, self._runs.directory
        repeats: list[tuple[float, str, Path]] = []
        for name, seed in list_repeats(first, self._subject, self._compress):
            outputs = directory.read_outputs(first, len(self._record.schedule.rungs), seed=seed)
            if outputs is not None:
                value = metric.measure(outputs)
                self._record.repeats[name] = value
                run = directory.run_of(first, seed=seed)
                repeats.append((value if metric.lower_is_better else -value, name, run))
        best = [(name, run) for _, name, run in sorted(repeats, key=lambda one: one[0])]
        return [*best, *((one.name, directory.run_of(one.name)) for one in order[1:])]

    def _widen(self, choice: FileChoice) -> None:
        """Train larger candidates while time is left, if the search is for the smallest file and none passes.

        The budget is compared with estimates, not with the clock, so that a resumed search decides the same.
        """
        if self._compress.targets.on_cost:
            return
        record, schedule = self._record, self._record.schedule
        tried = {record.split_repeat(file.candidate)[0] for file in self._files}
        failed = {name for rung in record.rungs for name in rung.failed}
        largest = max(record.candidates[name].bytes or 0 for name in tried)
        larger = [
            one
            for one in list_open(list(record.candidates.values()))
            if one.name not in failed and (one.bytes or 0) > largest
        ]
        left = (
            (self._compress.budget or BUDGET_SECONDS) - record.seconds["preparation"] - schedule.seconds["total"]
        )
        for candidate in sorted(larger, key=lambda one: one.bytes or 0):
            left -= schedule.steps * record.costs.steps[candidate.name] + record.costs.build
            if left < 0 or any(file.passes for file in self._files):
                return
            if candidate.name not in record.widened:
                record.widened.append(candidate.name)
                self._write_record()
            self._announce(f"no file meets the targets yet: training {candidate.name}, the next larger candidate")
            try:
                self._runs.train_to_end(candidate)
            except (ModelError, TrainingError):
                continue
            self._convert(choice, candidate.name, self._runs.directory.run_of(candidate.name))


def list_repeats(name: str, subject: SearchSubject, compress: CompressRequest) -> list[tuple[str, int | None]]:
    """The names and seeds of the repeats of a candidate; the first has the seed of the search."""
    seed = subject.request.recipe.train.seed
    further = [seed + number for number in range(1, compress.repeats)]
    return [(name, None), *((name_repeat(name, one), one) for one in further)]


def train_repeats(runs: CandidateRuns, compress: CompressRequest, record: SearchRecord) -> None:
    """Train the preferred candidate with further seeds; one that fails is left out."""
    first = record.rungs[-1].standings[0].name
    for name, seed in list_repeats(first, runs.subject, compress)[1:]:
        try:
            runs.train_to_end(record.candidates[first], seed=seed)
        except (ModelError, TrainingError):
            runs.subject.request.context.on_event(Note(f"{name} is left out", warning=True))
