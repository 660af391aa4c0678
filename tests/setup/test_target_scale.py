"""Images as targets, and models that give [0, 1], [-1, 1] or 0 to 255."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import kdcli
from kdcli.errors import ModelError
from kdcli.events import Note

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)


def copier(scale: float, shift: float, *, activation=None) -> keras.Model:
    """A model for images in [0, 1] that gives them back as `scale * x + shift`."""
    inputs = keras.Input((8, 8, 1))
    layer = keras.layers.Conv2D(1, 1, activation=activation)
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights([np.full((1, 1, 1, 1), scale, np.float32), np.full(1, shift, np.float32)])
    return model


SCALES = {"unit": (copier(0.9, 0.03), 1.0), "signed": (copier(1.8, -0.9), 2.0), "raw": (copier(230, 8), 255.0)}


def in_scale(scale: str) -> np.ndarray:
    return {"unit": IMAGES / 255.0, "signed": IMAGES / 127.5 - 1, "raw": IMAGES * 1.0}[scale].astype(np.float32)


def saved(model, path):
    model.save(path / "m.keras")
    return path / "m.keras"


def measured(path, *settings: str, targets=IMAGES, **more):
    wanted = ("student.input.scale=unit", *settings)
    return kdcli.evaluate(path, data=(IMAGES, targets), settings=wanted, **more).models[0].quality


@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_is_right_or_refused_with_the_setting_that_makes_it_right(tmp_path, scale):
    model, peak = SCALES[scale]
    path = saved(model, tmp_path)
    if scale != "unit":
        with pytest.raises(ModelError, match=f"fit targets of the scale {scale}") as caught:
            measured(path)
        assert caught.value.hint == f"--set data.target_scale={scale}"
    quality = measured(path, f"data.target_scale={scale}")
    given, wanted = model.predict(IMAGES / np.float32(255), verbose=0), in_scale(scale)
    assert quality.rmse == pytest.approx(float(np.sqrt(np.mean(np.square(given - wanted)))), rel=1e-4)
    assert quality.psnr == pytest.approx(float(tf.reduce_mean(tf.image.psnr(given, wanted, peak))), rel=1e-4)


def test_floats_from_0_to_255_under_a_sigmoid_are_refused_with_the_setting(tmp_path):
    path = saved(copier(6, -3, activation="sigmoid"), tmp_path)
    with pytest.raises(
        ModelError, match="its last layer \(sigmoid\) gives 0 to 1, but the targets range from 0 to 255"
    ) as caught:
        measured(path, targets=in_scale("raw"))
    assert caught.value.hint == "--set data.target_scale=unit"
    given = keras.saving.load_model(path).predict(IMAGES / np.float32(255), verbose=0)
    found = measured(path, "data.target_scale=unit", targets=in_scale("raw")).rmse
    assert found == pytest.approx(float(np.sqrt(np.mean(np.square(given - in_scale("unit"))))), rel=1e-4)


def test_targets_of_another_range_that_no_scale_explains_are_said(tmp_path):
    told = []
    measured(saved(copier(230, 8), tmp_path), targets=in_scale("unit"), on_event=told.append)
    warnings = [event.text for event in told if isinstance(event, Note) and event.warning]
    assert any("its outputs reach 238, but the targets 1" in text for text in warnings)


def test_depth_under_a_linear_layer_is_measured_as_it_is(tmp_path):
    depth = IMAGES[..., 0] / np.float32(25)
    model = copier(10, 0.1)
    given = model.predict(IMAGES / np.float32(255), verbose=0)[..., 0]
    quality = measured(saved(model, tmp_path), targets=depth)
    assert quality.mae == pytest.approx(float(np.mean(np.abs(given - depth))), rel=1e-4)


def test_an_answer_of_another_size_than_the_targets_is_refused(tmp_path):
    path = saved(copier(1, 0), tmp_path)
    with pytest.raises(ModelError, match="an answer has the shape 8×8×1, the labels need 4×4×1"):
        measured(path, targets=in_scale("unit")[:, ::2, ::2])
