"""The precision in which a teacher computes."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
from conftest import bar_reader, blobs

from kdcli.data.named_arrays import splits_from_arrays
from kdcli.errors import UsageError
from kdcli.models import hardware
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import Predictor
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.teacher import precision
from kdcli.teacher.inference import TeacherPass
from kdcli.teacher.precision import check_teacher_precision, choose_precision

EXAMPLES = splits_from_arrays(dict(zip("xy", blobs(600), strict=True)), name="d").train


def network(model):
    preparation = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")
    return KerasNetwork(model, name="t.keras").with_preprocessing({"x": preparation})


@pytest.fixture(scope="module")
def teacher():
    """A teacher with clear decisions, behind a layer that computes in half precision."""
    reader = bar_reader()
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="same")(inputs)
    return network(keras.Model(inputs, reader(x)))


class Clock:
    """A clock that advances only during inference, by the given seconds per batch and precision."""

    def __init__(self, monkeypatch, **seconds):
        self.now = 0.0
        call = TeacherPass.__call__

        def timed_call(teacher_pass, *positions, **options):
            self.now += seconds[teacher_pass.precision]
            return call(teacher_pass, *positions, **options)

        monkeypatch.setattr(TeacherPass, "__call__", timed_call)

    def __call__(self):
        return self.now


@pytest.fixture
def fast(monkeypatch):
    """A machine with hardware support for bfloat16; a sample of 600 examples is large enough."""
    monkeypatch.setattr(precision, "is_fast_in", lambda precision: True)
    monkeypatch.setattr(precision, "SAMPLE_SIZE", 600)


def test_half_precision_is_used_if_it_is_faster_and_accurate(teacher, fast, monkeypatch):
    clock = Clock(monkeypatch, float32=2.1, mixed_bfloat16=1.0)
    found = choose_precision("auto", teacher, EXAMPLES, clock=clock)
    compared = found.comparison
    assert (found.precision, compared.is_accurate) == ("mixed_bfloat16", True)
    assert compared.agreement == 1.0
    assert 0 <= compared.largest_change < 0.02
    assert compared.speedup == pytest.approx(2.1)
    assert found.text == (
        "mixed_bfloat16: 100.00% of decisions on 600 examples agree with float32, probabilities change by at most "
        f"{compared.largest_change:.4f}, 2.1 times as fast"
    )


def test_half_precision_is_not_used_if_it_is_not_faster(teacher, fast, monkeypatch):
    clock = Clock(monkeypatch, float32=1.05, mixed_bfloat16=1.0)
    found = choose_precision("auto", teacher, EXAMPLES, clock=clock)
    assert (found.precision, found.comparison.is_accurate) == ("float32", True)
    assert found.text.startswith("float32: mixed_bfloat16 is not faster on this machine (100.00% of decisions")


def unsure():
    """A teacher whose decisions half precision changes: whether an image is brighter than the median."""
    brightness = EXAMPLES.take(np.arange(600))["x"].astype(np.float32).sum(axis=(1, 2, 3)) / 255
    middle = float(np.median(brightness))
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="same")(inputs)
    total = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="sum")
    whole = total(keras.layers.Flatten()(x))
    shown = keras.layers.Rescaling([50.0, -50.0], [-50 * middle, 50 * middle], dtype="float32")(
        keras.layers.Concatenate(dtype="float32")([whole, whole])
    )
    return network(keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="identity", name="out")(shown)))


def test_inaccurate_half_precision_is_used_only_on_request(fast, monkeypatch):
    clock = Clock(monkeypatch, float32=5.0, mixed_bfloat16=1.0)
    found = choose_precision("auto", unsure(), EXAMPLES, clock=clock)
    assert (found.precision, found.comparison.is_accurate) == ("float32", False)
    assert found.comparison.agreement < 1.0 or found.comparison.largest_change > 0.02
    assert found.text.startswith("float32: mixed_bfloat16 changes the outputs too much (")
    requested = choose_precision("mixed_bfloat16", unsure(), EXAMPLES, clock=clock)
    assert (requested.precision, requested.comparison.is_accurate) == ("mixed_bfloat16", False)
    assert requested.comparison.largest_change == found.comparison.largest_change


def test_float32_is_used_on_request_and_without_hardware_support(teacher, monkeypatch):
    found = choose_precision("float32", teacher, EXAMPLES)
    assert (found.precision, found.comparison, found.text) == ("float32", None, "float32: as requested")
    monkeypatch.setattr(precision, "is_fast_in", lambda precision: False)
    found = choose_precision("auto", teacher, EXAMPLES)
    assert found.text == "float32: this machine has no hardware support for bfloat16"


def test_the_choice_has_the_float32_outputs_of_the_sample(teacher, fast):
    found = choose_precision("auto", teacher, EXAMPLES, taps=("same",))
    expected = Predictor(teacher, taps=("same",))(EXAMPLES.take, 600)
    np.testing.assert_allclose(found.outputs["logits"], expected["logits"], atol=1e-5)
    np.testing.assert_allclose(found.outputs["same"], expected["same"][:256], atol=1e-6)
    assert {values.dtype.name for values in found.outputs.values()} == {"float32"}


def test_float32_is_used_if_there_are_too_few_examples(teacher, fast):
    found = choose_precision("auto", teacher, EXAMPLES.subset(np.arange(599)))
    assert (found.precision, found.comparison) == ("float32", None)
    assert found.text == ("float32: checking that bfloat16 changes nothing needs 600 examples, the data has 599")


def test_the_sample_is_bounded_and_may_be_smaller_than_a_batch(teacher, fast, monkeypatch):
    monkeypatch.setattr(precision, "SAMPLE_SIZE", 300)
    done = []
    found = choose_precision("auto", teacher, EXAMPLES, on_batch=done.append)
    assert (found.comparison.examples, len(found.outputs["logits"]), done) == (300, 300, [256, 300])
    few = choose_precision("auto", teacher, EXAMPLES.subset(np.arange(3)))
    assert len(few.outputs["logits"]) == 3


def test_changes_of_values_are_in_standard_deviations(fast, monkeypatch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, name="conv")(inputs))
    found = network(keras.Model(inputs, keras.layers.Dense(2, name="out")(x))).with_output_kinds(
        "values", output_kind="values"
    )
    clock = Clock(monkeypatch, float32=2.0, mixed_bfloat16=1.0)
    choice = choose_precision("auto", found, EXAMPLES, clock=clock)
    assert choice.comparison.agreement is None
    assert "on 600 examples values change by at most 0.0" in choice.text
    assert "standard deviations, 2.0 times as fast" in choice.text


class RuntimeNetwork(Network):
    """A network that is neither a Keras model nor a SavedModel."""

    name = "model.tflite"
    inputs = ()
    output_shape = (3,)
    outputs = 3

    def __init__(self, inner):
        self.inner = inner

    def compute(self, raw, *, taps=(), training=False):
        return self.inner.compute(raw, taps=taps, training=training)

    def compute_saved_output(self, raw):
        return self.inner.compute_saved_output(raw)


def test_a_network_in_another_process_computes_in_float32(teacher, fast):
    found = choose_precision("auto", RuntimeNetwork(teacher), EXAMPLES)
    assert found.text == "float32: model.tflite computes in float32 only"
    with pytest.raises(UsageError, match=r"a SavedModel; model\.tflite computes in float32 only") as caught:
        choose_precision("mixed_bfloat16", RuntimeNetwork(teacher), EXAMPLES)
    assert caught.value.hint == "--set teacher.precision=float32"


def test_float16_on_a_cpu_is_refused(teacher, monkeypatch):
    monkeypatch.setattr(precision, "has_gpu", lambda: False)
    with pytest.raises(UsageError, match="mixed_float16 needs a GPU") as caught:
        check_teacher_precision("mixed_float16", teacher)
    assert caught.value.hint == "--set teacher.precision=mixed_bfloat16"
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    check_teacher_precision("mixed_float16", teacher)


@pytest.mark.parametrize(("gpu", "fast", "hint"), [(False, False, "float32"), (True, True, "mixed_float16")])
def test_a_saved_model_needs_hardware_support(monkeypatch, gpu, fast, hint):
    graph = FrozenNetwork.__new__(FrozenNetwork)
    graph.name = "model"
    monkeypatch.setattr(precision, "has_gpu", lambda: gpu)
    monkeypatch.setattr(precision, "is_fast_in", lambda precision: fast)
    check_teacher_precision("auto", graph)
    with pytest.raises(UsageError, match="mixed_bfloat16") as caught:
        check_teacher_precision("mixed_bfloat16", graph)
    assert caught.value.hint == f"--set teacher.precision={hint}"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("model name: x\nflags\t\t: fpu avx512_bf16 amx_bf16 sse\n", ("amx_bf16", "avx512_bf16")),
        ("flags : fpu avx512_bf16x\n", ()),
        ("Features : fp asimd bf16\n", ()),
        (None, ()),
    ],
)
def test_processor_flags_are_read(tmp_path, text, flags):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert hardware.read_processor_flags(path) == flags


@pytest.mark.parametrize(
    ("capabilities", "flags", "float16", "bfloat16"),
    [
        ([], ("avx512_bf16",), False, True),
        ([], (), False, False),
        ([(8, 0)], (), True, True),
        ([(7, 5)], ("amx_bf16",), True, False),
        ([(9, 0), (6, 1)], (), False, False),
        ([None], (), False, False),
    ],
)
def test_hardware_support_is_that_of_the_gpu_or_the_cpu(monkeypatch, capabilities, flags, float16, bfloat16):
    tf = hardware.tf
    monkeypatch.setattr(hardware, "read_processor_flags", lambda: flags)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(range(len(capabilities))))
    details = partial(lambda gpu: {"compute_capability": capabilities[gpu]} if capabilities[gpu] else {})
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    assert hardware.has_gpu() == bool(capabilities)
    assert hardware.is_fast_in("mixed_float16") == float16
    assert hardware.is_fast_in("mixed_bfloat16") == bfloat16
