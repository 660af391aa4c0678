"""Evaluated models: `.tflite` and `.keras` files, latency, per-class metrics, gates."""

from __future__ import annotations

import json
import re
import shutil
import signal
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs, save_npz

import kdcli
from kdcli.cache.contents import remove_entries
from kdcli.cache.folder import count_cached_bytes
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.latency import measure
from kdcli.events import Note
from kdcli.lazy import silence_descriptor
from kdcli.models.runtimes.child_process import FileRunner
from kdcli.setup import evaluated_models

pytest.importorskip("ai_edge_litert")


def bars(*, output_kind="logits", scale=1.0):
    """A model that detects the bar of each class in images of [0, 1]."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(outputs) if output_kind == "probabilities" else outputs)
    random = np.random.default_rng(0)
    kernel = random.normal(0, 0.05, (8, 8, 3)).astype(np.float32)
    for label in range(3):
        kernel[1 + 2 * label : 3 + 2 * label, :, label] += 0.4
    model.layers[2].set_weights([scale * kernel.reshape(64, 3), np.zeros(3, np.float32)])
    return model


def lite(model, *, quantised=None):
    """The model as a `.tflite` file; `quantised` is the type of its input and output."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantised:
        x, _ = blobs(60)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([one[None] / np.float32(255)] for one in x)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = quantised
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return converter.convert()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("candidates")
    save_npz(folder / "data.npz")
    for head in ("logits", "probabilities"):
        model = bars(output_kind=head)
        model.save(folder / f"{head}.keras")
        (folder / f"{head}.tflite").write_bytes(lite(model))
    (folder / "uint8.tflite").write_bytes(lite(bars(output_kind="probabilities"), quantised=tf.uint8))
    (folder / "int8.tflite").write_bytes(lite(bars(output_kind="probabilities"), quantised=tf.int8))
    (folder / "raw.tflite").write_bytes(lite(bars(scale=1 / 255)))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr(measure, "WARM_UP_LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(measure, "LEAST_SESSION_SECONDS", 0.05)
    monkeypatch.setattr(evaluated_models, "SECONDS_EACH", 0.2)


def evaluated(folder, *names, **options):
    return kdcli.evaluate(*(folder / name for name in names), data=folder / "data.npz", **options)


@pytest.mark.parametrize("head", ["logits", "probabilities"])
def test_float_file_has_the_metrics_of_its_model(folder, head):
    found = evaluated(folder, f"{head}.keras", f"{head}.tflite", teacher=folder / f"{head}.keras")
    own, file = found.models
    assert (own.format, file.format) == ("keras", "tflite")
    assert (file.quality.accuracy, file.quality.agreement) == (own.quality.accuracy, 1.0)
    assert file.quality.loss == pytest.approx(own.quality.loss, abs=1e-5)
    assert (own.flops, file.flops, file.parameters) == (2 * 64 * 3, None, None)
    assert file.bytes == (folder / f"{head}.tflite").stat().st_size


@pytest.mark.parametrize("name", ["uint8.tflite", "int8.tflite"])
def test_quantized_file_uses_its_input_and_output_scales(folder, name):
    found = evaluated(folder, name, "probabilities.keras", teacher=folder / "probabilities.keras")
    file, own = found.models
    assert file.quality.accuracy == own.quality.accuracy == file.quality.agreement == 1.0
    # Probabilities in steps of 1/256 are recognized, although they seldom sum to 1.
    assert file.quality.loss == pytest.approx(own.quality.loss, abs=0.02)
    assert 0.01 < own.quality.loss


def test_file_that_takes_raw_images_is_known_by_input_json(folder, tmp_path):
    content = (folder / "raw.tflite").read_bytes()
    (tmp_path / "a.tflite").write_bytes(content)
    forced = {"data": folder / "data.npz", "settings": ["student.input.scale=unit"]}
    loss = kdcli.evaluate(tmp_path / "a.tflite", **forced).models[0].quality.loss
    (tmp_path / "input.json").write_text(json.dumps({"a.tflite": {"prepare": "inside", "output_kind": "logits"}}))
    informed = kdcli.evaluate(tmp_path / "a.tflite", **forced).models[0].quality.loss
    own = evaluated(folder, "logits.keras").models[0].quality.loss
    assert informed == pytest.approx(own, abs=1e-4)
    assert loss > informed + 0.1
    outside = {"a.tflite": {"prepare": "outside", "scale": "raw", "output_kind": "logits"}}
    (tmp_path / "input.json").write_text(json.dumps(outside))
    free = kdcli.evaluate(tmp_path / "a.tflite", data=folder / "data.npz").models[0].quality.loss
    assert free == pytest.approx(own, abs=1e-4)
    # A file of that name that kd did not write is ignored.
    for foreign in ("[", "[1, 2]", json.dumps({"a.tflite": {"prepare_me": 1}})):
        (tmp_path / "input.json").write_text(foreign)
        assert kdcli.evaluate(tmp_path / "a.tflite", **forced).models[0].quality.loss == pytest.approx(loss)


def test_file_that_kills_its_runtime_process_is_a_model_error(folder, tmp_path, monkeypatch):
    from kdcli.models.runtimes.child_process import FileRunner

    real = FileRunner.predict

    def dying(self, batch):
        if len(batch[0]) == 48:
            self._process.send_signal(signal.SIGSEGV)
            self._process.wait()
        return real(self, batch)

    monkeypatch.setattr(FileRunner, "predict", dying)
    with pytest.raises(ModelError, match=r"logits\.tflite: the file crashed LiteRT .*SIGSEGV"):
        evaluated(folder, "logits.tflite", limit=48, batch_size=48)
    (tmp_path / "not.tflite").write_bytes(b"nothing that can be read")
    with pytest.raises(ModelError, match=r"not\.tflite: not a \.tflite file"):
        kdcli.evaluate(tmp_path / "not.tflite", data=folder / "data.npz")


@pytest.mark.serial
def test_models_are_timed_together_with_the_teacher(folder):
    names = ("logits.keras", "logits.tflite")
    notes = []
    found = evaluated(
        folder,
        *names,
        teacher=folder / "logits.keras",
        latency=True,
        on_event=notes.append,
        gates=["latency_ms<=10000", "latency_ratio>=100"],
    )
    own, file = found.models
    assert (own.latency.runtime, file.latency.runtime) == ("tensorflow", "litert")
    assert file.latency.threads >= 1 and file.latency.batch == 1
    # A LiteRT call on so small a model takes microseconds, so one sample has several calls.
    assert file.latency.p50_ms < own.latency.p50_ms
    # The teacher is timed in LiteRT too, where it is the same model.
    assert file.latency.p50_ms / own.latency.p50_ms < 0.2 < file.ratio.value < 5
    assert 0.2 < own.ratio.value < 5
    assert found.noise_floor.low <= found.noise_floor.value <= found.noise_floor.high
    assert own.latency.best_batch in (1, 8, 32)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["models"][1]["latency"]["ratio"]["value"] == file.ratio.value
    states = {(gate["name"], gate["state"]) for gate in document["gates"]}
    expected = {("latency_ms", "passed"), ("latency_ratio", "failed")}
    # Both bounds are so wide that even an unsteady session decides them.
    assert states == expected
    warned = [event.text for event in notes if isinstance(event, Note) and event.warning]
    assert warned == [f"latency: {doubt}" for doubt in found.doubts]


@pytest.mark.slow
def test_the_teacher_in_another_runtime_is_exported_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path))
    shipped = tmp_path / "shipped" / "raw.tflite"
    shipped.parent.mkdir()
    shutil.copy(folder / "raw.tflite", shipped)
    interface = {"raw.tflite": {"prepare": "inside", "output_kind": "logits"}}
    (shipped.parent / "input.json").write_text(json.dumps(interface))

    def ratio():
        notes = []
        found = evaluated(
            folder,
            shipped,
            teacher=folder / "logits.keras",
            latency=True,
            runtime="litert",
            on_event=notes.append,
        )
        return found.models[0].ratio, [note.text for note in notes if "exporting" in getattr(note, "text", "")]

    first, exporting = ratio()
    (file,) = (tmp_path / "exports").iterdir()
    assert first.value > 0 and len(exporting) == 1
    # The exported teacher includes its preprocessing, as raw.tflite does.
    x, _ = blobs(8)
    with FileRunner(file) as runner:
        expected = keras.saving.load_model(folder / "logits.keras")(x / np.float32(255)).numpy()
        np.testing.assert_allclose(runner.predict(x), expected, atol=1e-5)
    assert ratio()[1] == []
    file.write_bytes(b"damaged")
    again, exporting = ratio()
    assert again.value > 0 and len(exporting) == 1
    assert count_cached_bytes(tmp_path) == file.stat().st_size == remove_entries(everything=True)[1]
    assert not file.exists()


@pytest.mark.slow
def test_a_latency_ratio_without_a_teacher_in_the_runtime_is_inconclusive(folder, kd):
    words = (
        "evaluate",
        folder / "logits.keras",
        "--teacher",
        folder / "logits.tflite",
        "--data",
        folder / "data.npz",
    )
    ran = kd(*words, "--latency", "--max-latency-ratio", "1000", "--json")
    assert ran.code == 0
    (gate,) = ran.document["gates"]
    assert (gate["name"], gate["value"], gate["state"]) == ("latency_ratio", None, "inconclusive")
    why = f"the teacher cannot be timed in tensorflow: {folder / 'logits.tflite'} is a tflite file"
    measure = ran.document["models"][0]["latency"]
    assert (measure["ratio"], measure["no_ratio"]) == (None, why)
    assert why in ran.err
    assert kd(*words, "--latency", "--max-latency-ratio", "1000", "--strict-gates").code == 7


def test_a_percentile_that_was_not_measured_is_a_dash_with_the_reason(folder, kd):
    ran = kd("evaluate", folder / "logits.tflite", "--data", folder / "data.npz", "--latency")
    lines = ran.out.splitlines()
    (row,) = [line for line in lines if "litert, " in line]
    assert re.search(r" \d+ × \d+ calls ", row)
    few = row.split()[6] == "-"
    assert few == ("p99: -, needs 1,000 samples" in lines)


def test_runtime_selects_the_timed_models(folder):
    found = evaluated(folder, "logits.keras", "logits.tflite", latency=True, runtime="litert")
    assert [model.latency is None for model in found.models] == [True, False]
    with pytest.raises(UsageError, match=r"none of the given models uses this runtime \(known: tensorflow\)"):
        evaluated(folder, "logits.keras", latency=True, runtime="onnxruntime")
    with pytest.raises(UsageError, match="--runtime selects which models are timed"):
        evaluated(folder, "logits.keras", runtime="tensorflow")


def test_nothing_is_timed_without_latency(folder):
    found = evaluated(folder, "logits.keras")
    assert (found.models[0].latency, found.noise_floor) == (None, None)
    assert "latency_noise_floor" not in found.to_json()


def test_per_class_metrics_are_measured_on_request(folder):
    found = evaluated(folder, "logits.tflite", teacher=folder / "logits.keras", per_class=True)
    classes = found.models[0].classes
    assert [one.name for one in classes] == ["0", "1", "2"]
    assert [one.examples for one in classes] == [16, 16, 16]
    assert [one.change for one in classes] == [0, 0, 0]
    assert found.to_json()["models"][0]["worst_class"] == "0"
    x, _ = blobs(30)
    with pytest.raises(UsageError, match="--per-class needs labels"):
        kdcli.evaluate(
            folder / "logits.keras",
            data=(x, None),
            settings=["data.task=classification", "data.classes=[a, b, c]"],
            per_class=True,
        )


def test_gates_are_judged_on_every_model_but_the_teacher(folder, tmp_path):
    shutil.copy(folder / "logits.keras", tmp_path / "teacher.keras")
    notes = []
    found = evaluated(
        folder,
        "logits.keras",
        "logits.tflite",
        tmp_path / "teacher.keras",
        teacher=tmp_path / "teacher.keras",
        on_event=notes.append,
        gates=["accuracy>=1", "accuracy_drop<=0", "agreement>=1", "size_mb<=0.00001", "flops<=1000"],
    )
    assert len(found.models) == 3
    assert f"{tmp_path / 'teacher.keras'} is the teacher: gates do not apply to it" in [
        note.text for note in notes if isinstance(note, Note)
    ]
    assert not any(gate.model.endswith("teacher.keras") for gate in found.gates)
    states = {(gate.name, Path(gate.model).suffix): gate.state for gate in found.gates}
    assert states == {
        ("accuracy", ".keras"): "passed",
        ("accuracy", ".tflite"): "passed",
        ("accuracy_drop", ".keras"): "passed",
        ("accuracy_drop", ".tflite"): "passed",
        ("agreement", ".keras"): "passed",
        ("agreement", ".tflite"): "passed",
        ("size_mb", ".keras"): "failed",
        ("size_mb", ".tflite"): "failed",
        ("flops", ".keras"): "passed",
        # A metric that cannot be counted fails its gate.
        ("flops", ".tflite"): "failed",
    }


def test_gates_that_cannot_be_judged_are_refused_before_models_are_opened(folder, tmp_path):
    for gate, message in (
        ("gain>=0", "kd evaluate does not measure it"),
        ("latency_ms<=1", "latency is not measured"),
        ("agreement>=0.9", "there is no teacher"),
        ("accuracy>=97", "must be a fraction, not a percentage: write 0.97"),
    ):
        with pytest.raises(UsageError, match=message):
            kdcli.evaluate(tmp_path / "missing.keras", gates=[gate])
    with pytest.raises(UsageError, match="gate mae <= 1: not a metric of classification data"):
        evaluated(folder, "logits.keras", gates=["mae<=1"])


def test_flops_of_a_network_are_in_the_document(folder):
    from kdcli.models.keras.network import KerasNetwork
    from kdcli.models.preprocessing import Preprocessing

    found = evaluated(folder, "logits.keras")
    network = KerasNetwork(bars(), name="bars")
    one = {"x": Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")}
    assert found.to_json()["models"][0]["flops"] == count_flops(network.with_preprocessing(one))


def test_an_exported_keras_file_takes_raw_images_as_input_json_says(tmp_path):
    run = kdcli.distill(
        teacher=bars(),
        recipe={
            "student": {"model": {"kind": "zoo", "name": "cnn", "width": 2, "blocks": 1}},
            "losses": [{"kind": "labels"}],
            "train": {"epochs": 1, "batch_size": 16},
        },
        data=save_npz(tmp_path / "raw.npz"),
        out=tmp_path / "run",
    )
    kdcli.export(run.run, formats=["keras"], out=tmp_path / "shipped", latency=False)
    both = kdcli.evaluate(run.run, tmp_path / "shipped" / "student.keras", data=tmp_path / "raw.npz")
    ours, exported = [model.quality for model in both.models]
    assert exported.accuracy == ours.accuracy
    assert exported.loss == pytest.approx(ours.loss, rel=1e-5)
