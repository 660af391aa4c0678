"""Bad input: one line that says what and where, a hint, the exit code of the contract, nothing written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz


def model(
    *, seed: int, outputs: int = 3, turned: int = 0, strength: float = 0.4, channels: int = 1
) -> keras.Model:
    """Looks for the bar of each class; `turned` confuses the classes, `strength` 0 knows nothing."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, channels))
    x = keras.layers.Flatten(name="flat")(inputs)
    made = keras.Model(inputs, keras.layers.Dense(outputs, name="last")(x), name=f"model{seed}")
    kernel, bias = made.layers[-1].get_weights()
    for label in range(3):
        bar = kernel.reshape(8, 8, channels, outputs)[1 + 2 * label : 3 + 2 * label]
        bar[..., (label + turned) % outputs] += strength
    made.layers[-1].set_weights([kernel * (strength > 0), bias])
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    good = model(seed=1)
    good.save(folder / "good.keras")
    model(seed=2).save(folder / "student.keras")
    model(seed=3, outputs=4).save(folder / "four.keras")
    model(seed=4, turned=1).save(folder / "confused.keras")
    model(seed=5, strength=0.0).save(folder / "guessing.keras")
    model(seed=6, channels=3).save(folder / "color.keras")
    good.layers[-1].set_weights([np.full((64, 3), np.nan, np.float32), np.zeros(3, np.float32)])
    good.save(folder / "nan.keras")
    (folder / "half.keras").write_bytes((folder / "good.keras").read_bytes()[:2000])
    (folder / "notes.keras").write_text("a shopping list")
    shutil.copy(folder / "good.keras", folder / "good.h5")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    (folder / "file").write_text("mine")
    data(folder)
    recipe = "losses:\n  - {kind: labels, weigth: 2}\ntrain: {epochs: 0}\n"
    (folder / "bad.yaml").write_text(recipe)
    return folder


def data(folder: Path) -> None:
    """Data files, each with one thing wrong."""
    x, y = blobs(96)
    save_npz(folder / "data.npz")
    save_npz(folder / "label3.npz", y_test=np.full(48, 3))
    save_npz(folder / "negative.npz", y_train=y - 1)
    save_npz(folder / "broken.npz", y_train=y + 0.5)
    nan = x.astype(np.float32) / 255
    nan[[3, 70], 2] = np.nan
    save_npz(folder / "nan.npz", x_train=nan)
    save_npz(folder / "empty.npz", x_test=x[:0], y_test=y[:0])
    save_npz(folder / "short.npz", y_train=y[:-1])
    save_npz(folder / "color.npz", x_train=x.repeat(3, -1), x_test=x[:48].repeat(3, -1))
    save_npz(folder / "names.npz", x_trian=x)
    np.savez(folder / "pickled.npz", x=x, y=np.array([{"a": 1}], dtype=object))
    (folder / "text.npz").write_text("1, 2, 3")


@pytest.fixture
def here(kd, files, tmp_path) -> Path:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path


BASE = {"--teacher": "good.keras", "--student": "student.keras", "--data": "data.npz", "--out": "run"}


def distill(*flags: str, **options: str | None) -> list[str]:
    """The words of a distillation that works, with some options replaced or left out (None)."""
    given = {**BASE, **{f"--{name.replace('_', '-')}": value for name, value in options.items()}}
    pairs = [word for name, value in given.items() if value is not None for word in (name, value)]
    return ["distill", *pairs, *flags]


def hint(teacher: str, student: str) -> str:
    return f"losses=[{{kind: hint, teacher_layer: {teacher}, student_layer: {student}}}]"


# Words, exit code, fragments of the message, fragment of the hint.
MODELS = [
    (distill(teacher="missing.keras"), 4, ["missing.keras: no such model file"], ".keras, .h5"),
    (distill(student="missing.keras"), 4, ["missing.keras: no such model file"], ".keras, .h5"),
    (distill(teacher="notes.keras"), 4, ["notes.keras: not a .keras file"], "run directory"),
    (distill(teacher="half.keras"), 4, ["half.keras: "], ""),
    (distill(teacher="empty"), 4, ["empty is a folder without a finished run"], ".keras"),
    (distill(teacher="nan.keras"), 4, ["nan.keras: ", "contains NaN or infinity"], ""),
    (distill(teacher="four.keras"), 4, ["four.keras has 4 outputs, the data has 3 classes"], "data.classes"),
    (distill(student="four.keras"), 4, ["four.keras has 4 outputs, the data has 3 classes"], "data.classes"),
    (distill(teacher="confused.keras"), 4, ["confused.keras", "at chance level", "0.000"], "--no-preflight"),
    (distill(teacher="guessing.keras"), 4, ["guessing.keras", "at chance level", "0.33"], "--no-preflight"),
    (distill(student="good.keras"), 4, ["teacher and student are the same model"], "--no-preflight"),
    (distill("--set", hint("flt", "flat")), 2, ["no layer 'flt'", "did you mean 'flat'?", "last"], "flat"),
    (distill("--set", hint("flat", "lost")), 2, ["no layer 'lost'", "did you mean 'last'?"], "student_layer"),
    (distill(data="color.npz"), 4, ["8×8×1", "the data has 8×8×3"], "channels"),
]
DATA = [
    (distill(data="missing.npz"), 3, ["missing.npz: no such file"], "--data"),
    (distill(data="text.npz"), 3, ["text.npz: not a readable .npz file"], "copy the file again"),
    (distill(data="pickled.npz"), 3, ["pickled.npz: y contains pickled objects"], "np.savez"),
    (distill(data="names.npz"), 3, ["unknown array 'x_trian'", "did you mean 'x_train'?"], "x_train"),
    (distill(data="label3.npz"), 3, ["y_test has 48 labels outside 0..2", "at 0, 1, 2, 3, 4 and 43 more"], ""),
    (distill(data="negative.npz"), 3, ["y_train has 32 labels below 0", "at 0, 3, 6, 9, 12"], ""),
    (distill(data="broken.npz"), 3, ["96 labels that are not whole numbers"], "data.task=regression"),
    (distill(data="nan.npz"), 3, ["nan.npz", "contains NaN or infinity in examples 3, 70"], "np.nan_to_num"),
    (distill(data="empty.npz"), 3, ["empty.npz: the test split is empty"], ""),
    (
        distill(data="short.npz"),
        3,
        ["short.npz: lengths differ: x_train 96, y_train 95"],
        "one row for each example",
    ),
    (distill(data="mnits"), 2, ["unknown data set 'mnits'", "mnist"], ""),
    (distill(data="data.zip"), 2, ["unknown data set 'data.zip'", ".npz"], ""),
]
USAGE = [
    (distill(data=None), 2, ["data.source is not set by the recipe 'soft-targets'"], "--data digits"),
    (distill(teacher=None), 2, ["no teacher: ", "teacher.model"], "--teacher FILE.keras"),
    (distill(student=None), 2, ["no student: ", "student.model"], "kd inspect zoo:cnn --data data.npz"),
    (distill(out="full"), 2, ["--out full is not empty (notes.txt)"], "--overwrite"),
    (distill("--overwrite", out="full"), 2, ["full contains files that kd did not write"], "another --out"),
    (distill("--resume", out="full"), 2, ["full contains files that kd did not write"], "another --out"),
    (distill(out="file"), 2, ["--out file is a file"], "another --out"),
    (distill(out="file/run"), 5, ["file/run: Not a directory"], "--out"),
    (distill("--resume", "--overwrite"), 2, ["--resume and --overwrite exclude each other"], None),
    (distill("--resume", out=None), 2, ["--resume needs the run to continue"], "--out"),
    (distill(epochs="0"), 2, ["--epochs", "got 0"], None),
    (distill(epochs="many"), 2, ["--epochs must be a whole number, got 'many'"], None),
    (distill(batch_size="0"), 2, ["--batch-size", "got 0"], None),
    (distill(seed="-1"), 2, ["--seed", "got -1"], None),
    (distill(limit="abc"), 2, ["--limit must be a count such as 500 or a fraction", "'abc'"], None),
    (distill(limit="0"), 2, ["--limit", "got 0"], None),
    (distill(limit="1.5"), 2, ["--limit", "got 1.5"], None),
    (distill(max_time="0"), 2, ["--max-time must be a time such as 90s", "'0'"], None),
    (distill(max_time="soon"), 2, ["--max-time must be a time such as 90s", "'soon'"], None),
    (distill(devices="gpu"), 2, ["--devices", "gpu", "auto"], None),
    (distill(recipe="features"), 2, ["'features'", "did you mean 'feature'?"], "kd recipes ls"),
    (distill(recipe="./missing.yaml"), 2, ["missing.yaml"], None),
    (distill(recipe="./bad.yaml"), 2, ["2 problems in ./bad.yaml", "bad.yaml:2:20", "weigth"], "recipes check"),
    (distill("--set", "train.epoch=3"), 2, ["train.epoch", "did you mean 'epochs'?"], None),
    (distill("--set", "train.epochs"), 2, ["train.epochs"], None),
    (distill(alpha="0.9"), 2, ["--alpha"], "losses.soft_targets.weight"),
    (distill(lr="0.1"), 2, ["--lr"], "train.optimizer.learning_rate"),
    (["distil"], 2, ["distil"], None),
]
# A setting of the wrong type says what the setting takes, in the recipe's words.
TYPES = [
    ("data.classes=3", "data.classes: must be a word or a list, got 3"),
    ("data.class_weight=3", "data.class_weight: must be a word or a mapping, got 3"),
    ("data.limit=x", "data.limit: must be a whole number or a fraction such as 0.1, got 'x'"),
    ("data.augment=flip", "data.augment: must be a list, got 'flip' (write [{kind: flip}])"),
    ("teacher.input.resize=96", "teacher.input.resize: must be a word or a list, got 96"),
    ("teacher.input.resize=[96]", "teacher.input.resize: has too few entries, got a list of 1"),
    ("teacher.classes=3", "teacher.classes: must be a word or a list, got 3"),
    ("losses=soft_targets", "losses: must be a list, got 'soft_targets' (write [{kind: soft_targets}])"),
    ("losses=[labels]", "losses.0: must be a mapping, got 'labels' (write {kind: labels})"),
    ("losses=[]", "losses: must have at least 1 entry, got a list of 0"),
    ("losses.labels.lr=1", "losses.0.lr: unknown key"),
    ("losses.soft_targets.alpha=1", "losses.1.alpha: unknown key (did you mean 'weight'?)"),
    ("train.lr=1", "train.lr: unknown key (did you mean 'optimizer.learning_rate'?)"),
    ("train.seed=3000000000", "train.seed: must be < 2147483648, got 3000000000"),
    ("student.model=s.keras", "write {kind: file, path: s.keras}"),
    ("teacher=t.keras", "write {model: {kind: file, path: t.keras}}"),
]
SETTINGS = [(distill("--set", setting, student=None, teacher=None), 2, [said], None) for setting, said in TYPES]
EVALUATE = [
    (["evaluate"], 2, ["MODEL"], "kd evaluate --help"),
    (["evaluate", "good.keras"], 2, ["no data"], "--data digits"),
    (["evaluate", "missing.keras", "--data", "data.npz"], 4, ["missing.keras: no such model file"], ".h5"),
    (["evaluate", "good.keras", "--data", "data.npz", "--split", "tests"], 2, ["--split", "tests"], None),
    (["evaluate", "four.keras", "--data", "data.npz"], 4, ["has 4 outputs, the data has 3"], None),
    (["evaluate", "good.keras", "--data", "data.npz", "--limit", "0"], 2, ["--limit", "got 0"], "--limit 500"),
    (["evaluate", "good.keras", "--data", "data.npz", "--limit", "1e9"], 2, ["--limit", "up to 1.0"], "--limit"),
    (["predict", "good.keras", "--data", "data.npz", "--out", "a.npz", "--limit", "-3"], 2, ["got -3"], "--limit"),
    (["inspect", "good.keras", "--data", "data.npz", "--limit", "0.0"], 2, ["--limit", "got 0.0"], "--limit 500"),
    (["inspect", "good.keras", "--limit", "5"], 2, ["--limit has no effect without data"], "--data D"),
    (["export", "good.keras", "--format", "keras", "--batch-size", "0"], 2, ["--batch-size", "got 0"], "--batch"),
    (
        ["export", "good.keras", "--format", "keras", "--out", "file"],
        2,
        ["file is a file, not a"],
        "another --out",
    ),
    # The only model is called by its file; a setting for it is one of the student's.
    (
        ["evaluate", "color.keras", "--data", "data.npz"],
        4,
        ["color.keras takes inputs of shape 8×8×3"],
        "channels",
    ),
    (
        ["evaluate", "good.keras", "--data", "data.npz", "--teacher", "color.keras"],
        4,
        ["teacher (color.keras) takes inputs of shape 8×8×3"],
        "channels",
    ),
    (["train-teacher", "--data", "data.npz", "--out", "run"], 2, ["no teacher: "], "--teacher"),
]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("words", "code", "message", "way_on"),
    [*MODELS, *DATA, *USAGE, *SETTINGS, *EVALUATE],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_with_its_exit_code_and_leaves_nothing(kd, here, words, code, message, way_on):
    before = contents(here)
    ran = kd(*words, "--json")
    assert ran.code == code, ran.err
    assert len(re.findall("^error: ", ran.err, re.MULTILINE)) == 1
    assert "Traceback" not in ran.err
    error = ran.document["error"]
    assert ran.document["schema"] == "kd.error/1"
    assert set(error) == {"exit_code", "kind", "message", "hint", "location"}
    assert error["exit_code"] == code
    assert f"error: {error['message'].splitlines()[0]}" in ran.err
    for fragment in message:
        assert fragment in error["message"]
    if words[0] == "evaluate" and "--teacher" not in words:
        assert "student" not in error["message"]
    if way_on:
        assert way_on in error["hint"]
        assert f"hint: {error['hint']}" in ran.err
    assert contents(here) == before


def test_traceback_is_shown_with_verbose_only(kd, here):
    ran = kd(*distill(teacher="notes.keras"), "--verbose")
    assert ran.code == 4
    assert "Traceback" in ran.err
    assert ran.err.rstrip().splitlines()[-1].startswith("hint: ")
    assert ran.out == ""


def test_bug_of_kd_itself_is_exit_1_with_a_log(kd, here, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    monkeypatch.setattr("kdcli.commands.evaluate.evaluate", lambda *a, **k: 1 / 0)
    ran = kd("evaluate", "good.keras", "--data", "data.npz")
    assert ran.code == 1
    assert "error: this is a bug in kd" in ran.err
    assert "ZeroDivisionError" in ran.err
    log = next((here / "state").rglob("*.log"))
    assert str(log) in ran.err.replace("\n", "")
    assert "division by zero" in log.read_text()
