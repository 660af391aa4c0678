"""Files as networks: inputs and output kinds follow from their tensors. The runner is a replacement."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.runtimes.file_tensor import FileTensor
from kdcli.models.runtimes.network import RunnerNetwork, find_failure, unwrap_failures


class Runner:
    """Returns its input, flattened and cut to the output's size."""

    def __init__(self, *, takes=("float32", None, 0), gives=("float32", None, 0), outputs=2, error=None):
        self.inputs = (FileTensor("in", (1, -1), *takes),)
        self.output = FileTensor("out", (outputs,), *gives)
        self.outputs = (self.output,)
        self.error = error
        self.batches = []

    def predict(self, batches):
        if self.error:
            raise self.error
        (batch,) = batches
        self.batches.append(batch)
        return batch.reshape(len(batch), -1)[:, : self.output.shape[0]].astype(np.float32)


def network(preparation=None, **options):
    made = RunnerNetwork(Runner(**options), name="a.tflite")
    one = preparation or Preprocessing((1, 2), "float32", (1, None), made.inputs[0].dtype)
    return made.with_preprocessing({"x": one})


def logits_of(made, x):
    return Predictor(made)(lambda positions: {"x": x[positions]}, len(x))[LOGITS]


@pytest.mark.parametrize(
    ("dtype", "scale", "zero", "bytes_", "expected"),
    [
        ("float32", None, 0, False, "float32"),
        ("uint8", None, 0, True, "uint8"),
        ("uint8", 1.0, 0, True, "uint8"),
        ("uint8", 1 / 255, 0, True, "uint8"),
        ("uint8", 2 / 255, 128, True, "uint8"),
        # Calibrated on dark images only: unchanged bytes would be read as darker ones.
        ("uint8", 0.8 / 255, 0, False, "float32"),
        ("int8", 1 / 255, -128, False, "float32"),
        ("int32", None, 0, False, "int32"),
    ],
)
def test_the_input_tensor_decides_between_bytes_and_floats(dtype, scale, zero, bytes_, expected):
    made = network(takes=(dtype, scale, zero))
    assert made.takes_bytes == bytes_
    assert (made.inputs[0].dtype, made.inputs[0].shape, made.outputs) == (expected, (1, None), 2)


def test_examples_are_preprocessed():
    preparation = Preprocessing((1, 2), "uint8", (1, 2), "float32", "unit")
    made = network(preparation)
    x = np.array([[[0, 255]], [[51, 102]]], np.uint8)
    assert logits_of(made, x) == pytest.approx(np.array([[0, 1], [0.2, 0.4]]))
    assert made.runner.batches[0].dtype == np.float32
    assert logits_of(made.with_scale("raw"), x) == pytest.approx(x.reshape(2, 2))


@pytest.mark.parametrize(
    ("gives", "outputs", "kind"),
    [
        (("float32", None, 0), 3, "logits"),
        (("int8", 1 / 256, -128), 3, "probabilities"),
        (("uint8", 1 / 256, 0), 3, "probabilities"),
        (("int8", 0.1, 0), 3, "logits"),
        (("int8", 1 / 256, -128), 1, "logits"),
    ],
)
def test_output_in_steps_of_a_softmax_is_probabilities(gives, outputs, kind):
    assert network(gives=gives, outputs=outputs).saved_kind == kind


def test_probabilities_and_sigmoids_become_logits():
    x = np.array([[[0.25, 0.75]]], np.float32)
    made = network().with_output_kinds("probabilities", output_kind="logits")
    assert logits_of(made, x) == pytest.approx(np.log([[0.25, 0.75]]))
    made = network().with_output_kinds("sigmoid", output_kind="sigmoid")
    assert logits_of(made, x) == pytest.approx(np.log([[1 / 3, 3]]), abs=1e-6)
    made = network(outputs=1).with_output_kinds("sigmoid", output_kind="sigmoid").as_two_classes()
    assert made.outputs == 2
    assert logits_of(made, x) == pytest.approx(np.array([[0, np.log(1 / 3)]]), abs=1e-6)
    assert np.isfinite(logits_of(network().with_output_kinds("probabilities", output_kind="logits"), 0 * x)).all()


def test_the_error_of_the_runtime_is_found_behind_that_of_tensorflow():
    made = network(error=ModelError("a.tflite: the file crashed LiteRT"))
    with pytest.raises(Exception) as caught:
        logits_of(made, np.zeros((3, 1, 2), np.float32))
    assert find_failure(made, caught.value).message == "a.tflite: the file crashed LiteRT"
    assert find_failure(network(), ValueError("odd")).message == "a.tflite: running the model failed: odd"


def test_several_inputs_go_in_by_name():
    class Two(Runner):
        def __init__(self):
            super().__init__()
            self.inputs = (FileTensor("b", (2,), "int32", None, 0), FileTensor("a", (2,), "float32", None, 0))

        def predict(self, batches):
            tokens, values = batches
            assert (tokens.dtype, values.dtype) == (np.int32, np.float32)
            return (10 * tokens + values).astype(np.float32)

    made = RunnerNetwork(Two(), name="two.onnx")
    preparations = {
        "a": Preprocessing((2,), "float32", (2,), "float32", "raw"),
        "b": Preprocessing((2,), "int64", (2,), "int32", "raw"),
    }
    made = made.with_preprocessing(preparations)
    raw = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array([[3, 4]])}
    assert made.compute_saved_output(raw).numpy().tolist() == [[31, 42]]
    assert (made.taps, made.variables, made.parameters) == ({}, [], None)


def test_an_error_in_the_block_is_raised_as_itself():
    made = network(error=ModelError("a.tflite: the file crashed LiteRT"))
    with pytest.raises(ModelError, match="the file crashed LiteRT"), unwrap_failures(made):
        logits_of(made, np.zeros((3, 1, 2), np.float32))
    with pytest.raises(ValueError, match="odd"), unwrap_failures(network()):
        raise ValueError("odd")
