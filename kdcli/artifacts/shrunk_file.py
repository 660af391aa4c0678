"""Shrink a model to a student file: open it, find the size, measure both, and write the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from kdcli.artifacts.shrink_request import ShrinkRequest
from kdcli.artifacts.student_costs import CandidateFile, StudentCosts, TargetSearch
from kdcli.data.dataset import Dataset
from kdcli.data.examples import SINGLE_INPUT, Examples
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_flops, count_weight_bytes
from kdcli.evaluation.gates import check_gate_metrics, choose_gates, collect_metrics, judge_gates
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES
from kdcli.evaluation.quality import evaluate_split
from kdcli.models.files.open import open_file
from kdcli.models.keras.model import make_fresh_copy, save_to_bytes
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.random_inputs import draw_input
from kdcli.recipe.gates import Gate
from kdcli.runs import writer
from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import Quality
from kdcli.runs.shrink_results import ShrinkResult, SizedModel
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import open_named_data, select_examples
from kdcli.setup.open_models import choice_of
from kdcli.setup.request import Request
from kdcli.setup.shrunk_student import make_batches, require_shrinkable, resize_network, sample_calibration
from kdcli.setup.startup import start_tensorflow
from kdcli.shrinking.shrink import Shrinker, ShrunkModel

# Space for exported candidates, in addition to their weights.
_SCRATCH_BYTES = 100_000_000
# Examples on which accuracy is measured, if --limit does not set another number; random inputs without data.
_MEASURED_EXAMPLES, _RANDOM_EXAMPLES = 2000, 32
# A student that is not faster than this fraction of the teacher's latency is mentioned.
_NOT_FASTER = 0.95


@dataclass(frozen=True)
class _Teacher:
    """The opened teacher, the examples that it is measured on, and those that rank its channels.

    `batch_size` is the number of examples that are measured at a time.
    """

    network: KerasNetwork
    dataset: Dataset | None
    examples: Examples | None
    calibration: Examples
    batch_size: int = 256


def shrink_to_file(shrink_request: ShrinkRequest, request: Request) -> ShrinkResult:
    """Shrink a model, measure it and the teacher, and write it; with `dry_run`, nothing is written.

    Raises:
        UsageError: no student meets the targets, or `out` exists.
        ModelError: the model cannot be shrunk.
    """
    context = request.context
    _check_out(shrink_request)
    gates = choose_gates("shrink", shrink_request.gates, request.recipe.gates, on_event=context.on_event)
    start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code)
    with ExitStack() as resources:
        folder = resources.enter_context(writer.scratch_folder(_SCRATCH_BYTES))
        teacher = _open(shrink_request, request, resources)
        if teacher.dataset is not None:
            check_gate_metrics("shrink", gates, teacher.dataset.task, labelled=teacher.dataset.labelled)
        raw = teacher.calibration.take(np.arange(min(len(teacher.calibration), POOL_EXAMPLES)))
        costs = StudentCosts(
            teacher.network,
            shrink_request.form,
            raw,
            folder=folder,
            resources=resources,
            threads=context.threads,
            seed=request.recipe.data_seed,
            latency_command=shrink_request.latency_command,
        )
        result = _shrink(shrink_request, request, teacher, costs, gates)
        content = None if context.dry_run else save_to_bytes(result.model, folder)
    if content is not None:
        writer.write_bytes(shrink_request.out, content)
    return result


def _shrink(
    shrink_request: ShrinkRequest, request: Request, teacher: _Teacher, costs: StudentCosts, gates: Sequence[Gate]
) -> ShrinkResult:
    """Find the size, build the student and measure both models."""
    settings, seed, dry_run = shrink_request.settings, request.recipe.data_seed, request.context.dry_run
    network = resize_network(teacher.network, settings.side)
    batches = None if teacher.dataset is None else make_batches(network, teacher.calibration)
    shrinker = Shrinker(
        network.model,
        settings,
        batches=batches,
        kind=network.saved_kind,
        output=network.output_index,
        seed=seed,
        rank_blocks=dry_run and batches is not None,
    )
    keep = settings.fraction
    if shrink_request.targets.are_set:
        keep = TargetSearch(shrinker, shrink_request.targets, costs, like=network).find()
    shrunk = shrinker.build(keep, statistics=not shrink_request.fresh)
    model = (
        shrunk.model if not shrink_request.fresh else make_fresh_copy(shrunk.model, seed=request.recipe.train.seed)
    )
    student, findings = costs.wrap(model, like=network), _describe(shrunk)
    files = {} if dry_run else _export(costs, teacher.network, student, findings)
    before, after, runtime = _measure(teacher, student, costs, files, request, findings)
    return ShrinkResult(
        path=None if dry_run else shrink_request.out,
        source=shrink_request.source,
        model=model,
        teacher=before,
        student=after,
        keep=keep,
        importance=settings.importance,
        start="fresh" if shrink_request.fresh else "inherited",
        measured_as=shrink_request.measured_as,
        runtime=runtime,
        split=teacher.examples.split if teacher.examples is not None else None,
        layers=shrunk.layers,
        blocks=tuple(
            {"name": block.name, "change": block.change, "left_out": block in shrunk.blocks}
            for block in shrinker.found_blocks
        ),
        low_rank=tuple(
            {"name": "/".join(split.path), "rank": split.rank, "energy": split.energy} for split in shrunk.splits
        ),
        findings=tuple(findings),
        gates=_judge(gates, shrink_request, before, after),
    )


def _check_out(shrink_request: ShrinkRequest) -> None:
    if shrink_request.out.suffix != ".keras":
        raise UsageError(
            f"--out {shrink_request.out}: the student is a .keras file",
            hint=f"--out {shrink_request.out.stem}.keras",
        )
    if shrink_request.out.is_dir() or (shrink_request.out.exists() and not shrink_request.overwrite):
        raise UsageError(f"--out {shrink_request.out} exists", hint="another --out, or --overwrite")
    if (
        shrink_request.out.exists()
        and shrink_request.source.exists()
        and shrink_request.out.samefile(shrink_request.source)
    ):
        raise UsageError(f"--out {shrink_request.out} is the teacher itself", hint="another --out")


def _open(shrink_request: ShrinkRequest, request: Request, resources: ExitStack) -> _Teacher:
    """Open the teacher: behind its preprocessing if there is data, else as the file takes it."""
    on_event = request.context.on_event
    if not request.has_data:
        section = request.recipe.teacher
        file = open_file(
            shrink_request.source,
            trust=request.trust,
            part=choice_of(section, "teacher"),
            rebuild=True,
            on_event=on_event,
        )
        network = require_shrinkable(file.network)
        return _Teacher(*_add_random_inputs(network))
    dataset = open_named_data(request, carve=True, on_event=on_event)
    opened = open_evaluated_file(
        shrink_request.source,
        "teacher",
        request=request,
        dataset=dataset,
        threads=request.context.threads,
        opened=resources,
        on_event=on_event,
        rebuild=True,
    )
    network = require_shrinkable(opened.network)
    calibration = sample_calibration(dataset, seed=request.recipe.data_seed)
    limit = shrink_request.limit or min(_MEASURED_EXAMPLES, len(dataset.split("auto")))
    examples = select_examples(dataset, request, split="auto", limit=limit, on_event=on_event)
    return _Teacher(network, dataset, examples, calibration, shrink_request.batch_size or 256)


def _add_random_inputs(network: KerasNetwork) -> tuple[KerasNetwork, None, None, Examples]:
    """The network with an identity as its preprocessing, and random inputs: enough to measure size and speed."""
    generator = np.random.default_rng(0)
    preprocessing, inputs = {}, {}
    for spec in network.inputs:
        if None in spec.shape:
            raise ModelError(
                f"{network.name}: takes inputs of any size, so its cost is not known",
                hint="--data D sets the size",
            )
        shape: tuple[int, ...] = tuple(side or 1 for side in spec.shape)
        name = SINGLE_INPUT if len(network.inputs) == 1 else spec.name
        inputs[name] = draw_input(spec, _RANDOM_EXAMPLES, generator)
        preprocessing[name] = Preprocessing(shape, inputs[name].dtype.name, shape, spec.dtype, "raw")
    examples = Examples("random", inputs, None, None, np.arange(_RANDOM_EXAMPLES))
    return network.with_preprocessing(preprocessing), None, None, examples


def _export(
    costs: StudentCosts, teacher: KerasNetwork, student: KerasNetwork, findings: list[str]
) -> dict[str, CandidateFile]:
    """Both models as files of the measured format; adds a finding where one cannot be converted."""
    try:
        return {"teacher": costs.write(teacher, name="teacher"), "student": costs.write(student)}
    except ModelError as error:
        findings.append(f"size and latency of the file were not measured: {error.message}")
        return {}


def _measure(
    teacher: _Teacher,
    student: KerasNetwork,
    costs: StudentCosts,
    files: Mapping[str, CandidateFile],
    request: Request,
    findings: list[str],
) -> tuple[SizedModel, SizedModel, str | None]:
    """Both models, and the runtime that timed them; adds a finding if the student is not faster."""
    session = costs.time(files) if files else None
    sized: list[SizedModel] = []
    logits: np.ndarray | None = None
    for name, network in (("teacher", teacher.network), ("student", student)):
        quality, logits = _evaluate(network, teacher, request, logits)
        sized.append(
            SizedModel(
                parameters=network.parameters,
                bytes=count_weight_bytes(network.parameters),
                exported=files[name].bytes if files else None,
                flops=count_flops(network),
                p50_ms=session.summarize(name).p50_ms if session else None,
                quality=quality,
            )
        )
    before, after = sized
    if session is None:
        return before, after, None
    ratio = session.ratio("student", "teacher").value
    if ratio > _NOT_FASTER:
        findings.append(f"the student is not faster than the teacher (latency ratio {ratio:.2f})")
    return before, after, session.summarize("student").description


def _evaluate(
    network: KerasNetwork, teacher: _Teacher, request: Request, logits: np.ndarray | None
) -> tuple[Quality | None, np.ndarray | None]:
    """The quality of a network, compared with the teacher's logits, and its own logits; None without data."""
    if teacher.dataset is None or teacher.examples is None:
        return None, None
    return evaluate_split(
        network,
        teacher.examples,
        task=teacher.dataset.task,
        on_event=request.context.on_event,
        teacher=logits,
        batch_size=teacher.batch_size,
    )


def _describe(shrunk: ShrunkModel) -> list[str]:
    findings = [f"{text}, so the channels around it stay" for text in shrunk.unknown]
    if shrunk.statistics:
        count = "layer" if shrunk.statistics == 1 else "layers"
        findings.append(f"re-estimated the statistics of {shrunk.statistics} BatchNorm {count}")
    if all(layer.before == layer.after for layer in shrunk.layers) and shrunk.keep < 1:
        findings.append("no channel was removed: every width is fixed or too small to round down")
    return findings


def _judge(
    gates: Sequence[Gate], shrink_request: ShrinkRequest, teacher: SizedModel, student: SizedModel
) -> tuple[GateResult, ...]:
    if not gates:
        return ()
    quality = student.quality or Quality(task="classification", examples=0)
    metrics = collect_metrics(
        quality,
        size=student.exported or 0,
        parameters=student.parameters,
        teacher_accuracy=teacher.quality.accuracy if teacher.quality else None,
        flops=student.flops,
    )
    name, unknown = str(shrink_request.out), {}
    if student.exported is None:
        metrics["size_mb"], unknown = None, {name: {"size_mb": "no file was exported"}}
    return judge_gates(gates, {name: metrics}, unknown=unknown)
