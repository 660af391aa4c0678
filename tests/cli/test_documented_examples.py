"""Commands and code in the README, the quickstart, the command pages and the Python page run as they say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import save_npz
from writers.examples import GROUPS, run_page, shorten, steps

from kdcli.cli.app import run as run_kd

ROOT = Path(__file__).parents[2]
TRAINING = ("train-teacher", "distill", "compare")
# Lines that depend on the machine and on how long was trained.
VOLATILE = ("epoch", "note", "warning:", "run", "extra", "latency:", "...")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the examples, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def run(words, folder):
    """Run `kd` in this process: the exit code, and both streams in order."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = run_kd(words)
    return code, printed.getvalue()


def run_briefly(words, folder):
    """The same with little training."""
    words = list(words)
    if words[0] in TRAINING:
        for option, value in (("--epochs", "3"), *([("--repeats", "2")] if words[0] == "compare" else [])):
            if option in words:
                del words[words.index(option) : words.index(option) + 2]
            words += [option, value]
    return run(words, folder)


def run_python(code, folder):
    exec(compile(code, "page", "exec"), {})


def heads(lines):
    """What stays when numbers and timings change: the first cell of each line with cells, and headings."""
    found = []
    for line in lines:
        if line.startswith(("error:", "hint:", "next:")):
            found.append(line.split()[0])
        elif "  " in line.strip() and not line.startswith(VOLATILE):
            cells = re.split(r"\s{2,}", line.strip())
            # The heading of a table is compared whole.
            whole = len(cells) > 2 and not any(re.search(r"\d", cell) for cell in cells[1:])
            found.append(re.sub(r"[0-9a-f]{12}|\d[\d.,]*", "#", " | ".join(cells) if whole else cells[0]))
    return found


def compare(page, new, names):
    """Both versions of a page print the same kinds of lines."""
    for before, after in zip(steps(page), steps(new), strict=True):
        for shown, printed in zip(before.examples, after.examples, strict=True):
            assert heads(printed.output) == heads(shown.output), (names, shown.command)


@pytest.mark.parametrize(
    "group", [pytest.param(one, marks=[pytest.mark.slow] if one == "commands" else []) for one in GROUPS]
)
def test_examples_run_and_print_what_the_pages_show(group, folder):
    for name in GROUPS[group]:
        if not name.endswith("demo.md"):
            page = (ROOT / name).read_text("utf-8")
            compare(page, run_page(page, folder, run=run_briefly, run_python=run_python), name)
    if group == "commands":
        _check_documents(folder)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_examples_run_as_they_are_shown(group, folder):
    for name in GROUPS[group]:
        page = (ROOT / name).read_text("utf-8")
        compare(page, run_page(page, folder, run=run, run_python=run_python), name)


def _check_documents(folder):
    """The keys that the page on scripting promises are in the documents of the examples."""
    rows = re.findall(
        r"^\| .* \| `(kd\.\w+/1)` \| (.*) \|$", (ROOT / "docs/scripting.md").read_text(), re.MULTILINE
    )
    promised = {
        schema: re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", text.split(";")[0])) for schema, text in rows
    }
    documents = [
        json.loads((folder / name).read_text())
        for name in ("runs/student/summary.json", "runs/comparison/compare.json")
    ]
    for words in (["inspect", "runs/student"], ["evaluate", "runs/student"], ["distill", "--recipe", "nothing"]):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            run_kd([*words, "--json"])
        documents.append(json.loads(printed.getvalue()))
    for document in documents:
        assert set(promised[document["schema"]]) <= set(document), document["schema"]


@pytest.fixture
def models(folder):
    """teacher.keras, student.keras and data.npz, as the README names them."""
    import keras

    save_npz(folder / "data.npz", examples=600)
    for name, units in (("teacher", 16), ("student", 4)):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Rescaling(1 / 255)(inputs)
        x = keras.layers.Dense(units, activation="relu")(keras.layers.Flatten()(x))
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        if name == "teacher":
            data = np.load(folder / "data.npz")
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            model.fit(data["x_train"], data["y_train"], epochs=20, verbose=0)
        model.save(folder / f"{name}.keras")


def readme_commands():
    readme = (ROOT / "README.md").read_text("utf-8")
    return [shlex.split(line)[1:] for line in re.findall(r"^kd .*", readme, re.MULTILINE)]


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs(models, folder):
    words = readme_commands()[0]
    assert words[:2] == ["compress", "model.keras"]
    code, printed = run([words[0], "teacher.keras", *words[2:]], folder)
    assert code in (0, 7), printed
    assert (folder / "small" / "compress.md").is_file()


def test_the_three_commands_of_the_readme_run(models, folder):
    commands = readme_commands()[1:]
    assert [words[0] for words in commands] == ["distill", "compare", "export"]
    for words in commands:
        code, printed = run(words, folder)
        assert code == 0, (words, printed)
    assert (folder / "runs/shipped/student_int8.tflite").is_file()


def test_the_examples_of_the_python_page_run(models, folder):
    import keras

    page = (ROOT / "docs/python-api.md").read_text("utf-8").partition("## Functions")[0]
    example, losses = re.findall(r"```python\n(import kdcli\n.*?)```", page, re.DOTALL)
    data = np.load(folder / "data.npz")
    given = {
        "teacher": "teacher.keras",
        "student": keras.saving.load_model("student.keras"),
        "x": data["x_train"],
        "y": data["y_train"],
        "student_logits": keras.ops.ones((4, 3)),
        "teacher_logits": keras.ops.zeros((4, 3)),
    }
    exec(example, given)
    assert Path(given["exported"].path).exists()
    exec(losses, given)
    assert given["value"].shape == (4,)


def test_an_output_with_many_epochs_and_runs_is_shortened():
    epochs = [f"epoch {number}/4  loss {number}" for number in range(1, 5)]
    runs = [line for number in (1, 2, 3) for line in (f"run {number} of 3: a", *epochs)]
    short = shorten("\n".join(["head", *runs, "tail"])).splitlines()
    assert short == [
        *("head", "run 1 of 3: a", "epoch 1/4  loss 1", "...", "epoch 4/4  loss 4", "..."),
        *("run 3 of 3: a", "epoch 1/4  loss 1", "...", "epoch 4/4  loss 4", "tail"),
    ]
    assert shorten("a\nb\nc\n", 2) == "a\nb\n...\n"
    assert os.linesep not in shorten("a  \n").rstrip("\n")
