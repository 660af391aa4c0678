"""The architectures of `keras.applications`: names, weights, sizes."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError, UsageError
from kdcli.zoo import Application, has_trained_weights


@pytest.fixture
def tiny(monkeypatch):
    """A stand-in for an architecture that records its arguments."""
    calls = []

    def make(*, include_top, weights, input_shape, pooling=None, classes=1000, classifier_activation="softmax"):
        calls.append((include_top, weights, classifier_activation))
        if weights == "imagenet" and include_top and input_shape != (64, 64, 3):
            raise ValueError(
                "When setting `include_top=True` and loading `imagenet` weights, `input_shape` should be "
                f"(64, 64, 3).  Received: input_shape={input_shape}"
            )
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(2, 3, kernel_initializer="ones", name="inside")(inputs)
        x = keras.layers.BatchNormalization(momentum=0.999)(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        if include_top:
            x = keras.layers.Dense(classes, activation=classifier_activation, name="top")(x)
        made = keras.Model(inputs, x)
        if weights not in (None, "imagenet"):
            made.load_weights(weights)
        return made

    monkeypatch.setattr(keras.applications, "MobileNet", make)
    return calls


def test_without_weights_all_layers_are_fresh_and_there_is_no_softmax(tiny):
    model = Application(architecture="MobileNet").build((8, 8, 3), 4)
    assert tiny == [(True, None, None)]
    assert model.layers[-1].units == 4
    assert model.layers[2].momentum == 0.9


def test_imagenet_weights_get_a_new_classifier_for_other_classes(tiny):
    model = Application(architecture="MobileNet", weights="imagenet").build((8, 8, 3), 4)
    assert tiny[0][:2] == (False, "imagenet")
    assert [layer.name for layer in model.layers][-1] == "logits"
    assert model.output_shape == (None, 4)
    assert (model.get_layer("inside").kernel.numpy() == 1).all()
    # The layers stay the model's own, not those of a model inside it.
    assert "inside" in [layer.name for layer in model.layers]


def test_imagenet_classes_use_the_published_classifier_at_its_size(tiny):
    source = Application(architecture="MobileNet", weights="imagenet")
    assert source.build((64, 64, 3), 1000).layers[-1].name == "top"
    with pytest.raises(UsageError, match="takes images of 64×64, got 32×32") as caught:
        source.build((32, 32, 3), 1000)
    assert "student.input.resize=[64, 64]" in caught.value.hint


def test_imagenet_weights_are_for_three_channels():
    with pytest.raises(UsageError, match="for 3 channels, the data has 1") as caught:
        Application(architecture="MobileNet", weights="imagenet").build((32, 32, 1), 4)
    assert caught.value.hint == "weights: none"


def test_weights_from_a_file_are_loaded(tiny, tmp_path):
    path = tmp_path / "w.weights.h5"
    first = Application(architecture="MobileNet").build((8, 8, 3), 4)
    for weight in first.weights:
        weight.assign(np.full(weight.shape, 0.5, np.float32))
    first.save_weights(path)
    source = Application(architecture="MobileNet", weights=str(path))
    assert has_trained_weights(source) and source.path == path
    for weight in source.build((8, 8, 3), 4).get_weights():
        assert (weight == 0.5).all()
    with pytest.raises(
        ModelError, match=r"w\.weights\.h5 does not fit zoo application MobileNet for .* and 5 classes: A total of"
    ) as caught:
        source.build((8, 8, 3), 5)
    assert len(caught.value.message.splitlines()) == 1


def test_a_missing_or_invalid_weights_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no\.h5: no such weights file"):
        Application(architecture="MobileNet", weights=str(tmp_path / "no.h5")).build((32, 32, 3), 2)
    (tmp_path / "bad.weights.h5").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"bad\.weights\.h5 does not fit"):
        Application(architecture="MobileNet", weights=str(tmp_path / "bad.weights.h5")).build((32, 32, 3), 2)


def test_an_unknown_architecture_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"unknown architecture .MobilNetV2.; did you mean .MobileNetV2.\?"):
        Application(architecture="MobilNetV2").build((32, 32, 3), 2)
    with pytest.raises(UsageError, match=r"known: ConvNeXtBase, .*, Xception$"):
        Application(architecture="x").build((32, 32, 3), 2)


@pytest.mark.parametrize(
    ("architecture", "least"), [("MobileNet", 32), ("Xception", 71), ("MobileNetV3Small", 32)]
)
def test_too_small_images_are_refused_with_the_minimum_size(architecture, least):
    with pytest.raises(UsageError, match=f"takes images of at least {least}×{least}, got 16×16") as caught:
        Application(architecture=architecture).build((16, 16, 3), 2)
    assert f"student.input.resize=[{least}, {least}]" in caught.value.hint


def test_an_offline_download_is_refused_in_one_line(monkeypatch, capsys):
    cached = Path.home() / ".keras" / "models"
    if list(cached.glob("mobilenet_*")):
        pytest.skip("the weights are cached here")
    monkeypatch.setenv("KD_OFFLINE", "1")
    with pytest.raises(ModelError, match="the imagenet weights are not cached, and KD_OFFLINE is set") as caught:
        Application(architecture="MobileNet", weights="imagenet").build((32, 32, 3), 2)
    assert "weights: none" in caught.value.hint
    assert capsys.readouterr() == ("", "")


def test_a_failed_download_is_reported_in_one_line(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure on https://x/y.h5: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.applications, "MobileNet", fail)
    with pytest.raises(
        ModelError, match=r"weights cannot be downloaded: URL fetch failure on https://x/y\.h5"
    ) as caught:
        Application(architecture="MobileNet", weights="imagenet").build((32, 32, 3), 2)
    assert "KERAS_HOME" in caught.value.hint


def test_every_architecture_has_its_preprocessing():
    names = [name for name in dir(keras.applications) if name[0].isupper()]
    assert len(names) >= 40
    for name in names:
        assert callable(Application(architecture=name).preprocessing())
    small = Application(architecture="MobileNetV3Small").preprocessing()
    assert small is keras.applications.mobilenet_v3.preprocess_input
    assert Application(architecture="ResNet50V2").preprocessing() is keras.applications.resnet_v2.preprocess_input


def test_only_files_and_published_weights_are_trained_weights():
    assert not has_trained_weights(Application(architecture="MobileNet"))
    assert has_trained_weights(Application(architecture="MobileNet", weights="imagenet"))
