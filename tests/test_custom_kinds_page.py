"""docs/custom-kinds.md does what it says: its files are written, its commands are run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PAGE = (Path(__file__).parents[1] / "docs" / "custom-kinds.md").read_text("utf-8")
PYTHON, YAML, SHELL = (re.findall(rf"```{name}\n(.*?)```", PAGE, re.DOTALL) for name in ("python", "yaml", "sh"))
FILES = dict(zip(("my_loss.py", "my_features.py", "my_data.py"), PYTHON, strict=True))
RECIPES = dict(zip(("robust.yaml", "stripes.yaml"), YAML, strict=True))
CHECK, DISTILL, TRAIN = (shlex.split(text)[1:] for text in SHELL)
ONE_EPOCH = ("--epochs", "1", "--no-preflight", "--quiet")


@pytest.fixture
def written(kd, tmp_path):
    """The files of the page in the current folder, and `kd`."""
    for name, text in {**FILES, **RECIPES}.items():
        assert f"{name}" in PAGE
        (tmp_path / name).write_text(text, "utf-8")
    return kd


@pytest.fixture
def models(tmp_path):
    """teacher.keras and student.keras for the digits, as the page names them."""
    import keras

    for name, units in (("teacher", 12), ("student", 4)):
        inputs = keras.Input((8, 8, 1))
        hidden = keras.layers.Dense(units, activation="relu")(keras.layers.Flatten()(inputs))
        keras.Model(inputs, keras.layers.Dense(10)(hidden)).save(tmp_path / f"{name}.keras")


@pytest.mark.parametrize("file", FILES)
def test_its_files_import_from_one_place(file):
    assert re.findall(r"^ *(?:from|import) (kdcli\S*)", FILES[file], re.MULTILINE) == ["kdcli.kinds"]


def test_the_public_place_is_importable_without_tensorflow():
    code = (
        "import sys, kdcli.kinds as kinds\n"
        "assert all(hasattr(kinds, name) for name in kinds.__all__)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_its_losses_keep_the_contract(written):
    ran = written(*CHECK, "--json")
    assert (ran.code, [loss["state"] for loss in ran.document["losses"]]) == (0, ["passed"]), ran.err
    ran = written("losses", "check", "my_features.py", "--json")
    points = {point["name"]: point for point in ran.document["losses"][0]["points"]}
    assert (ran.code, points["trained parts"]["state"]) == (0, "passed"), points


def test_its_loss_teaches_and_the_run_stands_on_its_own(written, models, tmp_path):
    words = [*DISTILL, "--limit", "80", *ONE_EPOCH]
    ran = written(*words)
    assert ran.code == 0, ran.err
    run = tmp_path / "runs" / "robust"
    epoch = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert epoch["losses.cauchy"] > 0
    recorded = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recorded["requires"] == ["my_loss.py"]
    assert recorded["losses"][1] == {"kind": "cauchy", "weight": 0.9, "warmup": 0.0, "scale": 2.0}
    inputs = json.loads((run / "environment.json").read_text())["inputs"]
    assert len(inputs["code my_loss.py"]["sha256"]) == 64
    for command in (["evaluate", run, "--no-latency"], ["inspect", run], ["predict", run, "--out", "p.npz"]):
        ran = written(*command)
        assert ran.code == 0, (command, ran.err)
    (run / "summary.json").unlink()
    ran = written(*words, "--resume")
    assert ran.code == 0, ran.err
    (run / "summary.json").unlink()
    without = ["distill", "--out", run, "--resume", *ONE_EPOCH]
    ran = written(*without)
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "hint: --code my_loss.py")
    (tmp_path / "my_loss.py").write_text(FILES["my_loss.py"] + "# changed\n")
    ran = written(*without, "--code", "my_loss.py")
    assert ran.code == 2 and "the code my_loss.py has changed since" in ran.err


def test_its_source_and_augmentation_are_used(written, tmp_path):
    ran = written(*TRAIN, *ONE_EPOCH)
    assert ran.code == 0, ran.err
    run = tmp_path / "runs" / "teacher"
    recorded = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recorded["requires"] == ["my_data.py"]
    assert recorded["data"]["source"] == {"kind": "stripes", "examples": 400}
    evaluate = ["evaluate", run, "--no-latency", "--json"]
    ran = written(*evaluate)
    assert (ran.code, ran.document["error"]["hint"]) == (2, "--code my_data.py")
    ran = written(*evaluate, "--code", "my_data.py", "--split", "validation")
    assert (ran.code, ran.document["models"][0]["examples"]) == (0, 20), ran.err
    assert "was trained on another split" not in ran.err
    # Without examples there is nothing that the file is needed for.
    assert written("inspect", run).code == 0
