"""Gates on the command line: exit code 7, one document, the job summary, a script as CI would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import save_npz
from small_models import save_linear_model

from kdcli.cli.export import ExportGateGroup
from kdcli.cli.gates import GateGroup, enforce_gates
from kdcli.errors import UsageError
from kdcli.recipe.gates import Gate
from kdcli.runs.gate_results import GateResult

EVALUATE = ("evaluate", "model.keras", "--data", "data.npz")
DISTILL = ("distill", "--teacher", "model.keras", "--student", "student.keras", "--data", "data.npz")
DISTILL = (*DISTILL, "--epochs", "1")
RECIPE = """\
losses: [{kind: soft_targets}]
gates: {accuracy: ">= 0.5", gain: ">= 0.005"}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gates")
    for seed, name in enumerate(("model.keras", "student.keras")):
        save_linear_model(folder / name, seed=seed)
    save_npz(folder / "data.npz")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(kd, files, tmp_path) -> Path:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_short_forms_are_gates():
    given = {
        "gate": ["ece<=0.1"],
        "min_accuracy": 0.97,
        "max_accuracy_drop": 0.01,
        "max_export_drop": 0.02,
        "min_gain": None,
        "min_agreement": 0.9,
        "max_latency_ms": 5.0,
        "max_latency_ratio": 0.5,
        "max_size_mb": 2.0,
    }
    assert ExportGateGroup(**given).read() == (
        Gate("ece", "<=", 0.1),
        Gate("accuracy", ">=", 0.97),
        Gate("accuracy_drop", "<=", 0.01),
        Gate("export_drop", "<=", 0.02),
        Gate("agreement", ">=", 0.9),
        Gate("latency_ms", "<=", 5.0),
        Gate("latency_ratio", "<=", 0.5),
        Gate("size_mb", "<=", 2.0),
    )


def test_short_form_in_percent_names_the_option():
    with pytest.raises(UsageError, match=r"--min-accuracy 97.5: must be a fraction, not a percentage"):
        GateGroup(min_accuracy=97.5).read()


@pytest.mark.parametrize(
    ("state", "strict", "code", "text"),
    [
        ("passed", True, None, ""),
        ("failed", False, 7, "error: gate failed: a.keras: accuracy is 0.93, bound >= 0.97"),
        (
            "inconclusive",
            False,
            None,
            "warning: gate inconclusive: a.keras: accuracy is 0.93, bound >= 0.97 (why)",
        ),
        ("inconclusive", True, 7, "error: gate inconclusive: a.keras: accuracy is 0.93, bound >= 0.97 (why)"),
    ],
)
def test_state_decides_the_exit_code(capsys, monkeypatch, state, strict, code, text):
    import typer

    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    reason = "why" if state == "inconclusive" else ""
    result = GateResult("accuracy", 0.93, ">= 0.97", state, "a.keras", reason)
    if code is None:
        enforce_gates([result], strict=strict)
    else:
        with pytest.raises(typer.Exit) as ended:
            enforce_gates([result], strict=strict)
        assert ended.value.exit_code == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", text)


@pytest.mark.parametrize("words", [EVALUATE, DISTILL], ids=["evaluate", "distill"])
def test_failed_gate_is_seven_after_one_whole_document(kd, here, words):
    ran = kd(*words, "--gate", "accuracy>=0.5", "--gate", "parameters<=1", "--json")
    assert ran.code == 7
    assert ran.out == json.dumps(ran.document, indent=2) + "\n"
    gates = {gate["name"]: gate for gate in ran.document["gates"]}
    assert (gates["accuracy"]["state"], gates["parameters"]["state"]) == ("passed", "failed")
    assert set(gates["parameters"]) == {"name", "value", "bound", "state", "model"}
    assert gates["parameters"]["bound"] == "<= 1"
    assert (here / gates["parameters"]["model"]).exists()
    (text,) = [line for line in ran.err.splitlines() if "gate" in line]
    assert text.startswith("error: gate failed: ") and "bound <= 1" in text


def test_a_size_that_the_weights_alone_exceed_is_refused_before_training(kd, here):
    kernels = 64 * 3 / 1e6
    before = sorted(os.listdir(here))
    ran = kd(*DISTILL, "--max-size-mb", f"{kernels - 1e-6:.6f}")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-2:] == [
        "error: gate size_mb <= 0.000191: the kernels of student.keras alone take 0.000192 MB in the smallest "
        "format (int8)",
        "hint: use a smaller student, or a larger bound",
    ]
    assert sorted(os.listdir(here)) == before


def test_a_size_that_may_hold_is_left_to_the_file_that_ships(kd, here):
    bound = f"{64 * 3 / 1e6:.6f}"
    ran = kd(*DISTILL, "--out", "run", "--max-size-mb", bound, "--json")
    assert (ran.code, ran.document["gates"]) == (0, [])
    left = "gate size_mb <= 0.000192 applies to the exported file; check it with kd export"
    assert ran.err.count(f"{left} run --format litert --gate 'size_mb<=0.000192'") == 1
    plan = kd(*DISTILL, "--max-size-mb", bound, "--dry-run", "--json").document
    assert any(finding.startswith(left) for finding in plan["findings"])
    again = kd("distill", "--out", "run", "--resume", "--max-size-mb", bound, "--json")
    assert (again.code, again.document["gates"]) == (0, [])
    assert f"{left} run --format litert" in again.err


def test_passed_gates_are_shown_without_a_message(kd, here):
    ran = kd(*EVALUATE, "--min-accuracy", "0.5")
    assert ran.code == 0
    assert "gate" not in ran.err
    assert any(line.split()[0] == "accuracy" and line.endswith("passed") for line in ran.out.splitlines() if line)
    quiet = kd(*EVALUATE, "--max-size-mb", "0.001", "--quiet")
    assert (quiet.code, quiet.out) == (7, "model.keras\n")
    assert quiet.err.startswith("error: gate failed: model.keras: size_mb is ")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((*EVALUATE, "--min-gain", "0"), "gate gain >= 0: kd evaluate does not measure it", "kd compare"),
        ((*EVALUATE, "--max-latency-ms", "5"), "latency is not measured", "hint: --latency"),
        ((*EVALUATE, "--min-agreement", "0.5"), "there is no teacher", "hint: --teacher FILE"),
        ((*EVALUATE, "--min-accuracy", "97.5"), "not a percentage: write 0.975", "accuracy>=0.975"),
        ((*DISTILL, "--max-latency-ms", "5"), "kd distill does not measure it", "kd evaluate MODEL --latency"),
        ((*DISTILL, "--gate", "mae<=1"), "not a metric of classification data", "metrics: accuracy"),
    ],
)
def test_gate_that_cannot_be_judged_is_refused_before_work(kd, here, words, message, hint):
    before = sorted(os.listdir(here))
    ran = kd(*words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err and hint in ran.err.splitlines()[-1]
    assert sorted(os.listdir(here)) == before


def test_gates_of_a_recipe_hold_in_distill_and_after_it_ended(kd, here):
    words = (*DISTILL, "--recipe", "./recipe.yaml", "--out", "run")
    ran = kd(*words, "--json")
    assert ran.code == 0, ran.err
    assert [(gate["name"], gate["state"]) for gate in ran.document["gates"]] == [("accuracy", "passed")]
    assert "gate gain >= 0.005 is not checked here, but by kd compare" in ran.err
    assert json.loads((here / "run" / "summary.json").read_text()) == ran.document
    assert "gates:\n  accuracy: '>= 0.5'" in (here / "run" / "recipe.yaml").read_text()
    again = kd(*words, "--resume", "--json", "--min-agreement", "1", "--max-accuracy-drop", "-0.5")
    states = {gate["name"]: gate["state"] for gate in again.document["gates"]}
    assert again.code == 7
    assert states == {"accuracy": "passed", "agreement": states["agreement"], "accuracy_drop": "failed"}
    # The run's own gates are checked again unless others are set.
    alone = kd("distill", "--out", "run", "--resume", "--json")
    assert [gate["name"] for gate in alone.document["gates"]] == ["accuracy"]


def test_job_summary_is_continued_in_github_actions_only(kd, here, monkeypatch):
    summary = here / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert kd(*EVALUATE, "--min-accuracy", "0.5").code == 0
    assert summary.read_text() == "before\n"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert kd(*EVALUATE, "--min-accuracy", "0.5", "--max-size-mb", "0.001").code == 7
    lines = summary.read_text().splitlines()
    assert lines[:5] == [
        "before",
        "### kd gates",
        "",
        "| gate | model | value | bound | state |",
        "|---|---|---|---|---|",
    ]
    assert lines[5].startswith("| accuracy | model.keras | ") and lines[5].endswith(" | >= 0.5 | passed |")
    assert lines[6].endswith(" | <= 0.001 | failed |")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "missing" / "summary.md"))
    ran = kd(*EVALUATE, "--min-accuracy", "0.5")
    assert ran.code == 0
    assert "warning: cannot write the job summary" in ran.err


SCRIPT = """
set -e
kd() { "$PYTHON" -m kdcli "$@"; }
kd evaluate model.keras --data data.npz --min-accuracy 0.5 --json > document.json
"$PYTHON" -m json.tool document.json > /dev/null
set +e
kd evaluate model.keras --data data.npz --max-size-mb 0.001 --json | "$PYTHON" -m json.tool > piped.json
codes="${PIPESTATUS[*]}"
set -e
echo "codes $codes"
kd evaluate model.keras --data data.npz --max-size-mb 0.001 --quiet
echo "not reached"
"""


def test_script_as_a_pipeline_would_run_it(here):
    environment = {**os.environ, "PYTHON": sys.executable, "GITHUB_ACTIONS": "true", "CI": "true"}
    environment["GITHUB_STEP_SUMMARY"] = str(here / "summary.md")
    ran = subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=here,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 7, ran.stderr[-2000:]
    assert ran.stdout == "codes 7 0\nmodel.keras\n"
    assert json.loads((here / "piped.json").read_text())["gates"][0]["state"] == "failed"
    assert ran.stderr.count("error: gate failed: model.keras: size_mb") == 2
    assert "\x1b" not in ran.stdout + ran.stderr
    assert (here / "summary.md").read_text().count("### kd gates") == 3
