"""A comparison in words and tables, from its document: the same for a terminal and for `compare.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.runs.latency_results import FEW_SAMPLES

QUALITY_COLUMNS = ("gain", "verdict", "gap recovered", "won", "lost", "p", "runs")
SIZE_COLUMNS = ("parameters", "MB", "MFLOPs", "p50 ms", "p90 ms", "p99 ms", "÷ teacher's", "examples/s")


@dataclass(frozen=True)
class TextTable:
    """Cells as text; the first column is names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def make_tables(document: dict[str, Any]) -> tuple[TextTable, ...]:
    """The tables of `kd.compare/1`: quality, then size and latency."""
    return _quality(document), _size(document)


def make_sentences(document: dict[str, Any]) -> list[str]:
    """What must be read beside the tables, the verdicts first."""
    students, teacher, metric = document["students"], document["teacher"], document["metric"]
    lines = [_verdict(student, students, metric) for student in students if student["baseline"] is not None]
    lines += _about_chance(document)
    lines += [text for student in students if (text := _about_gap(student, teacher["score"]))]
    lines.append(
        "each pair starts from fresh weights of its seed"
        if document["start"] == "fresh"
        else "one initialisation (the file's); the spread covers order and dropout only"
    )
    gains = [student["gain"] for student in students if student["gain"]["mean"] is not None]
    if any(gain["over"] == "examples" for gain in gains):
        lines.append(
            "one pair: no variance estimate; the interval is that of these two files over the test examples"
        )
    if len(gains) > 1:
        lines.append(f"{len(gains)} arms are judged together (Holm): their intervals are wider than one at 95 %")
    lines.append("±: standard deviation over the runs; [ , ]: interval of the mean gain")
    if any(student["pairs"] for student in students):
        lines.append(
            "won, lost: test examples that only the distilled model, only its twin decides rightly, p: McNemar; "
            "all three of the pair that is best on validation"
        )
    lines += _about_the_split(document)
    floor = document["latency_noise_floor"]
    if floor:
        width = max(abs(floor["low"] - 1), abs(floor["high"] - 1))
        lines.append(
            f"latency noise floor ±{100 * width:.1f} %: two models of one graph differ by {floor['value']:.3f}×"
        )
    lines += [f"latency: {doubt}" for doubt in document["latency_doubts"]]
    timed = [entry["latency"] for entry in (teacher, *students) if entry.get("latency")]
    lines += list(dict.fromkeys(entry["no_ratio"] for entry in timed if entry.get("no_ratio")))
    if any(entry["p99_ms"] is None for entry in timed):
        lines.append(FEW_SAMPLES)
    return lines + list(document["notes"])


def _about_chance(document: dict[str, Any]) -> list[str]:
    """Which models are no better than guessing."""
    lines = ["the teacher is at chance on the test split"] if document["teacher"].get("at_chance") else []
    for student in document["students"]:
        runs = student["accuracy"]["runs"]
        guessing = sum(bool(run.get("at_chance")) for run in runs)
        if guessing:
            count = f"{guessing} of its {len(runs)} runs are" if len(runs) > 1 else "its run is"
            score = f"{document['metric']} {student['score']['mean']:.4f}"
            lines.append(
                f"{student['name']}: {count} at chance on the test split ({score}): it learned nothing there"
            )
    return lines


def _about_gap(student: dict[str, Any], teacher: float | None) -> str | None:
    """Why there is no gap between the teacher and a baseline that could be recovered."""
    gap, score = student.get("teacher_gap"), student["score"]["mean"]
    if gap is None or (gap["low"] is not None and gap["low"] > 0):
        return None
    sides = f"the teacher ({teacher:.4f})", f"{student['name']} ({score:.4f})"
    if gap["mean"] <= 0:
        return f"{sides[0]} is not better than {sides[1]}: it has nothing to hand down, and no gap to recover"
    if gap["low"] is None:
        return f"one run has no variance estimate: no gap recovered between {sides[0]} and {sides[1]} is given"
    return f"{sides[0]} and {sides[1]} differ by less than the noise ({_gain(gap)}): no gap to recover"


def render_markdown(document: dict[str, Any]) -> str:
    """`compare.md`."""
    parts = ["# Comparison"]
    for table in make_tables(document):
        rows = [table.columns, ("---",) + ("---:",) * (len(table.columns) - 1), *table.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts.append(f"## {table.title}\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {line}" for line in make_sentences(document)))
    environment = document["environment"]
    shown = ", ".join(f"{name} {value}" for name, value in environment["versions"].items() if value)
    parts.append(f"{shown}; {', '.join(environment['devices'])}; {environment['threads']} threads.")
    return "\n\n".join(parts) + "\n"


def _quality(document: dict[str, Any]) -> TextTable:
    teacher, metric = document["teacher"], document["metric"]
    score = _figure(teacher["score"])
    if teacher["low"] is not None and metric == "accuracy":
        score += f" [{teacher['low']:.4f}, {teacher['high']:.4f}]"
    rows = [("teacher", score, *[""] * len(QUALITY_COLUMNS))]
    for student in document["students"]:
        spread = student["score"]["sd"]
        mean = _figure(student["score"]["mean"]) + (f" ± {spread:.4f}" if spread is not None else "")
        pair = _shown_pair(student)
        recovered = student["gap_recovered"]
        rows.append(
            (
                student["name"],
                mean,
                _gain(student["gain"]),
                _shown_verdict(student, document["students"]),
                "" if recovered is None else f"{round(100 * recovered) + 0:d} %",
                str(pair["gained"]) if pair else "",
                str(pair["lost"]) if pair else "",
                f"{pair['p']:.3g}" if pair else "",
                str(len(student["accuracy"]["runs"])),
            )
        )
    return TextTable(
        f"{metric}, {document['examples']} test examples", ("model", metric, *QUALITY_COLUMNS), tuple(rows)
    )


def _size(document: dict[str, Any]) -> TextTable:
    rows = []
    for entry in ({"name": "teacher", **document["teacher"]}, *document["students"]):
        timed = entry.get("latency") or {}
        ratio = timed.get("ratio")
        rows.append(
            (
                entry["name"],
                "n/a" if entry["parameters"] is None else f"{entry['parameters']:,}",
                "n/a" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:.3f}",
                "n/a" if entry["flops"] is None else f"{entry['flops'] / 1e6:.3f}",
                *(_time(timed, name) for name in ("p50_ms", "p90_ms", "p99_ms")),
                f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else "",
                _figure(timed.get("examples_per_second"), "{:,.0f}"),
            )
        )
    timed = document["teacher"].get("latency")
    title = "size and latency"
    if timed:
        title += f", batch {timed['batch']}, {timed['runtime']}, {timed['threads']} threads"
    return TextTable(title, ("model", *SIZE_COLUMNS), tuple(rows))


def _both_at_chance(student: dict[str, Any], students: Sequence[dict[str, Any]]) -> bool:
    baseline = next((one for one in students if one["name"] == student["baseline"]), {})
    return bool(student.get("at_chance") and baseline.get("at_chance"))


def _shown_verdict(student: dict[str, Any], students: Sequence[dict[str, Any]]) -> str:
    if student["verdict"] is None:
        return "" if student["status"] == "finished" else "failed"
    return f"{student['verdict']}, both at chance" if _both_at_chance(student, students) else student["verdict"]


def _verdict(student: dict[str, Any], students: Sequence[dict[str, Any]], metric: str) -> str:
    if student["status"] != "finished":
        return f"{student['name']}: {student['status']}"
    if student["verdict"] is None:
        return f"{student['name']}: no pair is finished"
    words = {
        "better": "is better than",
        "worse": "is worse than",
        "inconclusive": "cannot be told from",
    }[student["verdict"]]
    text = f"{student['name']} {words} {student['baseline']}: {metric} {_gain(student['gain'])}"
    if _both_at_chance(student, students):
        text += "; both are at chance, so this says nothing about the distillation"
    return text


def _about_the_split(document: dict[str, Any]) -> Sequence[str]:
    lines, examples, share = [], document["examples"], document["disagreement"]
    visible = document["smallest_visible_gain"]
    if visible is not None:
        lines.append(
            f"one pair on {examples} test examples that disagree on {100 * share:.1f} % shows a gain of "
            f"{100 * visible:.2f} points or more (McNemar, 80 % power)"
        )
    elif share is not None:
        lines.append(f"{examples} test examples that disagree on {100 * share:.1f} % are too few to show any gain")
    if document["duplicates"]:
        lines.append(f"{document['duplicates']} test examples are in the training split too")
    return lines


def _shown_pair(student: dict[str, Any]) -> dict[str, Any] | None:
    """The pair that `mcnemar_p` belongs to: of the model that is best on validation."""
    return next((pair for pair in student["pairs"] if pair["seed"] == student["mcnemar_seed"]), None)


def _gain(gain: dict[str, Any]) -> str:
    if gain["mean"] is None:
        return ""
    # Plus 0.0: no minus before what rounds to nothing.
    mean, low, high = (
        None if gain[name] is None else round(gain[name], 4) + 0.0 for name in ("mean", "low", "high")
    )
    return f"{mean:+.4f}" if low is None else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _time(timed: dict[str, Any], name: str) -> str:
    """Empty where nothing was timed, a dash where there are too few samples."""
    return "" if not timed else _figure(timed[name], "{:.3f}") or "-"


def _figure(value: float | None, pattern: str = "{:.4f}") -> str:
    return "" if value is None else pattern.format(value)
