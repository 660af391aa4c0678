"""kd distill as a function: inputs, results, and files that let others check them."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import ModelError, RecipeError, UsageError
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.results import Plan

TRAIN = {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": 0.01}}
LOSSES = [
    {"kind": "labels", "weight": 0.1},
    {"kind": "soft_targets", "weight": 0.9, "temperature": 2.0},
    {"kind": "hint", "weight": 1.0, "teacher_layer": "features", "student_layer": "features"},
]
FILES = {".kd", "student.keras", "summary.json", "recipe.yaml", "metrics.jsonl", "predictions.npz"}
FILES |= {"environment.json", "README.md"}


def perfect_teacher(width: int = 6) -> keras.Model:
    """Knows where the bar of each class is; `features` is there for hints."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(width, 3, strides=2, activation="relu", name="features")(inputs)
    spread = keras.layers.Dense(3, name="spread")(keras.layers.Flatten()(features))
    bars = keras.layers.Dense(3, name="bars")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Add()([bars, spread]))
    kernel = np.zeros((8, 8, 3), np.float32)
    for label in range(3):
        kernel[1 + 2 * label : 3 + 2 * label, :, label] = 0.6
    model.get_layer("bars").set_weights([kernel.reshape(64, 3), np.zeros(3, np.float32)])
    model.get_layer("spread").set_weights([w * 0.01 for w in model.get_layer("spread").get_weights()])
    return model


def small_student(seed: int = 2) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, strides=2, use_bias=False, name="first")(inputs)
    x = keras.layers.ReLU(name="features")(keras.layers.BatchNormalization(momentum=0.8)(x))
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    perfect_teacher().save(folder / "teacher.keras")
    small_student().save(folder / "student.keras")
    save_npz(folder / "data.npz")
    return folder


def distill(folder: Path, out: Path, *, losses=LOSSES, train=None, recipe=None, **given):
    sections = {"losses": losses, "train": {**TRAIN, **(train or {})}, **(recipe or {})}
    paths = {role: folder / f"{role}.keras" for role in ("teacher", "student")}
    return kdcli.distill(**{**paths, "data": folder / "data.npz", "recipe": sections, "out": out, **given})


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """One finished distillation with labels, soft targets and a projected hint."""
    return distill(folder, tmp_path_factory.mktemp("runs") / "a")


def weights(path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path).get_weights()


def differ(ours: Path, theirs: Path) -> float:
    pairs = zip(weights(ours), weights(theirs), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_run_holds_the_files_of_the_contract_and_nothing_else(run):
    assert set(os.listdir(run.run)) == FILES
    assert run.model_path == run.run / "student.keras"


def test_summary_is_the_result(run):
    document = json.loads((run.run / "summary.json").read_text())
    assert {**document, "run": "", "model": ""} == {**run.to_json(), "run": "", "model": ""}
    assert document["schema"] == "kd.run/1"
    assert set(document["seconds"]) == {"data", "teacher", "training", "evaluation", "total"}
    assert set(document["teacher"]) == {"path", "accuracy", "agreement"}
    assert set(document["targets"]) == {"mode", "hit", "bytes", "views", "precision", "kept", "fingerprint"}
    assert document["teacher"]["accuracy"] == 1.0
    assert document["validation"]["examples"] == 10
    assert document["test"]["examples"] == 48
    assert (document["epochs"], document["steps"]) == (2, 10)
    # Logits (3) in float32 and the teacher's feature (3, 3, 6) in float16, of 86 examples.
    assert document["targets"]["bytes"] == 86 * (4 * 3 + 2 * 3 * 3 * 6)
    assert (document["targets"]["mode"], len(document["targets"]["fingerprint"])) == ("disk", 64)


def test_student_opens_in_plain_keras_and_has_the_metrics_of_the_summary(run):
    model = keras.saving.load_model(run.run / "student.keras")
    x, y = blobs(48, seed=1)
    logits = model.predict(x.astype(np.float32) / 255.0, verbose=0).astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert np.mean(logits.argmax(-1) == y) == pytest.approx(run.test.accuracy, abs=1e-6)
    assert -log_probabilities[np.arange(48), y].mean() == pytest.approx(run.test.loss, abs=1e-5)
    assert run.bytes == (run.run / "student.keras").stat().st_size


def test_projection_is_not_in_the_saved_file(run):
    model = keras.saving.load_model(run.run / "student.keras")
    assert model.count_params() == run.parameters == small_student().count_params()
    with zipfile.ZipFile(run.run / "student.keras") as archive:
        assert b"projection" not in b"".join(archive.read(name) for name in archive.namelist())


def test_student_has_learned_and_its_batch_statistics_have_moved(run, folder):
    trained, fresh = weights(run.model_path), weights(folder / "student.keras")
    assert not any(np.array_equal(a, b) for a, b in zip(trained, fresh, strict=True))


def test_predictions_recompute_the_accuracy(run):
    with np.load(run.run / "predictions.npz") as file:
        assert set(file.files) == {"logits", "labels", "index"}
        np.testing.assert_array_equal(file["labels"], blobs(48, seed=1)[1])
        np.testing.assert_array_equal(file["index"], np.arange(48))
        assert np.mean(file["logits"].argmax(-1) == file["labels"]) == run.test.accuracy


def test_recipe_has_every_auto_resolved_and_its_own_hash(run):
    first, rest = (run.run / "recipe.yaml").read_text("utf-8").split("\n", 1)
    assert first == f"# sha256 of the lines below: {hashlib.sha256(rest.encode()).hexdigest()}"
    values = yaml.safe_load(rest)
    assert values["data"]["task"] == "classification"
    assert values["student"]["start"] == "file"
    assert (values["teacher"]["targets"], values["teacher"]["views"]) == ("disk", 1)
    for role in ("teacher", "student"):
        assert values[role]["output_kind"] == "logits"
        assert values[role]["input"]["scale"] in ("unit", "signed", "raw")
    settings = {line.strip() for line in rest.splitlines() if line.endswith("auto")}
    # `auto` is the schema's only word for labels that are used.
    assert settings == {"labels: auto"}
    assert read_recipe(run.run / "recipe.yaml").recipe.train.epochs == 2


def test_metrics_have_a_line_an_epoch_with_every_term(run):
    lines = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    terms = {"losses.labels", "losses.soft_targets", "losses.hint"}
    metrics = {"epoch", "step", "loss", "learning_rate", "examples_per_second"}
    validation = {"validation.accuracy", "validation.loss", "validation.agreement"}
    assert [set(line) for line in lines] == [metrics | terms | validation] * 2
    assert [line["step"] for line in lines] == [5, 10]
    total = 0.1 * lines[0]["losses.labels"] + 0.9 * lines[0]["losses.soft_targets"] + lines[0]["losses.hint"]
    assert lines[0]["loss"] == pytest.approx(total, rel=1e-5)


def test_environment_names_versions_machine_and_inputs(run, folder):
    environment = json.loads((run.run / "environment.json").read_text())
    assert environment["command"] == "distill"
    assert environment["versions"]["keras"] == keras.__version__
    assert {"machine", "devices", "threads", "seed", "arguments", "deterministic"} <= set(environment)
    for role in ("teacher", "student"):
        path = folder / f"{role}.keras"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert environment["inputs"][role] == {
            "path": str(path),
            "sha256": digest,
            "format": "keras",
            "findings": [],
        }
    assert len(environment["inputs"]["data"]["sha256"]) == 64


def test_model_card_marks_unknown_fields_as_not_recorded(run):
    card = (run.run / "README.md").read_text()
    assert f"| Test accuracy | {run.test.accuracy:.4f} |" in card
    assert "| Licence | not recorded |" in card
    assert "keras.saving.load_model('student.keras')" in card


def test_models_arrays_and_recipe_objects_are_taken_as_they_are(run, tmp_path):
    recipe = Recipe.model_validate({"losses": LOSSES, "train": TRAIN})
    x_train, y_train = blobs(96)
    x_test, y_test = blobs(48, seed=1)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    for number, data in enumerate(((x_train, y_train, x_test, y_test), arrays)):
        given = {"teacher": perfect_teacher(), "student": small_student(), "data": data}
        made = kdcli.distill(recipe=recipe, out=tmp_path / str(number), **given)
        assert made.test == run.test
        assert made.teacher["path"] is None
        assert differ(made.model_path, run.model_path) == 0


def test_data_without_a_test_split_leaves_null(folder, tmp_path):
    made = distill(folder, tmp_path / "a", losses=LOSSES[:1], data=blobs(48))
    assert made.test is None
    assert json.loads((made.run / "summary.json").read_text())["test"] is None
    assert set(os.listdir(made.run)) == FILES - {"predictions.npz"}


def test_same_seed_gives_the_same_weights_and_another_seed_does_not(run, folder, tmp_path):
    again = distill(folder, tmp_path / "again")
    assert differ(again.model_path, run.model_path) == 0
    other = distill(folder, tmp_path / "other", seed=1)
    assert other.seed == 1
    assert differ(other.model_path, run.model_path) > 0


def test_teachers_softmax_is_undone_and_students_softmax_is_kept(folder, tmp_path):
    for role, model in (("teacher", perfect_teacher()), ("student", small_student())):
        keras.Model(model.input, keras.layers.Softmax()(model.output)).save(tmp_path / f"{role}.keras")
    plain = distill(folder, tmp_path / "plain", losses=LOSSES[:2])
    soft = distill(tmp_path, tmp_path / "soft", losses=LOSSES[:2], data=folder / "data.npz")
    assert soft.test.loss == pytest.approx(plain.test.loss, abs=1e-4)
    assert differ(soft.model_path, plain.model_path) < 1e-3
    recipe = yaml.safe_load((soft.run / "recipe.yaml").read_text())
    assert recipe["teacher"]["output_kind"] == recipe["student"]["output_kind"] == "probabilities"
    outputs = keras.saving.load_model(soft.model_path)(blobs(8)[0] / np.float32(255.0))
    np.testing.assert_allclose(np.sum(outputs, axis=-1), 1.0, atol=1e-5)


def test_half_precision_leaves_a_model_in_float32(run, folder, tmp_path):
    made = distill(folder, tmp_path / "a", train={"precision": "mixed_bfloat16"})
    model = keras.saving.load_model(made.model_path)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert {str(variable.dtype) for variable in model.weights} == {"float32"}
    assert 0 < differ(made.model_path, run.model_path) < 0.5


def test_fresh_student_follows_from_the_seed_and_not_from_the_file(folder, tmp_path):
    small_student(seed=77).save(tmp_path / "student.keras")
    fresh = {"recipe": {"student": {"start": "fresh"}}, "losses": LOSSES[:1]}
    first = distill(folder, tmp_path / "a", **fresh)
    second = distill(folder, tmp_path / "b", student=tmp_path / "student.keras", **fresh)
    assert differ(first.model_path, second.model_path) == 0


def test_dry_run_gives_the_plan_and_writes_nothing(folder, tmp_path):
    plan = distill(folder, tmp_path / "a", dry_run=True)
    assert isinstance(plan, Plan)
    document = plan.to_json()
    assert (document["steps"], document["epochs"]) == (10, 2)
    seconds = document["seconds"]
    stages = [seconds[name] for name in ("teacher", "training", "evaluation")]
    assert seconds["total"] == pytest.approx(sum(stages), abs=0.11)
    latency = document["student"]["latency"]
    assert (latency["runtime"], latency["batch"]) == ("tensorflow", 1)
    assert latency["p50_ms"] > 0
    # A 3×3 convolution to 3×3 positions of 2 channels, then 18 numbers to 3.
    assert document["student"]["flops"] == 2 * 9 * 9 * 2 + 2 * 18 * 3
    assert document["pairs"][0]["projection"] == "1×1 convolution 2 → 6"
    assert document["student_bytes"]["int8"] == small_student().count_params()
    assert os.listdir(tmp_path) == []


def dense_student(*, convolution: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    inputs = x = keras.Input((8, 8, 1))
    if convolution:
        x = keras.layers.Conv2D(2, 3, name="first")(x)
    x = keras.layers.Dense(6, activation="relu", name="hidden")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(x))


def quantize(model: keras.Model) -> None:
    """As `model.quantize("int8")` does, which warns of every layer without a kernel."""
    for name in ("hidden", "last"):
        model.get_layer(name).quantize("int8")


@pytest.mark.parametrize(("convolution", "start"), [(False, "file"), (False, "fresh"), (True, "fresh")])
def test_a_student_that_keras_quantised_is_refused_where_no_kernel_learns(folder, tmp_path, convolution, start):
    model = dense_student(convolution=convolution)
    quantize(model)
    model.save(tmp_path / "q.keras")
    request = {"student": tmp_path / "q.keras", "losses": LOSSES[:2], "recipe": {"student": {"start": start}}}
    with pytest.raises(ModelError, match=r"integer kernels \(hidden, last\) cannot be trained") as refused:
        distill(folder, tmp_path / "a", **request)
    assert "the float model it was made from" in refused.value.hint


@pytest.mark.parametrize("how", ["partly", "lora"])
def test_a_partly_quantised_student_trains_its_float_weights_with_a_note(folder, tmp_path, how):
    model = dense_student(convolution=how == "partly")
    quantize(model)
    if how == "lora":
        model.get_layer("hidden").enable_lora(2)
    model.save(tmp_path / "q.keras")
    request = {"student": tmp_path / "q.keras", "losses": LOSSES[:2]}
    findings = distill(folder, tmp_path / "a", dry_run=True, **request).findings
    fixed = "hidden, last" if how == "partly" else "last"
    (text,) = (text for text in findings if "quantized" in text)
    assert text.endswith(f"was quantized by Keras: integer kernels ({fixed}) are not trained")
    # And so it is: an integer kernel is what it was after training, a float one is not.
    made = keras.saving.load_model(distill(folder, tmp_path / "b", **request).model_path)
    kernels = [one.get_layer("last").get_weights()[-2] for one in (made, model)]
    assert {kernel.dtype for kernel in kernels} == {np.dtype("int8")}
    assert np.array_equal(*kernels)
    # Keras saves LoRA weights merged into the kernel beside them.
    moved = [one.get_layer("first" if how == "partly" else "hidden").get_weights()[-2:] for one in (made, model)]
    assert any(not np.array_equal(after, before) for after, before in zip(*moved, strict=True))


def test_a_student_that_computes_in_float16_is_refused_on_a_processor(folder, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        dense_student().save(tmp_path / "half.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    request = {"student": tmp_path / "half.keras", "losses": LOSSES[:2]}
    with pytest.raises(UsageError, match="compute in mixed_float16") as refused:
        distill(folder, tmp_path / "a", **request)
    _, setting = refused.value.hint.split()
    name, _, value = setting.partition("=")
    assert name == "train.precision"
    assert distill(folder, tmp_path / "b", train={"precision": value}, **request).test.accuracy is not None


def test_half_precision_that_processors_are_slow_in_names_the_other_one():
    with pytest.raises(RecipeError, match="did you mean 'mixed_bfloat16'"):
        read_recipe({}, settings=["train.precision=mixed_float16"])
