"""The plan of a job: resolved settings, layer pairs, export formats, expected time and memory, findings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import numpy as np

from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.stream import PREFETCH_BYTES
from kdcli.data.views import create_identity_views
from kdcli.distillation.pairing import Pair
from kdcli.distillation.targets import Targets
from kdcli.distillation.terms import Term
from kdcli.errors import ModelError
from kdcli.evaluation.footprint import count_weight_bytes
from kdcli.evaluation.gates import describe_export_gates
from kdcli.evaluation.latency.short_session import run_short_session
from kdcli.exports import EXPORT_FORMATS, Litert
from kdcli.exports.operations import CONVERTIBLE_OPERATIONS
from kdcli.jobs.job import Job
from kdcli.jobs.preflight import collect_loss_findings
from kdcli.jobs.training import make_stepper
from kdcli.jobs.training_findings import training_findings
from kdcli.loss import Parts
from kdcli.models.inference import copy_network, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.precision import compute_in
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.network import Network
from kdcli.models.prediction import Predictor
from kdcli.models.variables import count_values, preserve_values
from kdcli.recipe.document import SettingPath, iterate_settings, join_path
from kdcli.recipe.origins import Origins
from kdcli.recipe.sections import Recipe
from kdcli.runs import writer
from kdcli.runs.results import Plan
from kdcli.runs.run_environment import redact_document
from kdcli.spec import ExportFormat
from kdcli.teacher.outputs import TeacherOutputs
from kdcli.teacher.split_logits import sample_examples

# Whether a model can be exported to a format; any other text is the reason why not.
EXPORTABLE, ONE_AT_A_TIME, UNKNOWN = "yes", "one example at a time, not int8", "not known before it is exported"
# The number of steps that a dry run times after compiling, and of examples on which each part is timed.
_TIMED_STEPS, _TIMED_STUDENT_EXAMPLES, _TIMED_EXAMPLES = 4, 16, 256


def make_plan(job: Job, findings: tuple[str, ...], *, measured: bool) -> Plan:
    """Make the plan of a distillation, or of a training on labels.

    Args:
        job: built and, except with `--no-preflight`, checked.
        findings: of the preflight.
        measured: whether to time a few steps, as a dry run does.
    """
    dataset, network = job.dataset, job.trained.network
    outputs = job.teacher_outputs
    teachers = outputs.members if outputs is not None else ()
    teacher_parameters = sum(one.network.parameters or 0 for one in teachers)
    stored = min(outputs.bytes, RESIDENT_BYTES) if outputs is not None else 0
    data = dataset.train.bytes if dataset.train.bytes <= RESIDENT_BYTES else PREFETCH_BYTES
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    return Plan(
        settings=_make_settings_table(job.recipe, job.request.origins, job.resolved),
        teacher=job.trained.to_json() if job.role == "teacher" else job.teacher.to_json() if job.teacher else None,
        student=_describe_student(job) if job.role == "student" else None,
        pairs=make_pair_rows(job.terms),
        targets=outputs.to_json() if outputs is not None else {},
        data={
            "name": dataset.name,
            "task": dataset.task,
            "outputs": dataset.outputs,
            "notes": list(dataset.notes),
            **{name: len(split) if split is not None else 0 for name, split in splits.items()},
        },
        steps=job.train.steps or 0,
        epochs=job.train.epochs or 0,
        # Weights, their gradients and two moments of the optimizer, in float32.
        memory_bytes=data + stored + 4 * (4 * network.parameters + teacher_parameters),
        student_bytes=count_weight_bytes(network.parameters),
        student_formats=find_export_formats(network),
        seconds=_measure_seconds(job) if measured else {"teacher": None, "training": None},
        findings=_collect_findings(job, findings, with_export_gates=measured),
    )


def _make_settings_table(
    recipe: Recipe, origins: Origins, resolved: dict[SettingPath, Any]
) -> tuple[dict[str, Any], ...]:
    """Every setting with its value and origin."""
    values = redact_document(recipe.model_dump(mode="json", by_alias=True, exclude_none=True))
    rows = []
    for path, value in iterate_settings(values):
        origin = "auto" if path in resolved and origins.of(path) == "default" else origins.of(path)
        rows.append({"path": join_path(path), "value": value, "origin": origin})
    return tuple(rows)


def _describe_student(job: Job) -> dict[str, Any]:
    """The student with its measured latency."""
    train, network = job.dataset.train, job.trained.network
    timed = run_short_session(network, train.take(np.arange(min(len(train), _TIMED_STUDENT_EXAMPLES))))
    return {**job.trained.to_json(), **timed.to_json()}


def make_pair_rows(terms: Sequence[Term]) -> tuple[dict[str, Any], ...]:
    """List the student layers that learn from teacher layers, with projections and parts of the loss.

    A loss that compares outputs is listed if it has parts, with `output` on both sides. The parts of a loss belong
    to all its pairs, so they are listed only in its first row.
    """
    rows = []
    for term in terms:
        pairs = zip(term.pairs, term.projections, strict=True)
        chosen = [(pair, projection.text if projection else None) for pair, projection in pairs]
        parts = describe_parts(term.parts)
        if parts and not chosen:
            chosen = [(Pair("output", "output", False), None)]
        for pair, projection in chosen:
            row = {"loss": term.loss.label, **asdict(pair)}
            rows.append({**row, "projection": projection, "parts": parts})
            parts = None
    return tuple(rows)


def describe_parts(parts: Parts) -> str | None:
    """Describe the sizes of a loss's parts: trained weights, and state that only the loss changes."""
    trained = count_values(parts.trainable_variables)
    state = {
        name.replace("_", " "): count_values(Parts(kept={name: part}).variables)
        for name, part in parts.kept.items()
    }
    # The remaining variables are the statistics of batch normalization in the trained layers.
    state["running statistics"] = count_values(parts.variables) - trained - sum(state.values())
    texts = [f"{trained:,} trained weights"] if trained else []
    texts += [f"{size:,} values in {name}" for name, size in state.items() if size]
    return ", ".join(texts) or None


def find_export_formats(network: Network) -> dict[str, str]:
    """Find the formats that a model can be exported to before it is trained.

    A Keras model is converted, into scratch space, only if it has operations that a converter may lack.

    Args:
        network: behind its preprocessing; it is not changed.

    Returns:
        Each format with `EXPORTABLE`, `ONE_AT_A_TIME`, `UNKNOWN` or the reason why not.
    """
    if not isinstance(network, KerasNetwork):
        # It is trained as a graph with variables, and frozen at export.
        return {
            kind: EXPORTABLE if kind == "saved-model" else UNKNOWN for kind in EXPORT_FORMATS if kind != "keras"
        }
    formats = dict.fromkeys(EXPORT_FORMATS, EXPORTABLE)
    if network.operations <= CONVERTIBLE_OPERATIONS or len(network.preprocessing) != 1:
        return formats
    prepared = prepare_for_export(copy_network(network), network.saved_kind)
    for kind in ("litert", "onnx"):
        formats[kind] = _try_export(EXPORT_FORMATS[kind].model_validate({}), prepared)
    return formats


def _try_export(chosen: ExportFormat, network: Network) -> str:
    if not isinstance(chosen, Litert) and find_spec("tf2onnx") is None:
        return UNKNOWN
    reason = ""
    with writer.scratch_folder(12 * (network.parameters or 0)) as folder:
        for batch in (None, 1):
            try:
                chosen.write(
                    make_served_model(network, include_preprocessing=True, batch=batch),
                    folder / chosen.file_name("model"),
                )
            except ModelError as error:
                reason = error.message.split(": ", 2)[-1]
            else:
                return EXPORTABLE if batch is None else ONE_AT_A_TIME
    return reason


def _collect_findings(job: Job, findings: Sequence[str], *, with_export_gates: bool) -> tuple[str, ...]:
    """All findings on a job, in the order of the plan."""
    outputs = job.teacher_outputs
    loss_findings = collect_loss_findings(
        job.terms,
        student=job.trained.network,
        teacher=outputs.network if outputs is not None else None,
        replicas=job.strategy.num_replicas_in_sync,
        weighted=job.dataset.train.weights is not None,
    )
    names = [one.network.name for one in outputs.members] if outputs is not None else []
    return merge_findings(
        (
            *training_findings(job),
            *(outputs.texts if outputs is not None else ()),
            *findings,
            *loss_findings,
            *_list_notes(job),
            *(describe_export_gates(job.exported_gates, "RUN") if with_export_gates else ()),
        ),
        names if len(names) > 1 else (),
    )


def _list_notes(job: Job) -> list[str]:
    """The notes of the opened models, each with the role or the name of its model."""
    sides = [(job.role, job.trained)]
    if job.teacher_outputs is not None:
        members = job.teacher_outputs.members
        is_ensemble = len(members) > 1
        sides = [*((one.network.name if is_ensemble else "teacher", one.opened) for one in members), *sides]
    return [f"{role}: {text}" for role, side in sides for text in side.network.notes]


def merge_findings(findings: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Merge equal findings about several teachers, and shorten the paths of the teachers.

    Args:
        findings: those about one teacher have the form `TEACHER: sentence`.
        names: paths of the teachers; each is shortened to the end that differs from the others.
    """
    short = _shorten(names)
    subjects: dict[str, list[str]] = {}
    for finding in findings:
        subject = next((name for name in names if finding.startswith(f"{name}: ")), None)
        sentence = finding if subject is None else finding.removeprefix(f"{subject}: ")
        subjects.setdefault(sentence, []).extend([] if subject is None else [short[subject]])
    merged = [
        f"{', '.join(dict.fromkeys(named))}: {sentence}" if named else sentence
        for sentence, named in subjects.items()
    ]
    for name in sorted(names, key=len, reverse=True):
        merged = [sentence.replace(name, short[name]) for sentence in merged]
    return tuple(merged)


def _shorten(names: Sequence[str]) -> dict[str, str]:
    """The shortest end of each path that differs from the others."""
    parts = {name: name.split("/") for name in names}
    for length in range(1, max((len(one) for one in parts.values()), default=0) + 1):
        ends = {name: "/".join(one[-length:]) for name, one in parts.items()}
        if len(set(ends.values())) == len(parts):
            return ends
    return {name: name for name in names}


def measure_step_seconds(job: Job, targets: Targets | None) -> float:
    """Time a few training steps of a job after compiling; the weights are restored.

    Args:
        job: built.
        targets: targets for the first training examples; None for training on labels.
    """
    examples, network = job.dataset.train, job.trained.network
    parts = [variable for term in job.terms for variable in term.variables]
    with preserve_values([*network.variables, *parts]), compute_in(network, job.train.precision):
        stepper = make_stepper(job, targets)
        batch = min(job.train.batch_size, len(examples))
        stepper.start(
            np.resize(np.arange(min(_TIMED_EXAMPLES, len(examples))), (1 + _TIMED_STEPS, batch)),
            table=job.views.table(0),
            slot=0,
        )
        stepper.run(1, first=0)
        since = time.perf_counter()
        stepper.run(_TIMED_STEPS, first=1)
        return (time.perf_counter() - since) / _TIMED_STEPS


def _measure_seconds(job: Job) -> dict[str, float | None]:
    """Estimate the seconds of the whole run from a few steps and a teacher's batch; weights are restored."""
    outputs, targets, teacher_seconds = job.teacher_outputs, None, None
    if outputs is not None:
        _, targets = outputs.sample_targets()
        teacher_seconds = round(sum(measure_teacher_seconds(one) for one in outputs.members), 1)
    step_seconds = measure_step_seconds(job, targets)
    phases = {
        "teacher": teacher_seconds,
        "training": round(step_seconds * (job.train.steps or 0), 1),
        "evaluation": round(_measure_evaluation_seconds(job), 1),
    }
    return {**phases, "total": round(sum(seconds or 0.0 for seconds in phases.values()), 1)}


def _measure_evaluation_seconds(job: Job) -> float:
    """Estimate the seconds to evaluate the validation split after each epoch, and the test split once."""
    dataset, predict = job.dataset, Predictor(job.trained.network)
    counts = [(dataset.validation, job.train.epochs or 0), (dataset.test, 1)]
    total = sum(len(split) * times for split, times in counts if split is not None)
    count = min(_TIMED_EXAMPLES, len(dataset.train))
    with preserve_values(job.trained.network.variables):
        # The first call compiles.
        predict(dataset.train.take, count)
        since = time.perf_counter()
        predict(dataset.train.take, count)
    return (time.perf_counter() - since) / count * total


def measure_teacher_seconds(teacher_outputs: TeacherOutputs) -> float:
    """Estimate the seconds of a teacher's pass over the training examples; 0 if it needs none before training."""
    if (
        teacher_outputs.placement.mode == "live"
        or teacher_outputs.recorded
        or teacher_outputs.complete
        or not teacher_outputs.arrays
    ):
        return 0.0
    sample = sample_examples(teacher_outputs.dataset.train)
    with teacher_outputs.open_pass(sample, create_identity_views(sample)) as run_pass:
        count = min(_TIMED_EXAMPLES, len(sample))
        # The first call compiles.
        run_pass(0, 0, count)
        since = time.perf_counter()
        run_pass(0, 0, count)
        example_seconds = (time.perf_counter() - since) / count
    return example_seconds * len(teacher_outputs.dataset.train) * (teacher_outputs.views.count or 1)
