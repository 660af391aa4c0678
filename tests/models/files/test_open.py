"""Opening model files, and the messages about those that do not open."""

from __future__ import annotations

import hashlib
import zipfile

import h5py
import keras
import numpy as np
import pytest
from small_models import BUILDS, X, functional

from kdcli.errors import ModelError, UsageError
from kdcli.models.files.format import resolve_model_file
from kdcli.models.files.open import ModelPart, open_file
from kdcli.screening.verdict import COPY_HINT


@pytest.fixture(params=BUILDS.values(), ids=list(BUILDS))
def build(request):
    keras.utils.set_random_seed(0)
    return request.param


def open_model(path):
    return open_file(path).network.model


def empty_weights(folder):
    h5py.File(folder / "empty.h5", "w").close()
    return (folder / "empty.h5").read_bytes()


def refused(path):
    with pytest.raises(ModelError) as caught:
        open_model(resolve_model_file(path))
    assert caught.value.exit_code == 4
    assert str(path) in caught.value.message
    return caught.value


def test_a_keras_file_opens_with_its_weights(build, tmp_path):
    model = build()
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(open_model(tmp_path / "m.keras")(X), model(X))


@pytest.mark.parametrize("suffix", ["h5", "hdf5"])
def test_a_compiled_h5_file_opens(tmp_path, suffix):
    model = functional()
    model.compile(loss="mse", optimizer="adam", metrics=["mae"])
    model.save(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(open_model(tmp_path / f"m.{suffix}")(X), model(X))


def test_a_model_with_an_unknown_loss_opens(tmp_path):
    def my_loss(y_true, y_pred):
        return keras.ops.mean(y_true - y_pred)

    model = functional()
    model.compile(loss=my_loss)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(open_model(tmp_path / "m.keras")(X), model(X))


def test_a_missing_file_is_refused(tmp_path):
    error = refused(tmp_path / "none.keras")
    assert "none.keras: no such model file" in error.message
    assert ".keras, .h5" in error.hint


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    assert "is a folder without a finished run" in refused(tmp_path).message


@pytest.mark.parametrize(("content", "other"), [("keras", "h5"), ("h5", "keras"), ("keras", "bin")])
def test_a_suffix_that_contradicts_the_content_does_not_matter(tmp_path, content, other):
    model = functional()
    model.save(tmp_path / f"m.{content}")
    path = (tmp_path / f"m.{content}").rename(tmp_path / f"other.{other}")
    opened = open_file(path)
    assert (opened.format, opened.path, opened.network.name) == (content, path, str(path))
    np.testing.assert_array_equal(opened.network.model(X), model(X))


def test_the_sha256_is_that_of_the_file(tmp_path):
    functional().save(tmp_path / "m.keras")
    opened = open_file(tmp_path / "m.keras")
    assert opened.sha256 == hashlib.sha256((tmp_path / "m.keras").read_bytes()).hexdigest()
    assert opened.verdict.safe


@pytest.mark.parametrize("part", [ModelPart(signature="serve"), ModelPart(tensor="hidden")])
def test_a_setting_for_saved_models_is_refused(tmp_path, part):
    functional().save(tmp_path / "m.keras")
    with pytest.raises(UsageError, match="applies to SavedModels only, the file is keras"):
        open_file(tmp_path / "m.keras", part=part)


def test_recorded_outputs_are_not_a_model(tmp_path):
    np.savez(tmp_path / "answers.npz", logits=X, index=np.arange(3))
    assert "data or recorded outputs, not a model" in refused(tmp_path / "answers.npz").message


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(5000), b"PK\x03\x04"])
def test_any_other_content_is_refused(tmp_path, content):
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    assert "m.keras: not a .keras file" in refused(path).message


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "m.keras: not a .keras file" in refused(path).message


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_refused(tmp_path, suffix, fraction):
    path = tmp_path / f"m.{suffix}"
    functional().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    error = refused(path)
    assert "the file is truncated" in error.message and error.hint == COPY_HINT


def test_an_invalid_configuration_is_refused_in_one_line(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", '{"class_name": "Nothing", "config": {}}')
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", empty_weights(tmp_path))
    message = refused(path).message
    assert "m.keras: refused, " in message and "Nothing" in message
    assert "\n" not in message


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, bad):
    model = functional()
    values = model.get_weights()
    values[2][1, 1] = bad
    model.set_weights(values)
    model.save(tmp_path / "m.keras")
    assert "the weight out/kernel contains NaN or infinity" in refused(tmp_path / "m.keras").message


def test_a_missing_vocabulary_is_refused(tmp_path):
    words = keras.layers.TextVectorization(20, output_sequence_length=4, name="words")
    words.adapt(["a good film", "a bad film"])
    inputs = keras.Input((1,), dtype="string")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 3)(words(inputs)))
    keras.Model(inputs, keras.layers.Dense(2)(hidden)).save(tmp_path / "text.keras")
    with zipfile.ZipFile(tmp_path / "text.keras") as whole, zipfile.ZipFile(tmp_path / "cut.keras", "w") as cut:
        for name in whole.namelist():
            if not name.startswith("assets/"):
                cut.writestr(name, whole.read(name))
    assert open_file(tmp_path / "text.keras").network.outputs == 2
    assert "the layer words has no vocabulary" in refused(tmp_path / "cut.keras").message
