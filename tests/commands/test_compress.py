"""kd compress: from a model and data to a file that meets a target, or the nearest one and exit code 7."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from conftest import blobs, save_npz

import kdcli
from kdcli.compression import families
from kdcli.errors import Interrupted, ModelError, UsageError


def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(32, 3, padding="same")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.8)(x))
    x = keras.layers.Conv2D(48, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="teacher")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    save_npz(folder / "data.npz", examples=240)
    x, y = blobs(240, seed=3)
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x / 255.0, y, epochs=12, batch_size=32, verbose=0)
    model.save(folder / "teacher.keras")
    return folder


@pytest.fixture(autouse=True)
def two_families(monkeypatch):
    """One shrunk student and one zoo student; a slow test searches all families."""
    every = families._list_shrunk_settings
    monkeypatch.setattr(families, "_list_shrunk_settings", lambda subject: every(subject)[:1])
    monkeypatch.setattr(families, "_list_zoo_names", lambda subject: ("zoo-cnn",))


def compress(folder, out, **options):
    settings = {"data": folder / "data.npz", "epochs": 6, "max_size_mb": 0.012, **options}
    return kdcli.compress(folder / "teacher.keras", out=out, **settings)


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """A finished search; the module's other tests read it."""
    with pytest.MonkeyPatch.context() as patch:
        every = families._list_shrunk_settings
        patch.setattr(families, "_list_shrunk_settings", lambda subject: every(subject)[:1])
        patch.setattr(families, "_list_zoo_names", lambda subject: ("zoo-cnn",))
        return compress(folder, tmp_path_factory.mktemp("found") / "small", max_drop=0.1)


def run_litert(path, images):
    """The decisions of a file that takes raw images, by the runtime alone."""
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    entry, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    decided = []
    for image in images:
        interpreter.set_tensor(entry["index"], image[None].astype(entry["dtype"]))
        interpreter.invoke()
        decided.append(int(interpreter.get_tensor(output["index"]).argmax()))
    return np.array(decided)


def test_the_file_is_what_the_document_says(found, folder):
    document = found.to_json()
    assert document["schema"] == "kd.compress/1"
    assert document["met"] and found.is_met
    with np.load(folder / "data.npz") as data:
        x, y = data["x_test"], data["y_test"]
    path = found.model_path
    assert path == found.out / "model.tflite"
    assert document["picked"]["bytes"] == path.stat().st_size <= 12_000
    assert document["picked"]["accuracy"] == pytest.approx(np.mean(run_litert(path, x) == y))
    teacher = keras.saving.load_model(folder / "teacher.keras")
    expected = np.mean(teacher.predict(x / 255.0, verbose=0).argmax(1) == y)
    assert document["teacher"]["value"] == pytest.approx(expected)
    assert document["picked"]["drop"]["value"] == pytest.approx(expected - document["picked"]["accuracy"])
    assert [gate["name"] for gate in document["gates"]] == ["size_mb", "accuracy_drop"]
    assert (found.out / "labels.txt").read_text() == "0\n1\n2\n"
    assert json.loads((found.out / "input.json").read_text())["model.tflite"]["shape"] == [8, 8, 1]
    picked = next(one for one in document["candidates"] if one["status"] == "picked")
    assert keras.saving.load_model(found.out / "model.keras").count_params() == picked["parameters"]


def test_the_test_split_is_read_for_the_file_only(found):
    summaries = list(found.out.rglob("summary.json"))
    assert summaries
    for summary in summaries:
        assert json.loads(summary.read_text())["test"] is None
    assert not list(found.out.rglob("predictions.npz"))


def test_no_step_is_paid_twice(found):
    """Each candidate is one run, which later rungs continue."""
    record = json.loads((found.out / "search.json").read_text())
    rungs = record["schedule"]["rungs"]
    assert len(rungs) == 2
    trained = [one["name"] for one in record["rungs"][0]["standings"]]
    assert sorted(trained) == ["shrunk", "shrunk-steps", "zoo-cnn"]
    winner = record["rungs"][1]["standings"][0]["name"]
    loser = next(name for name in trained if name != winner)
    lines = (found.out / "candidates" / winner / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == rungs[-1]
    (checkpoint,) = (found.out / "candidates" / loser / "run" / "checkpoint").iterdir()
    assert checkpoint.name.endswith(f"{rungs[0]}.checkpoint")


def test_a_student_in_two_steps_is_made_from_a_trained_larger_one(found):
    folder = found.out / "candidates" / "shrunk-steps"
    counts = [
        keras.saving.load_model(path).count_params()
        for path in (folder / "larger.keras", folder / "larger" / "student.keras", folder / "start.keras")
    ]
    same = next(one for one in found.document["candidates"] if one["name"] == "shrunk")
    assert counts[0] == counts[1] > counts[2] == same["parameters"]
    trained, start = (keras.saving.load_model(folder / name) for name in ("larger/student.keras", "start.keras"))
    # Its weights are some of those of the trained model, not of the teacher.
    kernel, smaller = (model.layers[1].get_weights()[0] for model in (trained, start))
    for channel in np.moveaxis(smaller, -1, 0):
        assert any(np.array_equal(channel, one) for one in np.moveaxis(kernel, -1, 0))


def test_every_candidate_is_smaller_than_the_target_with_its_reason(found):
    for one in found.document["candidates"]:
        assert one["bytes"] <= 12_000
        assert one["status"] in ("picked", "rejected")
        assert (one["reason"] is None) == (one["status"] == "picked")
    text = (found.out / "compress.md").read_text()
    assert "The file meets every target." in text
    assert "ranked too low after rung 1 of 2" in text


def test_a_finished_search_is_shown_again_and_another_one_refused(found, folder, tmp_path):
    again = compress(folder, found.out, max_drop=0.1, resume=True)
    assert again.to_json() == found.to_json()
    with pytest.raises(
        UsageError, match=r"holds a search with different settings: targets: max_size_mb=0\.012, max_drop=0\.1"
    ):
        compress(folder, found.out, max_drop=0.2, resume=True)
    with pytest.raises(UsageError, match="the recipe, the seed or an option that sets it"):
        compress(folder, found.out, max_drop=0.1, seed=1, resume=True)
    with pytest.raises(UsageError, match="is not empty"):
        compress(folder, found.out, max_drop=0.1)
    other = build()
    other.save(tmp_path / "teacher.keras")
    with pytest.raises(UsageError, match="holds a search with a different teacher"):
        kdcli.compress(
            tmp_path / "teacher.keras", data=folder / "data.npz", epochs=6, max_size_mb=0.012, max_drop=0.1,
            out=found.out, resume=True,
        )  # fmt: skip


@pytest.mark.slow
def test_a_search_that_is_stopped_again_and_again_ends_with_the_same_file(found, folder, tmp_path):
    calls, stops = 0, 0
    # Stop at ever later moments, in every phase.
    limit = 1

    def stop():
        nonlocal calls
        calls += 1
        return 143 if calls == limit else None

    while True:
        calls = 0
        try:
            result = compress(folder, tmp_path / "small", max_drop=0.1, resume=True, stop=stop)
            break
        except Interrupted as interrupted:
            assert interrupted.exit_code == 143
            stops, limit = stops + 1, limit + 2
    assert stops >= 3
    assert (result.out / "model.tflite").read_bytes() == found.model_path.read_bytes()
    same = [{**one, "latency": None} for one in result.document["candidates"]]
    assert same == [{**one, "latency": None} for one in found.document["candidates"]]


def test_a_target_that_nothing_meets_is_refused_before_training(kd, folder, tmp_path):
    ran = kd(
        "compress", folder / "teacher.keras", "--data", folder / "data.npz", "--max-size-mb", "0.001", "--out", "s"
    )
    assert ran.code == 2
    assert "error: --max-size-mb 0.001: no student meets it; the smallest possible has 0.00" in ran.err
    assert "hint: --max-size-mb 0.00" in ran.err
    assert not list((tmp_path / "s").rglob("run"))


@pytest.mark.slow
def test_a_drop_that_no_file_holds_ends_with_the_nearest_and_code_7(kd, folder, tmp_path):
    ran = kd(
        "compress", folder / "teacher.keras", "--data", folder / "data.npz", "--max-size-mb", "0.006",
        "--epochs", "1", "--set", "train.optimizer.learning_rate=1e-7", "--max-accuracy-drop", "0",
        "--out", "s", "--quiet",
    )  # fmt: skip
    assert ran.code == 7
    assert ran.out == ""
    assert "error: gate failed: s/nearest/model.tflite: accuracy_drop is" in ran.err
    assert (tmp_path / "s" / "nearest" / "model.tflite").exists()
    assert not (tmp_path / "s" / "model.tflite").exists()


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_lists_candidates(kd, folder, tmp_path):
    ran = kd(
        "compress", folder / "teacher.keras", "--data", folder / "data.npz", "--max-size-mb", "0.012", "--dry-run",
        "--json",
    )  # fmt: skip
    assert ran.code == 0
    assert ran.document["schema"] == "kd.plan/1"
    assert [one["name"] for one in ran.document["candidates"]] == ["shrunk", "shrunk-steps", "zoo-cnn"]
    assert ran.document["seconds"]["total"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_objects_and_arrays_in_python_get_a_test_split(tmp_path):
    x, y = blobs(300)
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x / 255.0, y, epochs=8, batch_size=32, verbose=0)
    notes = []
    result = kdcli.compress(
        model, data=tf.data.Dataset.from_tensor_slices((x, y)).batch(32), max_size_mb=0.012, epochs=4,
        out=tmp_path / "small", on_event=lambda event: notes.append(getattr(event, "text", "")),
    )  # fmt: skip
    assert result.document["split"] == "test"
    assert result.document["picked"]["examples"] == 30
    assert any("has no test split: 10% of it is set aside first" in text for text in notes)


@pytest.mark.slow
def test_unlabelled_data_is_held_to_agreement(folder, tmp_path):
    x, _ = blobs(300)
    np.savez(tmp_path / "x.npz", x=x)
    result = kdcli.compress(
        folder / "teacher.keras", data=tmp_path / "x.npz", max_size_mb=0.012, epochs=4, out=tmp_path / "small"
    )
    assert result.document["metric"] == "agreement"
    tested = result.document["picked"]
    assert tested["accuracy"] is None
    assert 0 < tested["value"] == tested["agreement"] <= 1


@pytest.mark.slow
def test_the_smallest_file_within_the_drop_is_found_without_a_target(folder, tmp_path):
    result = kdcli.compress(folder / "teacher.keras", data=folder / "data.npz", epochs=4, out=tmp_path / "small")
    document = result.document
    assert document["targets"] == {"max_drop": 0.01}
    assert {one["name"].split("-")[0] for one in document["candidates"]} == {"shrunk", "zoo"}
    shrunk = [one for one in document["candidates"] if one["name"].startswith("shrunk-") and one["bytes"]]
    by_factor = sorted(shrunk, key=lambda one: int(one["name"].removeprefix("shrunk-").removesuffix("x")))
    sizes = [one["bytes"] for one in by_factor]
    assert len(sizes) >= 3
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
def test_a_savedmodel_teacher_has_zoo_students_only(folder, tmp_path):
    keras.saving.load_model(folder / "teacher.keras").export(tmp_path / "saved", verbose=False)
    result = kdcli.compress(
        tmp_path / "saved", data=folder / "data.npz", max_size_mb=0.012, epochs=2, out=tmp_path / "small"
    )
    assert [one["name"] for one in result.document["candidates"]] == ["zoo-cnn"]
    assert any("the teacher cannot be shrunk" in text for text in result.document["findings"])


@pytest.mark.slow
def test_an_ensemble_teaches_and_its_first_member_is_shrunk(folder, tmp_path):
    result = kdcli.compress(
        folder / "teacher.keras", folder / "teacher.keras", data=folder / "data.npz", max_size_mb=0.012, epochs=2,
        out=tmp_path / "small",
    )  # fmt: skip
    assert result.document["teacher"]["members"] == 2
    assert "shrunk" in [one["name"] for one in result.document["candidates"]]


@pytest.mark.slow
def test_a_given_student_is_a_candidate(found, folder, tmp_path):
    result = compress(folder, tmp_path / "small", students=[found.out / "model.keras"], epochs=2)
    assert result.document["candidates"][0]["name"] == "model"
    assert result.document["candidates"][0]["family"] == "given"


@pytest.mark.slow
def test_the_latency_command_measures_every_file(folder, tmp_path):
    script = tmp_path / "phone.py"
    script.write_text("import os, sys\nprint('measuring')\nprint(os.path.getsize(sys.argv[1]) / 1000)\n")
    result = kdcli.compress(
        folder / "teacher.keras", data=folder / "data.npz", max_latency_ms=11.0, max_latency_ratio=0.9, epochs=2,
        latency_command=f"python {script} {{file}}", out=tmp_path / "small",
    )  # fmt: skip
    picked = result.document["picked"]
    assert picked["latency"]["p50_ms"] == pytest.approx(picked["bytes"] / 1000)
    assert picked["bytes"] <= 11_000
    assert picked["latency"]["runtime"] == "python"
    assert {gate.name: gate.state for gate in result.gates} == {"latency_ms": "passed", "latency_ratio": "passed"}


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ([], "no data: data.source is not set", "--data digits"),
        (
            ["--data", "digits", "--max-accuracy-drop", "2"],
            "must be a fraction, not a percentage: write 0.02",
            "0.02",
        ),
        (
            ["--data", "digits", "--max-drop", "3"],
            "--max-drop must be a fraction, not a percentage",
            "--max-drop 0.03",
        ),
        (["--data", "digits", "--max-drop", "-0.1"], "--max-drop must be 0 or more", "--max-drop 0.1"),
        (["--data", "digits", "--max-size-mb", "0"], "--max-size-mb must be above 0", None),
        (["--data", "digits", "--metric", "acc"], "--metric must be one of", "--metric accuracy"),
        (
            ["--data", "digits", "--metric", "macro_f1", "--max-accuracy-drop", "0.1"],
            "--max-accuracy-drop bounds the accuracy, but --metric is macro_f1",
            "--metric macro_f1 --max-drop 0.1",
        ),
        (
            ["--data", "digits", "--max-drop", "0.2", "--max-accuracy-drop", "0.1"],
            "are the same target, with 2 different bounds",
            "--max-accuracy-drop 0.1",
        ),
        (["--data", "digits", "--gate", "size_mb<=1"], "a target of kd compress, not a gate", "--max-size-mb N"),
        (["--data", "digits", "--budget", "soon"], "--budget must be a time such as", "--budget 30m"),
        (
            ["--data", "digits", "--latency-command", "./time.sh"],
            "{file} is missing; it stands for",
            "./on_phone.sh {file}",
        ),
        (["--data", "digits", "--format", "tfjs"], "--format must be one of", None),
        (["--data", "digits", "--resume"], "--resume needs --out with the search to continue", None),
    ],
)
def test_bad_input_gets_one_line_before_any_work(kd, folder, options, message, hint):
    ran = kd("compress", folder / "teacher.keras", *options)
    assert ran.code == 2
    assert ran.err.count("error:") == 1
    assert message in ran.err
    assert hint is None or f"hint: {hint}" in ran.err or hint in ran.err


def test_a_teacher_at_chance_is_refused(folder, tmp_path):
    build().save(tmp_path / "untrained.keras")
    with pytest.raises(ModelError, match="chance"):
        kdcli.compress(
            tmp_path / "untrained.keras", data=folder / "data.npz", max_size_mb=0.012, out=tmp_path / "s"
        )


def test_accuracy_cannot_be_held_on_unlabelled_data(folder, tmp_path):
    x, _ = blobs(300)
    np.savez(tmp_path / "x.npz", x=x)
    for options in ({"gates": ["accuracy>=0.9"]}, {"max_drop": 0.02, "metric": "accuracy"}):
        with pytest.raises(UsageError) as caught:
            kdcli.compress(folder / "teacher.keras", data=tmp_path / "x.npz", **options)
        assert "unlabelled" in caught.value.message


@pytest.mark.slow
def test_all_families_are_searched(folder, tmp_path, monkeypatch):
    monkeypatch.undo()
    result = compress(folder, tmp_path / "small", max_size_mb=0.05, epochs=2)
    names = [one["name"] for one in result.document["candidates"]]
    assert {"shrunk", "zoo-resnet8", "zoo-cnn", "zoo-mobile", "zoo-resnet20"} <= set(names)


def values(count=240):
    """Vectors whose mean and spread are to be predicted."""
    x = np.random.default_rng(0).normal(size=(count, 12)).astype(np.float32)
    return x, np.stack([x.mean(1), x.std(1)], 1).astype(np.float32)


@pytest.mark.slow
def test_regression_is_held_to_the_mean_absolute_error(tmp_path, monkeypatch):
    x, y = values(600)
    model = keras.Sequential([keras.Input((12,)), *(keras.layers.Dense(64, "relu") for _ in range(2))])
    model.add(keras.layers.Dense(2))
    model.compile("adam", "mse")
    model.fit(x, y, epochs=20, verbose=0)
    monkeypatch.setattr(families, "_list_zoo_names", lambda subject: ("zoo-mlp",))
    result = kdcli.compress(
        model, data=(x, y), max_size_mb=0.008, max_drop=2.0, metric="mae", epochs=20, out=tmp_path / "small"
    )
    document = result.document
    assert document["metric"] == "mae"
    assert [gate["name"] for gate in document["gates"]] == ["size_mb", "mae_drop"]
    # Lower is better: the drop is how much larger the error is.
    picked = document["picked"]
    assert picked["drop"]["value"] == pytest.approx(picked["value"] - document["teacher"]["value"])
    best = min(one["validation"] for one in document["candidates"] if one["validation"] is not None)
    assert min(one["value"] for one in document["rungs"][0]["standings"]) >= best


@pytest.mark.slow
def test_label_maps_are_held_to_the_mean_iou(tmp_path, monkeypatch):
    monkeypatch.undo()
    random = np.random.default_rng(0)
    x = random.integers(0, 100, (200, 16, 16, 1), dtype=np.uint8)
    y = np.zeros((200, 16, 16), np.int64)
    for number, (row, column) in enumerate(random.integers(0, 10, (200, 2))):
        x[number, row : row + 6, column : column + 6] += 120
        y[number, row : row + 6, column : column + 6] = 1
    inputs = keras.Input((16, 16, 1))
    h = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    h = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(h)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(h))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x / 255.0, y, epochs=8, verbose=0)
    result = kdcli.compress(model, data=(x, y), max_size_mb=0.006, epochs=6, out=tmp_path / "small")
    assert result.document["metric"] == "mean_iou"
    assert {one["family"] for one in result.document["candidates"]} <= {"shrunk", "steps", "blocks"}
    assert 0.4 < result.document["picked"]["value"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("form", "name"), [("onnx", "model.onnx"), ("keras", "model.keras")])
def test_other_formats(folder, tmp_path, form, name):
    result = compress(folder, tmp_path / "small", format=form, max_size_mb=0.1, epochs=2)
    assert result.model_path == tmp_path / "small" / name
    assert result.model_path.stat().st_size <= 100_000


@pytest.mark.slow
@pytest.mark.parametrize("family", ["shrunk", "zoo"])
def test_files_give_what_the_teacher_gives_whichever_student_wins(folder, tmp_path, monkeypatch, family):
    other = "_list_zoo_names" if family == "shrunk" else "_list_shrunk_settings"
    monkeypatch.setattr(families, other, lambda subject: ())
    result = compress(folder, tmp_path / "small", epochs=2)
    assert {one["family"] for one in result.document["candidates"]} <= {family, "steps"}
    interface = json.loads((result.out / "input.json").read_text())["model.tflite"]
    assert interface["output_kind"] == "probabilities"


@pytest.mark.slow
def test_repeats_are_trained_and_the_best_on_validation_is_taken(folder, tmp_path):
    result = compress(folder, tmp_path / "small", repeats=2, epochs=3)
    repeats = result.document["repeats"]
    assert len(repeats) == 2
    assert repeats[result.document["picked"]["candidate"]] == max(repeats.values())


@pytest.mark.slow
def test_larger_candidates_are_trained_where_no_file_is_good_enough(folder, tmp_path, monkeypatch):
    from kdcli.compression import candidates

    monkeypatch.setattr(candidates, "_LADDER", (1 / 64, 1 / 2))
    monkeypatch.setattr(families, "_list_zoo_names", lambda subject: ())
    result = compress(folder, tmp_path / "small", max_size_mb=None, max_drop=0.02, epochs=12)
    status = {one["name"]: one["status"] for one in result.document["candidates"]}
    assert set(status) == {"shrunk-64x", "shrunk-2x"}
    assert result.is_met
    assert "shrunk-2x" in {file["candidate"] for file in result.document["files"]}


@pytest.mark.slow
def test_a_strict_gate_wants_the_drop_to_be_shown(kd, folder, tmp_path):
    words = ["compress", folder / "teacher.keras", "--data", folder / "data.npz", "--max-size-mb", "0.012"]
    ran = kd(*words, "--max-accuracy-drop", "0.01", "--epochs", "8", "--out", "s", "--strict-gates", "--json")
    gates = {gate["name"]: gate for gate in ran.document["gates"]}
    # 120 test examples cannot show so small a drop.
    assert gates["accuracy_drop"]["state"] in ("inconclusive", "failed")
    assert ran.code == 7
    assert (tmp_path / "s" / "nearest" / "model.tflite").exists()


@pytest.mark.slow
def test_a_small_budget_trains_on_fewer_examples_or_says_what_it_takes(folder, tmp_path):
    with pytest.raises(UsageError) as caught:
        compress(folder, tmp_path / "small", budget=5.0)
    assert "the search needs about" in caught.value.message
    assert caught.value.hint.startswith("--budget ")
    assert not list((tmp_path / "small").rglob("run"))


@pytest.mark.slow
def test_two_processes_share_a_search(found, folder, tmp_path):
    words = ["compress", folder / "teacher.keras", "--data", folder / "data.npz", "--max-size-mb", "0.02"]
    words += ["--epochs", "4", "--out", tmp_path / "small", "--resume", "--quiet"]
    command = [sys.executable, "-m", "kdcli", *map(str, words)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({line.strip() for line in printed}) == 1
    record = json.loads((tmp_path / "small" / "search.json").read_text())
    for run in (tmp_path / "small").rglob("metrics.jsonl"):
        epochs = [json.loads(line)["epoch"] for line in run.read_text().splitlines()]
        assert epochs == sorted(set(epochs))
    assert len(record["rungs"]) == len(record["schedule"]["rungs"])


@pytest.mark.slow
def test_an_int8_file_that_misses_the_quality_is_trained_for_it(tmp_path):
    """A model whose ranges are so wide that int8 after training is at chance, and a size that only int8 has."""
    from test_quantize import build

    save_npz(tmp_path / "data.npz")
    build(factor=1000.0).save(tmp_path / "wide.keras")
    result = kdcli.compress(
        tmp_path / "wide.keras", data=tmp_path / "data.npz", max_size_mb=0.006, max_drop=0.5, metric="accuracy",
        out=tmp_path / "out", budget=120.0, epochs=8, seed=0,
        settings=["data.validation=0.3", "train.optimizer.learning_rate=0.01"],
    )  # fmt: skip
    document = result.to_json()
    after, trained = document["files"][:2]
    assert after["quantize"] == trained["quantize"] == "int8"
    assert after["missed"] == ["accuracy_drop"] and trained["passes"]
    assert trained["validation"] > after["validation"]
    assert document["met"] and document["picked"]["qat"]
    with np.load(tmp_path / "data.npz") as data:
        x, y = data["x_test"].reshape(-1, 8, 8, 1), data["y_test"]
    interpreter = Interpreter(str(result.model_path))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in x:
        interpreter.set_tensor(taken["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(given["index"])[0].argmax())
    assert document["picked"]["value"] == pytest.approx(np.mean(np.array(found) == y))
    # The Keras file beside it is the trained one, without BatchNorm.
    model = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


@pytest.mark.slow
def test_code_for_a_microcontroller_within_its_memory(kd, tmp_path, monkeypatch):
    pytest.importorskip("tflite_micro")
    from test_quantize import build

    monkeypatch.chdir(tmp_path)
    save_npz(tmp_path / "data.npz")
    build().save("teacher.keras")
    words = [
        "compress",
        "teacher.keras",
        "--data",
        "data.npz",
        "--format",
        "micro",
        "--epochs",
        "4",
        "--budget",
        "60s",
    ]
    done = kd(
        *words, "--max-flash-kb", "8", "--max-ram-kb", "16", "--max-accuracy-drop", "0.9", "--out", "out", "--json"
    )
    assert done.code == 0, done.err
    picked, folder = done.document["picked"], tmp_path / "out" / "model_micro"
    file = folder / "model.tflite"
    assert picked["path"] == "out/model_micro" and picked["bytes"] == file.stat().st_size <= 8 * 1024
    assert 0 < picked["ram_bytes"] <= 16 * 1024
    assert {one.name for one in folder.iterdir()} == {"model.tflite", "model_model_data.cc", "model_model_data.h"}
    assert f"_size = {picked['bytes']};" in (folder / "model_model_data.h").read_text()
    assert picked["latency"] is None
    # The smallest arena that exists is too large.
    missed = kd(*words, "--max-ram-kb", "0.5", "--out", "tiny", "--json")
    assert missed.code == 7
    assert [one["state"] for one in missed.document["gates"] if one["name"] == "ram_kb"] == ["failed"]
    impossible = kd(*words, "--max-flash-kb", "1", "--out", "none")
    assert impossible.code == 2 and "--max-flash-kb 1: no student meets it" in impossible.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-ram-kb", "8"], "--max-ram-kb applies to --format micro, got litert"),
        (["--format", "micro", "--max-latency-ms", "2"], "its latency is not that of this machine"),
    ],
)
def test_targets_of_other_devices(kd, options, message):
    done = kd("compress", "teacher.keras", "--data", "digits", *options)
    assert done.code == 2
    assert message in done.err
