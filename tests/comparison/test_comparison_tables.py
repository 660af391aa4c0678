"""The tables and sentences of a comparison, from documents written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kdcli.comparison.tables import make_sentences, make_tables, render_markdown

NO_GAIN = {"mean": None, "low": None, "high": None}
LATENCY = {
    "runtime": "tensorflow",
    "threads": 2,
    "batch": 1,
    "p50_ms": 0.5,
    "p90_ms": 0.75,
    "p99_ms": None,
    "examples_per_second": 12345.6,
}


def student(name: str, *, baseline: str | None = "scratch", mean: float = 0.9, **values) -> dict[str, Any]:
    entry = {
        "name": name,
        "status": "finished",
        "baseline": baseline,
        "score": {"mean": mean, "sd": 0.01},
        "accuracy": {"mean": mean, "sd": 0.01, "runs": [{"seed": 0}, {"seed": 1}]},
        "gain": NO_GAIN if baseline is None else {"mean": 0.02, "low": 0.01, "high": 0.03, "over": "repeats"},
        "gap_recovered": None if baseline is None else 0.256,
        "mcnemar_seed": 1,
        "pairs": [] if baseline is None else [{"seed": 0, "gained": 9, "lost": 8, "p": 1.0}, PAIR],
        "verdict": None if baseline is None else "better",
        "parameters": 1234567,
        "bytes": 4938268,
        "flops": None,
        "latency": None,
    }
    return {**entry, **values}


PAIR = {"seed": 1, "gained": 30, "lost": 10, "p": 0.00222}


def document(*students, teacher=None, **values) -> dict[str, Any]:
    numbers = {"score": 0.95, "low": 0.9, "high": 0.98, "parameters": 9, "bytes": 36, "flops": 18, "latency": None}
    return {
        "metric": "accuracy",
        "examples": 10_000,
        "start": "fresh",
        "teacher": {**numbers, **(teacher or {})},
        "students": list(students or (student("scratch", baseline=None), student("cnn/soft"))),
        "latency_noise_floor": None,
        "latency_doubts": [],
        "smallest_visible_gain": 0.0039,
        "disagreement": 0.02,
        "duplicates": 0,
        "notes": [],
        "environment": {"versions": {"kdcli": "1.0", "jax": None}, "devices": ["CPU"], "threads": 2},
        **values,
    }


def rows_of(table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_the_quality_table_has_the_pair_that_is_best_on_validation():
    quality, _ = make_tables(document())
    teacher, scratch, distilled = rows_of(quality)
    assert (teacher["accuracy"], teacher["gain"]) == ("0.9500 [0.9000, 0.9800]", "")
    assert (scratch["accuracy"], scratch["verdict"], scratch["wins"]) == ("0.9000 ± 0.0100", "", "")
    assert (distilled["wins"], distilled["losses"], distilled["p"], distilled["runs"]) == (
        "30",
        "10",
        "0.00222",
        "2",
    )
    assert (distilled["gain"], distilled["gap recovered"]) == ("+0.0200 [+0.0100, +0.0300]", "26%")


def test_the_size_table_has_a_dash_for_too_few_samples_and_na_for_unknown_numbers():
    ratio = {"value": 0.5, "low": 0.4, "high": 0.625}
    timed = student("cnn/soft", latency={**LATENCY, "ratio": ratio})
    size = make_tables(document(student("scratch", baseline=None), timed, teacher={"latency": LATENCY}))[1]
    teacher, scratch, distilled = rows_of(size)
    assert size.title == "size and latency, batch 1, tensorflow, 2 threads"
    assert (teacher["MFLOPs"], scratch["MFLOPs"], scratch["parameters"]) == ("0.000", "n/a", "1,234,567")
    assert (scratch["MB"], scratch["p50 ms"], scratch["p99 ms"]) == ("4.938", "", "")
    assert (distilled["p50 ms"], distilled["p99 ms"], distilled["÷ teacher"]) == (
        "0.500",
        "-",
        "0.500 [0.400, 0.625]",
    )
    assert distilled["examples/s"] == "12,346"


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("better", "is better than"), ("worse", "is worse than"), ("inconclusive", "cannot be distinguished from")],
)
def test_the_first_sentence_is_the_verdict(verdict, words):
    first = make_sentences(document(student("scratch", baseline=None), student("d", verdict=verdict)))[0]
    assert first == f"d {words} scratch: accuracy +0.0200 [+0.0100, +0.0300]"


def test_a_failed_arm_is_named_with_its_status():
    failed = student("d", status="failed: no memory", verdict=None, gain=NO_GAIN, pairs=[])
    report = document(student("scratch", baseline=None), failed)
    assert make_sentences(report)[0] == "d: failed: no memory"
    assert rows_of(make_tables(report)[0])[2]["verdict"] == "failed"


def test_a_verdict_between_models_at_chance_says_so():
    runs = {"accuracy": {"runs": [{"at_chance": True}, {"at_chance": True}]}, "at_chance": True}
    report = document(
        student("scratch", baseline=None, **runs),
        student("d", verdict="inconclusive", **runs),
        teacher={"at_chance": True},
    )
    assert rows_of(make_tables(report)[0])[2]["verdict"] == "inconclusive, both at chance"
    sentences = make_sentences(report)
    assert sentences[0].endswith("both are at chance, so this says nothing about the distillation")
    assert "the teacher is at chance on the test split" in sentences
    assert any(text.startswith("d: 2 of its 2 runs are at chance") for text in sentences)


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ({"mean": 0.05, "low": 0.01, "high": 0.09}, None),
        ({"mean": 0.05, "low": -0.01, "high": 0.11}, "less than the noise (+0.0500 [-0.0100, +0.1100])"),
        ({"mean": -0.01, "low": -0.02, "high": 0.0}, "is not better than scratch (0.9000)"),
        ({"mean": 0.05, "low": None, "high": None}, "no variance estimate"),
    ],
)
def test_a_gap_that_cannot_be_recovered_is_explained(gap, words):
    sentences = make_sentences(document(student("scratch", baseline=None, teacher_gap=gap), student("d")))
    about = [text for text in sentences if "the teacher (0.9500)" in text]
    assert len(about) == (words is not None)
    assert words is None or words in about[0]


def test_sentences_explain_the_power_of_the_test_split():
    assert "on 10,000 test examples, a pair that differs on 2.0% of them shows a gain of 0.39 points or more" in (
        "\n".join(make_sentences(document()))
    )
    few = make_sentences(document(smallest_visible_gain=None))
    assert "10,000 test examples are too few to show any gain of a pair that differs on 2.0%" in few
    none = make_sentences(document(smallest_visible_gain=None, disagreement=None))
    assert not any("too few" in text for text in none)


def test_sentences_name_what_limits_the_results():
    floor = {"value": 0.98, "low": 0.95, "high": 1.02}
    one_pair = student("d", gain={"mean": 0.02, "low": 0.01, "high": 0.03, "over": "examples"})
    report = document(
        student("scratch", baseline=None),
        one_pair,
        student("e"),
        start="file",
        duplicates=5,
        latency_noise_floor=floor,
        latency_doubts=["the machine was busy"],
        notes=["a note"],
        teacher={"latency": {**LATENCY, "no_ratio": "no latency ratio: why"}},
    )
    sentences = make_sentences(report)
    for start in (
        "all runs start from the weights of the file",
        "one pair has no variance estimate",
        "2 arms are tested together (Holm)",
        "5 test examples are also in the training split",
        "latency noise floor ±5.0%",
        "latency: the machine was busy",
        "no latency ratio: why",
        "p99: -",
        "a note",
    ):
        assert sum(text.startswith(start) for text in sentences) == 1, start


def test_markdown_has_both_tables_all_sentences_and_the_environment():
    report = document(student("scratch", baseline=None), student("a|b"))
    text = render_markdown(report)
    assert text.count("| model |") == 2 and "| a\\|b |" in text
    assert all(f"- {sentence}\n" in text for sentence in make_sentences(report))
    assert text.endswith("kdcli 1.0; CPU; 2 threads.\n")
