"""Models in the forms in which people save them: each opens with equal outputs, or is refused with a hint."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import bar_reader, blobs, save_npz

import kdcli
from kdcli.errors import KdError

needs_keras_2 = pytest.mark.skipif(find_spec("tf_keras") is None, reason="tf_keras is not installed")


@pytest.fixture
def data(tmp_path):
    return save_npz(tmp_path / "blobs.npz")


def accuracy(path, data, **options):
    return kdcli.evaluate(path, data=data, **options).models[0].quality.accuracy


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_a_softmax_over_raw_or_scaled_pixels(data, tmp_path, scale):
    # The weights know the scale, no layer says it.
    kernel, bias = bar_reader().layers[-1].get_weights()
    inputs, dense = keras.Input((8, 8, 1)), keras.layers.Dense(3, activation="softmax")
    plain = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([kernel / scale, bias])
    plain.save(tmp_path / "m.keras")
    x, y = blobs(48, seed=1)
    own = float(np.mean(plain.predict(x * (scale / 255.0), verbose=0).argmax(1) == y))
    assert accuracy(tmp_path / "m.keras", data) == pytest.approx(own, abs=1e-6)


def test_a_model_without_a_channel_axis(data, tmp_path):
    reader = bar_reader()
    inputs = keras.Input((8, 8))
    model = keras.Model(inputs, reader(keras.layers.Reshape((8, 8, 1))(inputs)))
    model.save(tmp_path / "flat.keras")
    model.export(tmp_path / "flat", verbose=False)
    assert accuracy(tmp_path / "flat.keras", data) == accuracy(tmp_path / "flat", data) == 1.0


OLD_H5 = """
import sys
import numpy as np
import tf_keras as keras

layers = keras.layers
model = keras.Sequential([
    layers.InputLayer(batch_input_shape=(None, 8, 8, 1)),
    {middle}
    layers.Flatten(),
    layers.Dense(3, activation="softmax"),
])
x = np.load(sys.argv[2])
model.compile("adam", "mse")
model.save(sys.argv[1])
np.save(sys.argv[3], model.predict(x, verbose=0))
"""


@needs_keras_2
@pytest.mark.parametrize(
    "middle",
    [
        "layers.Conv2D(2, 3),",
        pytest.param("layers.DepthwiseConv2D(3),", marks=pytest.mark.slow),
        "layers.TimeDistributed(layers.Flatten()), layers.LSTM(4, return_sequences=True),",
    ],
    ids=["plain", "depthwise", "recurrent"],
)
def test_an_old_h5(data, tmp_path, middle):
    x, y = blobs(48, seed=1)
    np.save(tmp_path / "x.npy", (x / 255.0).astype(np.float32))
    words = [tmp_path / "old.h5", tmp_path / "x.npy", tmp_path / "own.npy"]
    script = OLD_H5.replace("{middle}", middle)
    subprocess.run([sys.executable, "-c", script, *map(str, words)], check=True, capture_output=True, timeout=300)
    if middle.startswith("layers.Conv2D"):
        import h5py

        with h5py.File(tmp_path / "old.h5") as file:
            assert "batch_input_shape" in file.attrs["model_config"]
    own = np.load(tmp_path / "own.npy")
    unit = ["student.input.scale=unit"]
    kdcli.predict(tmp_path / "old.h5", data=data, out=tmp_path / "answers.npz", settings=unit)
    with np.load(tmp_path / "answers.npz") as answers:
        np.testing.assert_allclose(answers["probabilities"], own, atol=1e-6)
    assert accuracy(tmp_path / "old.h5", data, settings=unit) == pytest.approx(np.mean(own.argmax(1) == y))


class OnDevice(tf.Module):
    """As the guides for training on a phone write it: four signatures, none of them the default."""

    def __init__(self, reader):
        super().__init__()
        kernel, bias = reader.layers[-1].get_weights()
        self.kernel, self.bias = tf.Variable(kernel), tf.Variable(bias)

    def logits(self, x):
        return tf.reshape(x, (-1, 64)) @ self.kernel + self.bias

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8)), tf.TensorSpec((None, 3))])
    def train(self, x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, self.logits(x)))
        kernel, bias = tape.gradient(loss, (self.kernel, self.bias))
        self.kernel.assign_sub(0.1 * kernel)
        self.bias.assign_sub(0.1 * bias)
        return {"loss": loss}

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8))])
    def infer(self, x):
        logits = self.logits(x)
        return {"output": tf.nn.softmax(logits), "logits": logits}

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def save(self, checkpoint_path):
        tf.raw_ops.Save(filename=checkpoint_path, tensor_names=["k"], data=[self.kernel.read_value()])
        return {"checkpoint_path": checkpoint_path}

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def restore(self, checkpoint_path):
        kernel = tf.raw_ops.Restore(file_pattern=checkpoint_path, tensor_name="k", dt=tf.float32)
        self.kernel.assign(kernel)
        return {"restored": kernel}


@pytest.fixture(scope="module")
def on_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "phone"
    module = OnDevice(bar_reader())
    names = ("train", "infer", "save", "restore")
    signatures = {name: getattr(module, name).get_concrete_function() for name in names}
    tf.saved_model.save(module, folder, signatures=signatures)
    return folder


@pytest.mark.slow
def test_on_device_signatures_are_named_and_one_is_chosen(on_device, data):
    with pytest.raises(KdError, match="infer, restore, save, train") as failure:
        accuracy(on_device, data)
    assert "--signature" in failure.value.hint
    with pytest.raises(KdError, match="2 outputs: logits, output") as failure:
        accuracy(on_device, data, signature="infer")
    assert "--output" in failure.value.hint
    for output in ("logits", "output"):
        assert accuracy(on_device, data, signature="infer", output=output) == 1.0


def test_a_signature_that_writes_is_refused(on_device):
    looked = kdcli.inspect(on_device, signature="save")
    assert not looked.safe and looked.refused is not None
    assert kdcli.inspect(on_device, signature="infer").safe


class FromBytes(tf.Module):
    """A model behind the decoding of images, as it is served."""

    def __init__(self, reader):
        super().__init__()
        kernel, bias = reader.layers[-1].get_weights()
        self.kernel, self.bias = tf.Variable(kernel), tf.Variable(bias)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")])
    def serve(self, image_bytes):
        def decode(one):
            return tf.ensure_shape(tf.io.decode_png(one, channels=1), (8, 8, 1))

        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.uint8)
        pixels = tf.identity(tf.cast(images, tf.float32) / 255.0, name="pixels")
        return {"scores": tf.nn.softmax(tf.reshape(pixels, (-1, 64)) @ self.kernel + self.bias)}


@pytest.mark.slow
def test_a_graph_of_encoded_images_can_start_after_decoding(data, tmp_path):
    module = FromBytes(bar_reader())
    tf.saved_model.save(module, tmp_path / "served", signatures=module.serve)
    looked = kdcli.inspect(tmp_path / "served")
    assert looked.safe
    finding = next(finding for finding in looked.findings if finding.startswith("encoded-images"))
    setting = finding.split("--set ")[1].split()[0]
    assert accuracy(tmp_path / "served", data, settings=[setting]) == 1.0
    with pytest.raises(KdError) as failure:
        accuracy(tmp_path / "served", data)
    assert "input.tensor" in failure.value.hint


def test_a_teacher_with_more_classes_is_mapped_by_name_or_number(data, tmp_path):
    reader = bar_reader()
    inputs = keras.Input((8, 8, 1))
    wide = keras.layers.Dense(5, use_bias=False)
    outputs = keras.layers.Softmax()(wide(reader(inputs)))
    kernel = np.zeros((3, 5), np.float32)
    kernel[[0, 1, 2], [4, 0, 2]] = 1.0
    model = keras.Model(inputs, outputs)
    wide.set_weights([kernel])
    model.save(tmp_path / "wide.keras")
    given = {"teacher": tmp_path / "wide.keras", "student": bar_reader(), "data": data}
    given |= {"recipe": {"losses": [{"kind": "soft_targets"}], "train": {"epochs": 1}}}
    with pytest.raises(KdError, match="has 5 outputs, the data has 3 classes") as failure:
        kdcli.distill(**given, out=tmp_path / "refused")
    assert "teacher.classes" in failure.value.hint
    names = "data.classes=[low, middle, high]"
    for number, classes in enumerate(("[4, 0, 2]", "[middle, x, high, y, low]")):
        settings = [names, f"teacher.classes={classes}"]
        run = kdcli.distill(**given, settings=settings, out=tmp_path / f"run-{number}", preflight=False)
        assert run.teacher["accuracy"] == 1.0
        plan = kdcli.distill(**given, settings=settings, preflight=False, dry_run=True)
        assert "teacher: columns 4, 0, 2 of 5 outputs are the data's classes" in plan.findings
        environment = json.loads((run.run / "environment.json").read_text())
        assert environment["inputs"]["teacher"]["sha256"]


@pytest.mark.parametrize("form", ["keras", pytest.param("saved_model", marks=pytest.mark.slow), "tflite"])
def test_all_outputs_are_listed_and_one_is_taken(kd, data, tmp_path, form):
    reader = bar_reader()
    inputs = keras.Input((8, 8, 1), name="pixels")
    model = keras.Model(inputs, {"logits": reader(inputs), "middle": keras.layers.Flatten()(inputs)})
    path = tmp_path / f"two.{form}"
    if form == "keras":
        model.save(path)
    elif form == "saved_model":
        model.export(path, verbose=False)
    else:
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    ran = kd("inspect", path, "--json")
    assert ran.code == 0, ran.err
    outputs = {one["name"]: one for one in ran.document["outputs"]}
    assert sorted(one["shape"] for one in outputs.values()) == [[None, 3], [None, 64]]
    assert {one["dtype"] for one in outputs.values()} == {"float32"}
    assert kd("inspect", path).code == 0
    name = next(name for name, one in outputs.items() if one["shape"] == [None, 3])
    shown = kd("inspect", path, "--output", name, "--json").document["outputs"]
    assert [one["name"] for one in shown] == [name]
    assert accuracy(path, data, output=name) == 1.0


def test_the_model_card_of_a_saved_model_shows_how_to_open_it(data, tmp_path):
    reader = bar_reader()
    inputs = keras.Input((8, 8, 1), name="pixels")
    keras.Model(inputs, reader(inputs)).export(tmp_path / "student", verbose=False)
    recipe = {"losses": [{"kind": "labels"}, {"kind": "soft_targets"}], "train": {"epochs": 1}}
    given = {"teacher": bar_reader(), "student": tmp_path / "student", "data": data, "recipe": recipe}
    run = kdcli.distill(**given, out=tmp_path / "run", preflight=False)
    card = (run.run / "README.md").read_text()
    x, y = blobs(48, seed=1)
    space = {"x": tf.constant(x / 255.0, tf.float32)}
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace("'student_saved_model'", repr(str(run.model_path))), space)
    assert float(np.mean(space["outputs"].numpy().argmax(1) == y)) == run.test.accuracy
    again = kdcli.distill(teacher=run.run, student=bar_reader(), data=data, recipe=recipe, out=tmp_path / "again")
    assert again.teacher["accuracy"] == run.test.accuracy


def test_a_comparison_refuses_fresh_weights_for_a_saved_model_early(kd, data, tmp_path):
    bar_reader().export(tmp_path / "student", verbose=False)
    bar_reader().save(tmp_path / "t.keras")
    words = ["--teacher", tmp_path / "t.keras", "--student", tmp_path / "student", "--data", data, "--out", "c"]
    ran = kd("compare", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == "hint: --set student.start=file keeps its weights"
    assert not (tmp_path / "c").exists()


def test_a_run_of_a_model_with_two_outputs_opens_either_output(kd, data, tmp_path):
    reader = bar_reader()
    inputs = keras.Input((8, 8, 1))
    turned = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, {"right": reader(inputs), "turned": turned(reader(inputs))})
    turned.set_weights([np.roll(np.eye(3, dtype=np.float32), 1, axis=1)])
    model.save(tmp_path / "two.keras")
    recipe = {"losses": [{"kind": "labels"}], "train": {"epochs": 1, "optimizer": {"kind": "sgd"}}}
    recipe["train"]["optimizer"]["learning_rate"] = 1e-6
    given = {"teacher": bar_reader(), "student": tmp_path / "two.keras", "recipe": recipe, "data": data}
    run = kdcli.distill(**given, settings=["student.output=right"], out=tmp_path / "run", preflight=False)
    assert run.test.accuracy == 1.0
    assert accuracy(run.run, data) == 1.0
    assert accuracy(run.run, data, output="turned") == 0.0
    assert [one.name for one in kdcli.inspect(run.run, output="turned").outputs] == ["turned"]


def open_images(units, activation):
    """A fully convolutional classifier for images of any size."""
    inputs = keras.Input((None, None, 1))
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="hidden")(inputs)
    return keras.Model(
        inputs, keras.layers.Dense(units, activation)(keras.layers.GlobalAveragePooling2D()(hidden))
    )


def open_text(units, activation):
    """A classifier of token ids, however many there are."""
    inputs = keras.Input((None,), dtype="int32")
    hidden = keras.layers.LSTM(3, name="hidden")(keras.layers.Embedding(30, 4, mask_zero=True)(inputs))
    return keras.Model(inputs, keras.layers.Dense(units, activation)(hidden))


def open_series(units, activation):
    """A classifier of series with three channels, however long they are."""
    inputs = keras.Input((None, 3))
    hidden = keras.layers.Conv1D(4, 3, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(units, activation)(keras.layers.GlobalMaxPooling1D()(hidden)))


RANDOM = np.random.default_rng(0)
OF_ANY_SIZE = {
    "images": (open_images, RANDOM.random((48, 8, 8, 1), np.float32)),
    "text": (open_text, RANDOM.integers(0, 30, (48, 7)).astype(np.int32)),
    "series": (open_series, RANDOM.normal(size=(48, 9, 3)).astype(np.float32)),
}


@pytest.mark.parametrize("kind", OF_ANY_SIZE)
@pytest.mark.parametrize("columns", [None, [3, 1]], ids=["one sigmoid", "columns"])
def test_a_model_for_any_size_can_be_a_teacher(tmp_path, own_cache, kind, columns):
    build, x = OF_ANY_SIZE[kind]
    keras.utils.set_random_seed(1)
    model = build(1, "sigmoid") if columns is None else build(5, "softmax")
    y = np.arange(len(x)) % 2
    model.save(tmp_path / "teacher.keras")
    build(1 if columns is None else 2, "sigmoid" if columns is None else None).save(tmp_path / "student.keras")
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    hint = {"kind": "hint", "teacher_layer": "hidden", "student_layer": "hidden"}
    run = kdcli.distill(
        teacher=tmp_path / "teacher.keras",
        student=tmp_path / "student.keras",
        data=tmp_path / "data.npz",
        recipe={"losses": [{"kind": "soft_targets"}, hint], "train": {"epochs": 1}},
        settings=[] if columns is None else [f"teacher.classes={columns}"],
        preflight=False,
        out=tmp_path / "run",
    )
    outputs = model.predict(x, verbose=0)
    decided = outputs[:, 0] > 0.5 if columns is None else outputs[:, columns].argmax(1)
    assert run.teacher["accuracy"] == pytest.approx(np.mean(decided == y))
    student = keras.models.load_model(run.model_path).predict(x, verbose=0)
    decided = student[:, 0] > 0.5 if columns is None else student.argmax(1)
    assert run.test.accuracy == pytest.approx(np.mean(decided == y))


@pytest.mark.slow
def test_the_hint_for_a_scalar_input_can_be_followed(kd, data, tmp_path):
    kernel, bias = bar_reader().layers[-1].get_weights()
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x, keep = v1.placeholder(tf.float32, [None, 8, 8, 1]), v1.placeholder(tf.float32, [])
        weights = v1.get_variable("kernel", initializer=kernel)
        scores = tf.nn.softmax(tf.reshape(x, [-1, 64]) @ weights * keep + bias)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "m"), {"x": x, "keep_prob": keep}, {"scores": scores})
    looked = kd("inspect", tmp_path / "m", "--json")
    assert looked.code == 0 and looked.document["safe"]
    assert [one["name"] for one in looked.document["inputs"]] == ["keep_prob", "x"]
    refused = kd("evaluate", tmp_path / "m", "--data", data)
    assert refused.code == 4 and "keep_prob is an input with one value" in refused.err
    hint = shlex.split(refused.err.split("hint: ")[1])
    ran = kd("evaluate", tmp_path / "m", "--data", data, *hint, "--json")
    assert (ran.code, ran.document["models"][0]["accuracy"]) == (0, 1.0)


def test_a_student_uses_the_inputs_that_match_by_name(tmp_path):
    a, b = RANDOM.normal(size=(48, 4)).astype(np.float32), RANDOM.normal(size=(48, 3)).astype(np.float32)
    y = (a[:, 0] + b[:, 0] > 0).astype(int)
    left, right = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = keras.layers.Dense(2)(keras.layers.Concatenate()([left, right]))
    keras.Model([left, right], both).save(tmp_path / "teacher.keras")
    keras.Model(left, keras.layers.Dense(2)(left)).save(tmp_path / "student.keras")
    arrays = {f"x_{split}.{name}": x for split in ("train", "test") for name, x in (("a", a), ("b", b))}
    np.savez(tmp_path / "data.npz", **arrays, y_train=y, y_test=y)
    given = {"teacher": tmp_path / "teacher.keras", "data": tmp_path / "data.npz", "preflight": False}
    given |= {"student": tmp_path / "student.keras", "epochs": 1}
    plan = kdcli.distill(**given, dry_run=True)
    assert any("uses only a of the data's inputs a, b" in text for text in plan.findings)
    run = kdcli.distill(**given, out=tmp_path / "run")
    decisions = keras.models.load_model(run.model_path).predict(a, verbose=0).argmax(1)
    assert run.test.accuracy == pytest.approx(np.mean(decisions == y))
    other = keras.Input((3,), name="other")
    keras.Model(other, keras.layers.Dense(2)(other)).save(tmp_path / "other.keras")
    with pytest.raises(KdError, match="takes the inputs other, the data has a, b"):
        kdcli.distill(**{**given, "student": tmp_path / "other.keras"}, out=tmp_path / "refused")
