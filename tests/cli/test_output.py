"""Output on stdout and stderr, for people, scripts and `--json`."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import save_npz
from small_models import save_linear_model

RECIPE = """\
data: {source: data.npz}
teacher: {model: {kind: zoo, name: mlp, width: 8, depth: 1}}
student: {model: {kind: file, path: student.keras}}
losses:
  - {kind: labels, weight: 0.5}
  - {kind: soft_targets}
train: {epochs: 3, batch_size: 16, optimizer: {kind: adam, learning_rate: 0.02}}
"""
TEACHER = ("train-teacher", "--recipe", "./recipe.yaml", "--out", "teacher")
DISTILL = ("distill", "--recipe", "./recipe.yaml", "--teacher", "teacher.keras", "--out", "run")
EVALUATE = ("evaluate", "teacher.keras", "student.keras", "--data", "data.npz")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_linear_model(folder / "teacher.keras", seed=1)
    save_linear_model(folder / "student.keras", seed=2)
    save_npz(folder / "data.npz")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(kd, files, tmp_path) -> Path:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "schema"),
    [(TEACHER, "kd.run/1"), (DISTILL, "kd.run/1"), (EVALUATE, "kd.evaluate/1")],
    ids=["train-teacher", "distill", "evaluate"],
)
def test_json_is_exactly_one_document_on_stdout(kd, here, words, schema):
    ran = kd(*words, "--json")
    assert ran.code == 0, ran.err
    assert ran.document["schema"] == schema
    assert ran.out == json.dumps(ran.document, indent=2) + "\n"
    assert "NaN" not in ran.out
    assert "next:" not in ran.err


def test_summary_is_the_json_document(kd, here):
    ran = kd(*DISTILL, "--json")
    assert json.loads((here / "run" / "summary.json").read_text()) == ran.document


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (TEACHER, "teacher/teacher.keras\n"),
        (DISTILL, "run/student.keras\n"),
        (EVALUATE, "teacher.keras\nstudent.keras\n"),
    ],
    ids=["train-teacher", "distill", "evaluate"],
)
def test_quiet_prints_only_the_path(kd, here, words, shown):
    ran = kd(*words, "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, shown, "")


def test_quiet_prints_errors(kd, here):
    ran = kd("evaluate", "missing.keras", "--data", "data.npz", "--quiet")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("error: missing.keras: no such model file\nhint: ")


def test_result_is_on_stdout_and_progress_on_stderr(kd, here):
    ran = kd(*DISTILL)
    assert ran.code == 0
    accuracy = json.loads((here / "run" / "summary.json").read_text())["test"]["accuracy"]
    assert re.search(rf"^accuracy +{accuracy:.4f}", ran.out, re.MULTILINE)
    assert "run/student.keras: 195 parameters" in ran.out
    for progress in ("epoch", "next:", "training"):
        assert not re.search(f"^{progress}", ran.out, re.MULTILINE)
    assert "data.npz: 86 train, 10 validation, 48 test; classification, 3 outputs" in ran.err
    assert "teacher.keras" in ran.err
    assert "3 epochs, 15 steps" in ran.err


def test_one_plain_line_an_epoch_when_there_is_no_terminal(kd, here):
    ran = kd(*DISTILL)
    lines = [line for line in ran.err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    logged = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    for line, metrics in zip(lines, logged, strict=True):
        assert f"loss {metrics['loss']:.4f}" in line
        assert f"soft_targets {metrics['losses.soft_targets']:.4f}" in line
        assert f"validation.accuracy {metrics['validation.accuracy']:.4f}" in line
    assert any(line.endswith("best") for line in lines)
    assert "\r" not in ran.err


def test_next_command_is_printed_and_works(kd, here):
    import shlex

    ran = kd(*TEACHER)
    named = re.findall("^next: kd (.*)$", ran.err, re.MULTILINE)
    assert len(named) == 1
    assert "distill --teacher teacher" in named[0]
    ran = kd(*shlex.split(named[0]), "--out", "run")
    assert ran.code == 0, ran.err
    named = re.findall("^next: kd (.*)$", ran.err, re.MULTILINE)
    assert named == ["evaluate run"]
    assert kd(*shlex.split(named[0])).code == 0


@pytest.mark.parametrize("words", [TEACHER, DISTILL], ids=["train-teacher", "distill"])
def test_dry_run_prints_the_plan_and_writes_nothing(kd, here, words):
    before = sorted(os.listdir(here))
    ran = kd(*words, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    plan = ran.document
    assert plan["schema"] == "kd.plan/1"
    keys = {"settings", "teacher", "student", "pairs", "targets", "steps", "seconds", "memory_bytes"}
    assert keys | {"student_bytes", "findings"} <= set(plan)
    assert (plan["steps"], plan["student_bytes"]["float32"] > 0) == (15, True)
    origins = {row["path"]: (row["value"], row["origin"]) for row in plan["settings"]}
    assert origins["train.epochs"] == (3, "./recipe.yaml:7")
    assert origins["train.seed"] == (0, "default")
    assert origins["data.task"] == ("classification", "auto")
    ran = kd(*words, "--dry-run", "--seed", "3", "--verbose")
    assert ran.code == 0
    assert "15 steps" in ran.out + ran.err
    assert re.search(r"train\.seed +3 +--seed", ran.out + ran.err)
    assert sorted(os.listdir(here)) == before


def test_dry_run_prints_the_plan_on_stdout(kd, here):
    ran = kd(*DISTILL, "--dry-run")
    assert "nothing was written" in ran.out
    assert "15 steps" in ran.out
    assert "next:" not in ran.err


@pytest.mark.parametrize("way", ["", "--no-color", "NO_COLOR", "GITHUB_ACTIONS"])
def test_no_escapes_without_a_terminal_or_with_colours_off(kd, here, monkeypatch, way):
    if way.isupper():
        monkeypatch.setenv(way, "1")
    words = [way] if way.startswith("--") else []
    good = kd(*EVALUATE, *words)
    bad = kd("evaluate", "missing.keras", "--data", "data.npz", *words)
    assert (good.code, bad.code) == (0, 4)
    for text in (good.out, good.err, bad.out, bad.err):
        assert "\x1b" not in text


def test_tables_truncate_no_number_in_a_narrow_terminal(kd, here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    ran = kd(*EVALUATE, "--json")
    table = kd(*EVALUATE, "--teacher", "teacher.keras").out
    assert "…" not in table
    for model in ran.document["models"]:
        row = next(line for line in table.splitlines() if line.startswith(model["path"]))
        for name in ("accuracy", "loss", "ece", "balanced_accuracy"):
            assert f"{model[name]:.4f}" in row
        assert f"[{model['low']:.4f}, {model['high']:.4f}]" in row
        assert f"{model['bytes']:,}" in row


@pytest.mark.parametrize(("p99", "shown"), [(0.3, False), (None, True)])
def test_a_quantile_that_needs_more_samples_is_explained(p99, shown):
    from kdcli.cli.evaluate import _make_latency_table

    quantiles = {"p50_ms": 0.1, "p90_ms": 0.2, "p99_ms": p99, "mean_ms": 0.1, "sd_ms": 0.01, "ratio": None}
    counts = {"samples": 433, "calls_per_sample": 2, "best_batch": 8, "outliers": 0, "examples_per_second": 10.0}
    latency = {"runtime": "litert", "threads": 2, **quantiles, **counts}
    floor = {"value": 1.0, "low": 0.9, "high": 1.1}
    document = {"latency_noise_floor": floor, "models": [{"path": "m.tflite", "latency": latency}]}
    table, *lines = _make_latency_table(document)
    cells = [cell for column in table.columns for cell in column.cells]
    assert "433 × 2 calls" in cells
    assert ((cells.count("-") == 2) is shown) and (
        any("p99" in line and "1,000" in line for line in lines) is shown
    )


def test_evaluation_names_the_split_and_the_number_of_examples(kd, here):
    ran = kd(*EVALUATE)
    assert "48 examples" in ran.out + ran.err
    assert "test split" in ran.out + ran.err


def test_default_directory_names_the_command_and_the_recipe(kd, here):
    ran = kd(*DISTILL[:-2], "--quiet")
    assert re.fullmatch(r"runs/\d{8}-\d{6}_distill_recipe/student\.keras\n", ran.out)


def test_github_step_summary_is_left_alone_without_gates(kd, here, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "step.md"))
    assert kd(*EVALUATE).code == 0
    assert not (here / "step.md").exists()
