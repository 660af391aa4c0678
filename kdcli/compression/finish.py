"""The end of a search: the preferred candidates as files, and the measurement of the best on test examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from kdcli.compression.candidate_runs import CandidateRuns, open_finished_run
from kdcli.compression.file_choice import FileChoice, FinalFile, choose_file
from kdcli.compression.record import SearchRecord, list_open
from kdcli.compression.report import write_compression
from kdcli.compression.request import BUDGET_SECONDS, CompressRequest
from kdcli.compression.rungs import Standing
from kdcli.errors import KdError
from kdcli.events import Note
from kdcli.runs import writer
from kdcli.runs.compression_results import Compression

_SCRATCH_BYTES = 500_000_000


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
        errors: list[KdError] = []
        for name, run in self._list_runs(order):
            try:
                self._convert(choice, name, run)
            except KdError as error:
                errors.append(error)
                self._announce(f"{name}: {error.message}")
                continue
            if self._files[-1].passes:
                return
        if not self._files:
            raise errors[0]

    def _convert(self, choice: FileChoice, name: str, run: Path) -> None:
        try:
            self._files += choice.convert(name, open_finished_run(run, self._subject).network)
        finally:
            # What was timed is written before it decides anything.
            self._write_record()

    def _write_record(self) -> None:
        self._record.write(self._runs.directory)

    def _announce(self, text: str) -> None:
        self._subject.request.context.on_event(Note(text, warning=True))

    def _list_runs(self, order: Sequence[Standing]) -> list[tuple[str, Path]]:
        """The finished runs in the order of preference; of several repeats the best on validation comes first."""
        first, metric = self._record.candidates[order[0].name], self._subject.metric
        seed = self._subject.request.recipe.train.seed
        repeats: list[tuple[float, str, Path]] = []
        for number in range(self._compress.repeats):
            at = None if number == 0 else seed + number
            run, logits = self._runs.train_to_end(first, seed=at)
            name, value = first.name if at is None else f"{first.name}-seed-{at}", metric.measure(logits)
            self._record.repeats[name] = value
            repeats.append((value if metric.lower_is_better else -value, name, run))
        best = [(name, run) for _, name, run in sorted(repeats, key=lambda one: one[0])]
        return [*best, *((one.name, self._runs.directory.run_of(one.name)) for one in order[1:])]

    def _widen(self, choice: FileChoice) -> None:
        """Where the smallest file is searched and none is good enough, train larger ones while time is left."""
        if self._compress.targets.on_cost:
            return
        budget, largest = (
            self._compress.budget or BUDGET_SECONDS,
            max(one.on_validation.bytes for one in self._files),
        )
        larger = [one for one in list_open(list(self._record.candidates.values())) if (one.bytes or 0) > largest]
        for number, candidate in enumerate(sorted(larger, key=lambda one: one.bytes or 0)):
            if any(file.passes for file in self._files):
                return
            if number >= len(self._record.widened):
                spent = self._record.seconds["preparation"] + time.perf_counter() - self._began
                if budget - spent < self._record.schedule.seconds["training"]:
                    return
                self._record.widened.append(candidate.name)
                self._write_record()
            self._announce(
                f"no file is within the drop: {candidate.name}, the next larger one, is trained to the end"
            )
            run, _ = self._runs.train_to_end(candidate)
            self._convert(choice, candidate.name, run)
