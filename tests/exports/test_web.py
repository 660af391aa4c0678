"""Folders for the browser: in headless Chromium the page's model gives what LiteRT gives here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import browser
import keras
import numpy as np
import pytest
from conftest import blobs

from kdcli.errors import UsageError
from kdcli.exports.format_choice import choose_formats
from kdcli.exports.web import Web, find_runtime
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.preprocessing import Preprocessing

pytest.importorskip("ai_edge_litert")
# A `node_modules` folder with @litertjs/core.
MODULES = os.environ.get("KD_WEB_RUNTIME", "node_modules")


def write(folder, *, modules=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu", padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    preprocessing = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32", "unit")
    network = KerasNetwork(model, name="m").with_preprocessing({"x": preprocessing})
    x, _ = blobs(100, seed=3)
    x = x.reshape(-1, 8, 8, 1).astype(np.uint8)
    serving = make_served_model(network, include_preprocessing=True, batch=1, floats=True).shown({"x": x})
    form = Web(modules=modules)
    path = folder / form.file_name("bars")
    form.write(serving, path)
    form.add_labels(path, ("low", "middle", "high"))
    return path, x


def fake_modules(folder):
    for name in ("core/dist/index.js", "wasm-utils/dist/index.js", "core/wasm/litert.wasm"):
        file = folder / "node_modules" / "@litertjs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return folder / "node_modules"


def test_the_folder_describes_its_file_for_the_page(tmp_path):
    path, _ = write(tmp_path)
    about = json.loads((path / "model.json").read_text())
    assert about == {
        "name": "bars",
        "file": "model.tflite",
        "bytes": (path / "model.tflite").stat().st_size,
        "shape": [8, 8, 1],
        "dtype": "uint8",
        "image": True,
        "fit": "stretch",
        "outputs": "logits",
        "labels": ["low", "middle", "high"],
    }
    with Web().open(path) as runner:
        assert (runner.input.dtype, runner.output.dtype) == ("uint8", "float32")
    page = (path / "index.html").read_text()
    # Nothing is loaded from elsewhere.
    assert "http" not in page.replace("http.server", "").replace("http://localhost:8000", "")


def test_the_runtime_is_copied_from_the_folder_that_is_named(tmp_path):
    modules = fake_modules(tmp_path)
    for given in (modules, modules / "@litertjs", tmp_path):
        assert find_runtime(given) == modules / "@litertjs"
    path, _ = write(tmp_path, modules=str(modules))
    copied = path / "node_modules" / "@litertjs"
    assert (copied / "core/dist/index.js").read_text() == "core/dist/index.js"
    assert (copied / "core/wasm/litert.wasm").exists()


def test_a_folder_without_the_runtime_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"there is no LiteRT\.js") as caught:
        choose_formats(["web"], web_runtime=str(tmp_path))
    assert "npm install @litertjs/core" in caught.value.hint


def test_signed_bytes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="the runtime in browsers takes uint8"):
        choose_formats(["web", "litert"], quantize=["int8"], io="int8")


@pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")
def test_chromium_gives_what_litert_gives(tmp_path):
    if not Path(MODULES, "@litertjs", "core").is_dir():
        pytest.skip("no LiteRT.js: npm install @litertjs/core, and KD_WEB_RUNTIME=node_modules")
    path, x = write(tmp_path, modules=MODULES)
    outputs, milliseconds = browser.run_in_browser(path, x, tmp_path / "profile")
    with Web().open(path) as runner:
        expected = runner.predict(x)
    step = np.diff(np.unique(expected)).min()
    assert np.abs(outputs - expected).max() <= 1.01 * step
    np.testing.assert_array_equal(outputs.argmax(1), expected.argmax(1))
    assert (milliseconds > 0).all()
    for width in (390, 1280):
        with browser.Served(path) as served:
            picture = tmp_path / f"{width}.png"
            browser.take_screenshot(
                f"{served.url}/index.html", picture, tmp_path / "profile", width=width, height=800
            )
        assert picture.stat().st_size > 5000
