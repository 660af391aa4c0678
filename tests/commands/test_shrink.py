"""kd shrink: a student file from the teacher's own graph, measured beside the teacher."""

from __future__ import annotations

import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz
from random_graphs import randomize

import kdcli
from kdcli.errors import ModelError, UsageError


def build(*, classes=3, name="teacher"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(32, 3, padding="same", name="first")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.8)(x))
    y = keras.layers.Conv2D(32, 3, padding="same", name="inner")(x)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.Dense(24, activation="relu", name="hidden")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax", name="last")(x), name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shrink")
    save_npz(folder / "data.npz")
    x, y = blobs(240, seed=3)
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x / 255.0, y, epochs=12, batch_size=32, verbose=0)
    model.save(folder / "teacher.keras")
    return folder


def shrink(folder, out, **options):
    return kdcli.shrink(folder / "teacher.keras", data=folder / "data.npz", out=out, **options)


def test_the_student_opens_without_kd_and_has_the_recorded_cost(folder, tmp_path):
    result = shrink(folder, tmp_path / "student.keras", keep=0.5)
    document = result.to_json()
    assert list(document) == [
        "schema", "model", "teacher", "student", "keep", "importance", "start", "measured_as", "runtime", "split",
        "layers", "blocks", "low_rank", "findings", "gates",
    ]  # fmt: skip
    assert document["schema"] == "kd.shrink/1"
    loaded = keras.saving.load_model(result.path)
    student = document["student"]
    assert student["parameters"] == loaded.count_params() == result.model.count_params()
    assert student["bytes"]["int8"] == loaded.count_params()
    assert [(one["name"], one["before"], one["after"], one["frozen"]) for one in document["layers"]] == [
        ("first", 32, 16, False), ("inner", 32, 16, False), ("hidden", 24, 16, False), ("last", 3, 3, True)
    ]  # fmt: skip
    with np.load(folder / "data.npz") as data:
        x, y = data["x_test"], data["y_test"]
    for path, model in ((folder / "teacher.keras", "teacher"), (result.path, "student")):
        outputs = keras.saving.load_model(path).predict(x.reshape(-1, 8, 8, 1) / 255.0, verbose=0)
        assert document[model]["accuracy"] == pytest.approx(np.mean(outputs.argmax(1) == y))
        assert document[model]["exported_bytes"] > 0
        assert document[model]["latency"]["p50_ms"] > 0
    assert document["teacher"]["accuracy"] > 0.6
    assert "kdcli" not in zipfile.ZipFile(result.path).read("config.json").decode()


def test_the_recorded_size_is_that_of_the_exported_file(folder, tmp_path):
    result = shrink(folder, tmp_path / "student.keras", keep=0.5, measure_as="litert/float16")
    exported = kdcli.export(
        result.path, formats=["litert"], quantize=["float16"], data=folder / "data.npz", out=tmp_path / "e",
        gates=["export_drop<=1"],
    )  # fmt: skip
    assert result.student.exported == exported.artifacts[0].bytes


@pytest.mark.parametrize(
    ("target", "value", "measure"),
    [
        ("max_params", 6000, lambda one: one.parameters),
        ("max_mflops", 0.4, lambda one: one.flops / 1e6),
        ("max_size_mb", 0.012, lambda one: one.exported / 1e6),
    ],
)
def test_the_largest_student_within_a_target(folder, tmp_path, target, value, measure):
    result = shrink(folder, tmp_path / "student.keras", round_to=1, **{target: value})
    assert 0.7 * value < measure(result.student) <= value < measure(result.teacher)


@pytest.mark.slow
def test_a_latency_target_is_met_by_the_file(folder, tmp_path):
    whole = shrink(folder, tmp_path / "whole.keras", keep=0.9)
    bound = whole.teacher.p50_ms * 0.8
    result = shrink(folder, tmp_path / "student.keras", max_latency_ms=bound)
    # Timed once more beside the teacher, so that noise counts.
    assert result.student.p50_ms <= 1.5 * bound
    assert result.student.parameters < result.teacher.parameters


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"keep": 0.0}, "--keep must be greater than 0 (got 0.0)", "--keep 0.5 keeps half of the channels"),
        (
            {"keep": 1.5},
            "--keep must be less than or equal to 1 (got 1.5)",
            "--keep 0.5 keeps half of the channels",
        ),
        ({"max_params": 10}, "--max-params 10: no student meets it; the smallest possible has ", "--max-params "),
        ({"max_size_mb": 0.001}, "--max-size-mb 0.001: no student meets it; the smallest possible has 0.00", ""),
        ({"max_mflops": -1}, "--max-mflops must be above 0 (got -1)", None),
        ({"keep": 0.5, "max_params": 5000}, "--keep and --max-params exclude each other", "leave out --keep"),
        ({"importance": "size"}, "--importance must be 'activation', 'taylor'", "--importance activation"),
        ({"measure_as": "coreml"}, "--measure-as coreml: expected a format", "--measure-as litert/int8"),
        ({"blocks": 3}, "blocks is 3, but 1 residual blocks can be left out (sum)", "--blocks 1"),
        ({"round_to": 0}, "--round-to must be greater than or equal to 1 (got 0)", None),
        ({"gates": ["size_mb<=1", "gain>=0"]}, "gate gain >= 0: kd shrink does not measure it", ""),
    ],
)
def test_bad_options(folder, tmp_path, options, message, hint):
    with pytest.raises(UsageError) as caught:
        shrink(folder, tmp_path / "student.keras", **options)
    assert caught.value.message.startswith(message)
    assert (caught.value.hint or "").startswith(hint or "")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_it_may_be_replaced(folder, tmp_path):
    out = tmp_path / "student.keras"
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"exists") as caught:
        shrink(folder, out, keep=0.5)
    assert caught.value.hint == "another --out, or --overwrite"
    assert out.read_bytes() == b"mine"
    shrink(folder, out, keep=0.5, overwrite=True)
    assert zipfile.is_zipfile(out)
    with pytest.raises(UsageError, match="is the teacher itself"):
        kdcli.shrink(folder / "teacher.keras", out=folder / "teacher.keras", overwrite=True, keep=0.5)
    with pytest.raises(UsageError, match=r"the student is a \.keras file"):
        shrink(folder, tmp_path / "student.tflite", keep=0.5)


def test_without_data_weights_rank_the_channels(folder, tmp_path):
    result = kdcli.shrink(folder / "teacher.keras", keep=0.5, out=tmp_path / "student.keras")
    assert (result.importance, result.split) == ("l2", None)
    assert result.student.quality is None
    kernel = keras.saving.load_model(folder / "teacher.keras").get_layer("hidden").kernel.numpy()
    best = np.sort(np.argsort(-np.linalg.norm(kernel, axis=0))[:16])
    bias = keras.saving.load_model(folder / "teacher.keras").get_layer("hidden").bias.numpy()
    np.testing.assert_array_equal(result.model.get_layer("hidden").bias.numpy(), bias[best])
    with pytest.raises(UsageError, match="importance taylor is measured on examples, and there is no data"):
        kdcli.shrink(folder / "teacher.keras", keep=0.5, importance="taylor", out=tmp_path / "other.keras")


def test_unlabelled_data_is_enough_for_taylor(folder, tmp_path):
    result = shrink(folder, tmp_path / "s.keras", keep=0.5, importance="taylor", settings=["data.labels=none"])
    assert 0 <= result.student.quality.agreement <= 1


def test_blocks_and_low_rank_are_listed(folder, tmp_path):
    result = shrink(folder, tmp_path / "s.keras", keep=1.0, blocks=1, rank=4)
    document = result.to_json()
    assert [(one["name"], one["left_out"]) for one in document["blocks"]] == [("sum", True)]
    assert [one["name"] for one in document["low_rank"]] == ["hidden"]
    assert {layer.name for layer in result.model.layers} >= {"hidden", "hidden_low_rank"}
    assert "inner" not in {layer.name for layer in result.model.layers}


@pytest.mark.slow
def test_fresh_weights_depend_on_the_seed_alone(folder, tmp_path):
    one, same, other = (
        shrink(folder, tmp_path / f"{number}.keras", keep=0.5, fresh=True, seed=seed).model
        for number, seed in enumerate((0, 0, 1))
    )
    np.testing.assert_array_equal(one.get_layer("inner").kernel.numpy(), same.get_layer("inner").kernel.numpy())
    assert not np.array_equal(one.get_layer("inner").kernel.numpy(), other.get_layer("inner").kernel.numpy())


def test_a_dry_run_writes_nothing(folder, tmp_path):
    result = shrink(folder, tmp_path / "student.keras", keep=0.5, dry_run=True)
    document = result.to_json()
    assert (document["schema"], document["model"], document["student"]["exported_bytes"]) == (
        "kd.plan/1",
        None,
        None,
    )
    assert document["student"]["parameters"] < document["teacher"]["parameters"]
    assert not list(tmp_path.iterdir())


def test_gates_are_judged_on_the_student_before_training(folder, tmp_path):
    result = shrink(folder, tmp_path / "s.keras", keep=0.5, gates=["loss<=1e-9", "parameters<=100000"])
    assert [gate.state for gate in result.gates] == ["failed", "passed"]
    assert result.gates[0].value == result.student.quality.loss


def test_other_formats_are_refused_with_the_way_on(folder, tmp_path):
    exported = kdcli.export(
        folder / "teacher.keras", formats=["litert", "saved-model"], data=folder / "data.npz", out=tmp_path / "e"
    )
    for artifact in exported.artifacts:
        with pytest.raises(ModelError, match="be shrunk") as caught:
            kdcli.shrink(artifact.path, data=folder / "data.npz", keep=0.5, out=tmp_path / "s.keras")
        assert caught.value.exit_code == 4
        assert ".keras file" in caught.value.hint and "kd inspect zoo:cnn" in caught.value.hint


def test_data_of_another_shape_is_refused(folder, tmp_path):
    save_npz(tmp_path / "other.npz", x_train=np.zeros((96, 5), np.float32), x_test=np.zeros((48, 5), np.float32))
    with pytest.raises(ModelError, match="takes inputs of shape 8×8×1, the data has 5"):
        kdcli.shrink(
            folder / "teacher.keras", data=tmp_path / "other.npz", keep=0.5, out=tmp_path / "student.keras"
        )
    assert not (tmp_path / "student.keras").exists()


def test_several_inputs_are_shrunk_and_their_file_is_not_measured(tmp_path):
    image, numbers = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="numbers")
    x = keras.layers.Flatten()(keras.layers.Conv2D(16, 3)(image))
    x = keras.layers.Concatenate()([x, keras.layers.Dense(16)(numbers)])
    randomize(keras.Model([image, numbers], keras.layers.Dense(3)(x))).save(tmp_path / "two.keras")
    result = kdcli.shrink(tmp_path / "two.keras", keep=0.5, out=tmp_path / "student.keras")
    assert result.student.exported is None and result.student.flops < result.teacher.flops
    assert any("were not measured" in text for text in result.findings)
    assert keras.saving.load_model(result.path).count_params() == result.student.parameters


@pytest.mark.slow
def test_the_command_prints_both_models_and_the_next_command(kd, folder, tmp_path):
    words = ["shrink", folder / "teacher.keras", "--data", folder / "data.npz", "--keep", "0.5"]
    ran = kd(*words)
    assert ran.code == 0
    assert "parameters" in ran.out and "not trained yet" in ran.out
    assert f"next: kd distill --teacher {folder / 'teacher.keras'} --student teacher-shrunk.keras" in ran.err
    assert (tmp_path / "teacher-shrunk.keras").is_file()
    quiet = kd(*words, "--overwrite", "--quiet")
    assert quiet.out == "teacher-shrunk.keras\n"
    document = json.loads(kd(*words, "--overwrite", "--json", "--max-accuracy-drop", "1").out)
    assert document["schema"] == "kd.shrink/1" and document["gates"][0]["state"] == "passed"
    failed = kd(*words, "--overwrite", "--gate", "loss<=1e-9")
    assert failed.code == 7
    planned = kd(*words, "--overwrite", "--dry-run")
    assert "why it stays" in planned.out and "nothing was written" in planned.out


@pytest.mark.parametrize(("text", "count"), [("50k", 50_000), ("1.5M", 1_500_000), ("123", 123)])
def test_a_count_may_have_a_unit(text, count):
    from kdcli.cli.shrink import parse_count

    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["many", "0", "-5", "1e999k", "5G"])
def test_a_count_that_is_none_is_refused(text):
    from kdcli.cli.shrink import parse_count

    with pytest.raises(UsageError, match="--max-params must be a count such as 50000 or 50k"):
        parse_count(text)
