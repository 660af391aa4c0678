"""The tables and sentences of a comparison, made from its document, for the terminal and for `compare.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.runs.latency_results import FEW_SAMPLES

QUALITY_COLUMNS = ("gain", "verdict", "gap recovered", "wins", "losses", "p", "runs")
SIZE_COLUMNS = ("parameters", "MB", "MFLOPs", "p50 ms", "p90 ms", "p99 ms", "÷ teacher", "examples/s")


@dataclass(frozen=True)
class TextTable:
    """A table with text cells; the first column has the names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


# What every pair starts from.
_STARTS = {
    "fresh": "each pair starts from new weights, drawn with its seed",
    "file": "all runs start from the weights of the file; the spread only covers example order and dropout",
    "inherited": "all runs, those of the baseline too, start from weights inherited from the teacher; the spread "
    "only covers example order and dropout",
    "mixed": "an arm with `inherited` in its name starts, like its baseline, from the teacher's weights, and its "
    "spread only covers example order and dropout; other pairs start from new weights, drawn with the seed",
}


def make_tables(document: dict[str, Any]) -> tuple[TextTable, ...]:
    """The tables of `kd.compare/1`: quality, then size and latency."""
    return _make_quality_table(document), _make_size_table(document)


def make_sentences(document: dict[str, Any]) -> list[str]:
    """What to know about the tables, starting with the verdicts."""
    students, teacher, metric = document["students"], document["teacher"], document["metric"]
    lines = [
        _describe_verdict(student, students, metric) for student in students if student["baseline"] is not None
    ]
    lines += _describe_chance(document)
    lines += [text for student in students if (text := _explain_missing_gap(student, teacher["score"]))]
    lines.append(_STARTS.get(document["start"], _STARTS["file"]))
    gains = [student["gain"] for student in students if student["gain"]["mean"] is not None]
    if any(gain["over"] == "examples" for gain in gains):
        lines.append(
            "one pair has no variance estimate; the interval is for these two files, over the test examples"
        )
    if len(gains) > 1:
        lines.append(f"{len(gains)} arms are tested together (Holm): their intervals are wider than 95% intervals")
    lines.append("±: standard deviation over runs; [ , ]: interval of the mean gain")
    if any(student["pairs"] for student in students):
        lines.append(
            "wins / losses: test examples that only the distilled model / only its baseline classifies correctly; "
            "p: McNemar's test; all three for the pair that is best on validation"
        )
    lines += _describe_test_split(document)
    floor = document["latency_noise_floor"]
    if floor:
        width = max(abs(floor["low"] - 1), abs(floor["high"] - 1))
        lines.append(
            f"latency noise floor ±{width:.1%}: ratio of two models with the same graph {floor['value']:.3f}"
        )
    lines += [f"latency: {doubt}" for doubt in document["latency_doubts"]]
    timed = [entry["latency"] for entry in (teacher, *students) if entry.get("latency")]
    lines += list(dict.fromkeys(entry["no_ratio"] for entry in timed if entry.get("no_ratio")))
    if any(entry["p99_ms"] is None for entry in timed):
        lines.append(FEW_SAMPLES)
    return lines + list(document["notes"])


def _describe_chance(document: dict[str, Any]) -> list[str]:
    """A sentence for each model that is no better than guessing."""
    lines = ["the teacher is at chance on the test split"] if document["teacher"].get("at_chance") else []
    for student in document["students"]:
        runs = student["accuracy"]["runs"]
        at_chance = sum(bool(run.get("at_chance")) for run in runs)
        if at_chance:
            count = f"{at_chance} of its {len(runs)} runs are" if len(runs) > 1 else "its run is"
            score = f"{document['metric']} {student['score']['mean']:.4f}"
            lines.append(
                f"{student['name']}: {count} at chance on the test split ({score}): it has learned nothing"
            )
    return lines


def _explain_missing_gap(student: dict[str, Any], teacher: float | None) -> str | None:
    """Why there is no gap between teacher and baseline to recover; None if there is one."""
    gap, score = student.get("teacher_gap"), student["score"]["mean"]
    if gap is None or (gap["low"] is not None and gap["low"] > 0):
        return None
    models = f"the teacher ({teacher:.4f})", f"{student['name']} ({score:.4f})"
    if gap["mean"] <= 0:
        return f"{models[0]} is not better than {models[1]}: there is no gap to recover"
    if gap["low"] is None:
        return f"one run has no variance estimate: the gap between {models[0]} and {models[1]} is not evaluated"
    return f"{models[0]} and {models[1]} differ by less than the noise ({_format_gain(gap)}): no gap to recover"


def render_markdown(document: dict[str, Any]) -> str:
    """The text of `compare.md`."""
    parts = ["# Comparison"]
    for table in make_tables(document):
        rows = [table.columns, ("---",) + ("---:",) * (len(table.columns) - 1), *table.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts.append(f"## {table.title}\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {line}" for line in make_sentences(document)))
    environment = document["environment"]
    versions = ", ".join(f"{name} {value}" for name, value in environment["versions"].items() if value)
    parts.append(f"{versions}; {', '.join(environment['devices'])}; {environment['threads']} threads.")
    return "\n\n".join(parts) + "\n"


def _make_quality_table(document: dict[str, Any]) -> TextTable:
    teacher, metric = document["teacher"], document["metric"]
    score = _format_number(teacher["score"])
    if teacher["low"] is not None and metric == "accuracy":
        score += f" [{teacher['low']:.4f}, {teacher['high']:.4f}]"
    rows = [("teacher", score, *[""] * len(QUALITY_COLUMNS))]
    for student in document["students"]:
        spread = student["score"]["sd"]
        mean = _format_number(student["score"]["mean"]) + (f" ± {spread:.4f}" if spread is not None else "")
        pair = _find_best_pair(student)
        recovered = student["gap_recovered"]
        rows.append(
            (
                student["name"],
                mean,
                _format_gain(student["gain"]),
                _format_verdict(student, document["students"]),
                "" if recovered is None else f"{round(100 * recovered) + 0:d}%",
                str(pair["gained"]) if pair else "",
                str(pair["lost"]) if pair else "",
                f"{pair['p']:.3g}" if pair else "",
                str(len(student["accuracy"]["runs"])),
            )
        )
    return TextTable(
        f"{metric}, {document['examples']} test examples", ("model", metric, *QUALITY_COLUMNS), tuple(rows)
    )


def _make_size_table(document: dict[str, Any]) -> TextTable:
    rows = []
    for entry in ({"name": "teacher", **document["teacher"]}, *document["students"]):
        timed = entry.get("latency") or {}
        ratio = timed.get("ratio")
        rows.append(
            (
                entry["name"],
                _format_number(entry["parameters"], "{:,}") or "n/a",
                _format_millions(entry["bytes"]),
                _format_millions(entry["flops"]),
                *(_format_time(timed, name) for name in ("p50_ms", "p90_ms", "p99_ms")),
                f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "",
                _format_number(timed.get("examples_per_second"), "{:,.0f}"),
            )
        )
    timed = document["teacher"].get("latency")
    title = "size and latency"
    if timed:
        title += f", batch {timed['batch']}, {timed['runtime']}, {timed['threads']} threads"
    return TextTable(title, ("model", *SIZE_COLUMNS), tuple(rows))


def _are_both_at_chance(student: dict[str, Any], students: Sequence[dict[str, Any]]) -> bool:
    baseline = next((one for one in students if one["name"] == student["baseline"]), {})
    return bool(student.get("at_chance") and baseline.get("at_chance"))


def _format_verdict(student: dict[str, Any], students: Sequence[dict[str, Any]]) -> str:
    if student["verdict"] is None:
        return "" if student["status"] == "finished" else "failed"
    return (
        f"{student['verdict']}, both at chance" if _are_both_at_chance(student, students) else student["verdict"]
    )


def _describe_verdict(student: dict[str, Any], students: Sequence[dict[str, Any]], metric: str) -> str:
    if student["status"] != "finished":
        return f"{student['name']}: {student['status']}"
    if student["verdict"] is None:
        return f"{student['name']}: no pair of runs is finished"
    words = {
        "better": "is better than",
        "worse": "is worse than",
        "inconclusive": "cannot be distinguished from",
    }[student["verdict"]]
    text = f"{student['name']} {words} {student['baseline']}: {metric} {_format_gain(student['gain'])}"
    if _are_both_at_chance(student, students):
        text += "; both are at chance, so this says nothing about the distillation"
    return text


def _describe_test_split(document: dict[str, Any]) -> Sequence[str]:
    lines, examples, disagreement = [], document["examples"], document["disagreement"]
    visible = document["smallest_visible_gain"]
    if visible is not None:
        lines.append(
            f"on {examples:,} test examples, a pair that differs on {disagreement:.1%} of them shows a gain of "
            f"{100 * visible:.2f} points or more (McNemar, 80% power)"
        )
    elif disagreement is not None:
        lines.append(
            f"{examples:,} test examples are too few to show any gain of a pair that differs on {disagreement:.1%}"
        )
    if document["duplicates"]:
        lines.append(f"{document['duplicates']:,} test examples are also in the training split")
    return lines


def _find_best_pair(student: dict[str, Any]) -> dict[str, Any] | None:
    """The pair that `mcnemar_p` is for: that of the model that is best on validation."""
    return next((pair for pair in student["pairs"] if pair["seed"] == student["mcnemar_seed"]), None)


def _format_gain(gain: dict[str, Any]) -> str:
    if gain["mean"] is None:
        return ""
    # Adding 0.0 removes the sign of a negative zero.
    mean, low, high = (
        None if gain[name] is None else round(gain[name], 4) + 0.0 for name in ("mean", "low", "high")
    )
    return f"{mean:+.4f}" if low is None else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _format_time(timed: dict[str, Any], name: str) -> str:
    """Milliseconds; empty if the model was not timed, a dash if there are too few samples."""
    return "" if not timed else _format_number(timed[name], "{:.3f}") or "-"


def _format_number(value: float | None, pattern: str = "{:.4f}") -> str:
    return "" if value is None else pattern.format(value)


def _format_millions(value: int | None) -> str:
    return "n/a" if value is None else f"{value / 1e6:.3f}"
