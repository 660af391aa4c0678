"""The documents of a search: `compress.json`, `compress.md` and the files that come out of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.compression.candidates import Candidate
from kdcli.compression.file_choice import FinalFile, Measured
from kdcli.compression.record import SearchRecord
from kdcli.compression.request import CompressRequest
from kdcli.compression.subject import SearchSubject
from kdcli.evaluation.footprint import count_model_bytes
from kdcli.evaluation.parity import to_logits
from kdcli.evaluation.quality import measure_classes
from kdcli.recipe.sections import LOWER_IS_BETTER
from kdcli.runs import writer
from kdcli.runs.compression_results import Compression
from kdcli.runs.directory import STUDENT_FILE
from kdcli.runs.export_results import render_interface_files
from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path
from kdcli.runs.run_environment import collect_versions, describe_machine, hash_file
from kdcli.runs.search_directory import MODEL_STEM, SearchDirectory
from kdcli.runs.shared_directory import read_json_object
from kdcli.setup.startup import device_record, strategy_for


def read_compression(directory: SearchDirectory) -> Compression | None:
    """Read a finished search; None if it is not finished."""
    document = read_json_object(directory.report)
    if not document:
        return None
    gates = tuple(GateResult(**{**one, "files": tuple(one.get("files", ()))}) for one in document["gates"])
    return Compression(out=directory.path, document=document, gates=gates)


def write_compression(
    directory: SearchDirectory,
    record: SearchRecord,
    subject: SearchSubject,
    compress: CompressRequest,
    *,
    chosen: FinalFile,
    files: Sequence[FinalFile],
    final: Measured,
    gates: Sequence[GateResult],
) -> Compression:
    """Copy the file and its model, then write the tables and the document, whose presence marks the end.

    Args:
        directory: of the search.
        record: what was measured and decided.
        subject: data and teacher.
        compress: targets and format.
        chosen: the file.
        files: all files that were converted.
        final: the measurement of the chosen one.
        gates: results of its targets and gates.
    """
    failing = ("failed", "inconclusive") if compress.strict else ("failed",)
    met = not any(gate.state in failing for gate in gates)
    folder = directory.path if met else directory.nearest
    base, seed = record.split_repeat(chosen.candidate)
    run = directory.run_of(base, seed=seed)
    if chosen.is_trained_for_int8:
        run = directory.quantized_run_of(run)
    artifacts = _copy_files(folder, chosen, run)
    name = relativize_path(artifacts[0])
    gates = [GateResult(**{**vars(gate), "model": name}) for gate in gates]
    document = {
        **_describe_result(record, subject, compress, chosen=chosen, final=final, met=met),
        "gates": [gate.to_json() | ({"reason": gate.reason} if gate.reason else {}) for gate in gates],
        "artifacts": [_describe_artifact(path, directory) for path in artifacts],
        "files": [_describe_file(file) for file in files],
    }
    document["picked"]["path"] = str(artifacts[0].relative_to(directory.path))
    document["findings"] += _find_still_improving(run)
    writer.write_text(directory.tables, render_search_tables(document))
    writer.write_text(directory.report, json.dumps(document, indent=2) + "\n")
    written = read_compression(directory)
    assert written is not None
    return written


def _describe_result(
    record: SearchRecord,
    subject: SearchSubject,
    compress: CompressRequest,
    *,
    chosen: FinalFile,
    final: Measured,
    met: bool,
) -> dict[str, Any]:
    """The document without what depends on where files are."""
    candidate = record.candidates[record.split_repeat(chosen.candidate)[0]]
    described = describe_candidates(record, picked=candidate.name, met=met)
    return {
        "schema": "kd.compress/1",
        "targets": {**compress.targets.to_json(), "max_drop": record.max_drop},
        "met": met,
        "metric": subject.metric.name,
        "split": final.split,
        "seed": subject.request.recipe.train.seed,
        "picked": {
            "candidate": chosen.candidate,
            "quantize": chosen.converted.format.variant,
            "qat": chosen.is_trained_for_int8,
            "parameters": candidate.parameters,
            "validation": chosen.on_validation.value,
            **_describe_measured(final),
        },
        "teacher": {**describe_teacher(subject), **_describe_teacher_on(final)},
        "ratios": _make_ratios(subject, candidate, final),
        "classes": _describe_worst_class(subject, chosen),
        "candidates": described,
        "front": make_front(described, lower_is_better=subject.metric.lower_is_better),
        "schedule": record.schedule.to_json(),
        "rungs": [rung.to_json() for rung in record.rungs],
        "repeats": record.repeats,
        "findings": list(record.findings),
        "seconds": record.seconds,
        "environment": {
            "versions": collect_versions(),
            "machine": describe_machine(),
            **device_record(strategy_for(subject.request.recipe.train.devices)),
        },
    }


def _copy_files(folder: Path, chosen: FinalFile, run: Path) -> list[Path]:
    """Copy the file, its Keras model, `labels.txt` and `input.json`; the file comes first."""
    form, scratch = chosen.converted.format, chosen.converted.path.parent / "out"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    target = scratch / f"{MODEL_STEM}{form.suffix}"
    form.copy_to(chosen.converted.path, target)
    form.add_labels(target, chosen.source.class_names)
    names = [target.name]
    keras_file = run / STUDENT_FILE
    if keras_file.exists() and target.suffix != ".keras":
        shutil.copyfile(keras_file, scratch / f"{MODEL_STEM}.keras")
        names.append(f"{MODEL_STEM}.keras")
    for name, text in render_interface_files({target.name: chosen.interface}, chosen.source.class_names).items():
        (scratch / name).write_text(text, "utf-8")
        names.append(name)
    writer.make_folder(folder)
    for name in names:
        writer.remove(folder / name)
        if (scratch / name).is_dir():
            writer.copy_folder(scratch / name, folder / name)
        else:
            writer.write_bytes(folder / name, (scratch / name).read_bytes())
    return [folder / name for name in names]


def _describe_artifact(path: Path, directory: SearchDirectory) -> dict[str, Any]:
    file = path if path.is_file() else None
    return {
        "path": str(path.relative_to(directory.path)),
        "bytes": count_model_bytes(path),
        "sha256": None if file is None else hash_file(file),
    }


def _describe_measured(measured: Measured) -> dict[str, Any]:
    quality = measured.quality
    return {
        "bytes": measured.bytes,
        "value": measured.value,
        "accuracy": quality.accuracy,
        "low": quality.low,
        "high": quality.high,
        "agreement": quality.agreement,
        "examples": quality.examples,
        "drop": {"value": measured.drop, "low": measured.low, "high": measured.high},
        "flops": measured.flops,
        "ram_bytes": measured.ram_bytes,
        "latency": measured.latency,
        "latency_ratio": measured.ratio,
        "latency_doubts": list(measured.doubts),
    }


def describe_teacher(subject: SearchSubject) -> dict[str, Any]:
    """Path, size and metric of the teacher on the validation split."""
    paths = [one.path for one in subject.teachers]
    return {
        "path": relativize_path(paths[0]) if paths[0] else None,
        "members": len(subject.teachers),
        "parameters": subject.parameters,
        "bytes": count_model_bytes(paths[0]) if paths[0] and len(paths) == 1 else None,
        "validation": subject.metric.measure_teacher(),
    }


def _describe_teacher_on(final: Measured) -> dict[str, Any]:
    quality = final.teacher_quality
    return {
        "value": final.teacher,
        "low": quality.low,
        "high": quality.high,
        "file_bytes": final.teacher_bytes,
        "latency": final.teacher_latency,
    }


def _make_ratios(subject: SearchSubject, candidate: Candidate, final: Measured) -> dict[str, float | None]:
    """How many times smaller and faster: weights against weights, file against file of one format, and latency."""
    parameters, ratio = subject.parameters, final.ratio
    return {
        "parameters": parameters / candidate.parameters if parameters and candidate.parameters else None,
        "file": final.teacher_bytes / final.bytes if final.teacher_bytes else None,
        "latency": None if ratio is None else 1 / ratio["value"],
    }


def _describe_worst_class(subject: SearchSubject, chosen: FinalFile) -> dict[str, Any] | None:
    """The class with the lowest recall, before and after, on the validation split."""
    metric, names = subject.metric, subject.dataset.class_names
    if metric.task != "classification" or metric.labels is None:
        return None
    ours = to_logits(chosen.converted.outputs, chosen.source.reference)
    results = []
    for logits in (metric.teacher, ours):
        classes = measure_classes(logits, metric.labels, task=metric.task, names=names)
        worst = min((one for one in classes if one.recall is not None), key=lambda one: one.recall or 0.0)
        results.append({"name": worst.name, "recall": worst.recall, "examples": worst.examples})
    return {"split": "validation", "teacher": results[0], "file": results[1]}


def _describe_file(file: FinalFile) -> dict[str, Any]:
    measured = file.on_validation
    return {
        "candidate": file.candidate,
        "quantize": file.converted.format.variant,
        "bytes": measured.bytes,
        "validation": measured.value,
        "drop": measured.drop,
        "latency": measured.latency,
        "passes": file.passes,
        "missed": [gate.name for gate in file.gates if gate.state == "failed"],
    }


def describe_candidates(
    record: SearchRecord, *, picked: str | None = None, met: bool = True
) -> list[dict[str, Any]]:
    """Entries of `candidates`: each with its last value on the validation split, and why it is out.

    Args:
        record: of the search.
        picked: name of the candidate of the file, at the end.
        met: whether that file meets every target.
    """
    last = {one.name: (number, one.value) for number, rung in enumerate(record.rungs, 1) for one in rung.standings}
    failed = {name: why for rung in record.rungs for name, why in rung.failed.items()}
    total, described = len(record.schedule.rungs), []
    for one in record.candidates.values():
        status, reason = one.status, one.reason
        number, value = last.get(one.name, (0, None))
        if one.name in failed:
            status, reason = "failed", failed[one.name]
        elif one.name == picked:
            status = "picked" if met else "nearest"
        elif number == total or one.name in record.widened:
            status = "trained"
        elif number:
            status, reason = "rejected", f"ranked too low after rung {number} of {total}"
        described.append(
            {
                "name": one.name,
                "family": one.family,
                "status": status,
                "reason": reason,
                "student": one.student,
                "start": one.start,
                "parameters": one.parameters,
                "flops": one.flops,
                "bytes": one.bytes,
                "latency": None if one.latency_ms is None else {"p50_ms": one.latency_ms},
                "rung": number or None,
                "validation": value,
            }
        )
    return described


def make_front(candidates: Sequence[dict[str, Any]], *, lower_is_better: bool) -> list[str]:
    """The names of the trained candidates that no smaller one beats on validation, the smallest first."""
    sign = -1.0 if lower_is_better else 1.0
    trained = [one for one in candidates if one["status"] in ("picked", "nearest", "trained")]
    front: list[str] = []
    best: float | None = None
    for one in sorted(trained, key=lambda one: one["bytes"] or 0):
        if best is None or sign * one["validation"] > best:
            front.append(one["name"])
            best = sign * one["validation"]
    return front


def _find_still_improving(run: Path) -> list[str]:
    """A note if the metric that selects the weights still improved in the last epochs of a run."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    keys = [key for key in history[-1] if key.startswith("validation.")] if history else []
    if len(history) < 8 or not keys:
        return []
    sign = -1.0 if keys[0].removeprefix("validation.") in LOWER_IS_BETTER else 1.0
    values = [sign * line[keys[0]] for line in history]
    quarter = len(values) // 4
    recent = sum(values[-quarter:]) / quarter - sum(values[-2 * quarter : -quarter]) / quarter
    earlier = sum(values[-2 * quarter : -quarter]) / quarter - sum(values[-3 * quarter : -2 * quarter]) / quarter
    if values[-1] >= max(values[:-quarter]) and recent > 0 and recent > 0.5 * earlier:
        epochs = f"--epochs {2 * len(values)} and a larger --budget may help"
        return [f"the metric was still improving at the last epoch; {epochs}"]
    return []


def render_search_tables(document: dict[str, Any]) -> str:
    """Render `compress.md`: the file beside the teacher, and all candidates with the reason."""
    picked, teacher = document["picked"], document["teacher"]
    metric, front = document["metric"], document["front"]
    title = (
        "The file meets every target." if document["met"] else "No file meets every target; this is the nearest."
    )
    lines = [f"# kd compress\n\n{title}\n", "| | teacher | file |", "|---|---|---|"]
    lines.append(f"| path | `{teacher['path']}` | `{picked['path']}` |")
    lines.append(f"| parameters | {_count(teacher['parameters'])} | {_count(picked['parameters'])} |")
    lines.append(f"| bytes | {_count(teacher['bytes'])} | {_count(picked['bytes'])} |")
    drop = picked["drop"]
    lines.append(f"| {metric}, {document['split']} | {teacher['value']:.4f} | {picked['value']:.4f} |")
    lines.append(f"| drop | | {drop['value']:+.4f} [{drop['low']:+.4f}, {drop['high']:+.4f}] |")
    if picked["latency"]:
        before = teacher["latency"]["p50_ms"] if teacher["latency"] else None
        shown = "n/a" if before is None else f"{before:.4g}"
        lines.append(f"| p50 ms | {shown} | {picked['latency']['p50_ms']:.4g} |")
    lines += ["", "| target | value | bound | state |", "|---|---|---|---|"]
    for gate in document["gates"]:
        value = "n/a" if gate["value"] is None else f"{gate['value']:.6g}"
        reason = f", {gate['reason']}" if gate.get("reason") else ""
        lines.append(f"| {gate['name']} | {value} | {gate['bound']} | {gate['state']}{reason} |")
    lines += ["", "| candidate | status | parameters | bytes | validation | front | reason |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in document["candidates"]:
        value = "" if one["validation"] is None else f"{one['validation']:.4f}"
        cells = [one["name"], one["status"], _count(one["parameters"]), _count(one["bytes"]), value]
        cells += ["yes" if one["name"] in front else "", one["reason"] or ""]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", *(f"- {text}" for text in document["findings"])]
    return "\n".join(lines).rstrip() + "\n"


def _count(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"
