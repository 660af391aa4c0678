"""kd doctor: versions, devices, caches, and the command for each missing extra."""

from __future__ import annotations

import os
import platform
from importlib.metadata import metadata, version

import keras
import pytest
import tensorflow as tf

from kdcli import __version__
from kdcli.commands.doctor import doctor
from kdcli.setup import installation
from kdcli.setup.installation import _installed, _requirements


def test_the_document_has_everything(kd):
    ran = kd("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    keys = ["schema", "versions", "system", "devices", "threads", "cores", "memory_bytes", "caches", "offline"]
    assert list(document) == [*keys, "extras", "findings"]
    assert document["schema"] == "kd.doctor/1"
    found = document["versions"]
    assert (found["python"], found["kdcli"]) == (platform.python_version(), __version__)
    assert (found["tensorflow"], found["keras"]) == (tf.__version__, keras.__version__)
    assert found["rich"] == version("rich")
    # Written in two ways by two lists, it is still one package.
    assert len({name.lower() for name in found}) == len(found)
    assert document["devices"][0]["name"].startswith(("CPU:", "GPU:"))
    assert document["cores"]["logical"] == os.cpu_count()
    assert 0 < document["memory_bytes"]["available"] <= document["memory_bytes"]["total"]
    assert document["findings"] == []


def test_the_extras_are_those_of_the_package(kd):
    extras = {extra["name"]: extra for extra in kd("doctor", "--json").document["extras"]}
    assert set(extras) == set(metadata("kdcli").get_all("Provides-Extra"))
    assert {"litert", "onnx"} <= set(extras)
    assert set(extras["litert"]["packages"]) == {"ai-edge-litert"}
    assert extras["test"]["packages"]["pytest"] == version("pytest")
    for name, extra in extras.items():
        complete = all(extra["packages"].values())
        assert (extra["command"] is None) is complete, name
    cuda = extras["cuda"]
    assert cuda["command"] in (None, "pip install 'tensorflow[and-cuda]'")


def test_a_missing_extra_is_shown_with_its_command(kd, monkeypatch):
    known = installation._find_version
    monkeypatch.setattr(installation, "_find_version", lambda name: None if name == "onnxruntime" else known(name))
    ran = kd("doctor")
    assert (ran.code, ran.err) == (0, "")
    line = next(line for line in ran.out.splitlines() if line.startswith("extra onnx"))
    assert "onnxruntime missing" in line
    assert line.endswith(": pip install onnxruntime")
    # On a terminal of 80 columns no extra fills more than two lines, however many packages it has.
    assert all(len(line) <= 160 for line in ran.out.splitlines() if line.startswith("extra"))


def test_an_extra_of_another_package_is_looked_into():
    found = _installed("tensorflow[and-cuda]>=2.20; extra == 'cuda'")
    assert found["tensorflow"] == tf.__version__
    assert {name for name in found if name.startswith("nvidia-")}
    assert _installed("no-such-package>=1") == {"no-such-package": None}


def test_requirements_of_other_systems_are_left_out(monkeypatch):
    lines = ['a>=1; extra == "x"', 'b; sys_platform == "win32" and extra == "x"', "c<2", "d; extra == 'y'"]
    monkeypatch.setattr(installation, "requires", lambda package: lines)
    assert _requirements("p", "x") == ['a>=1; extra == "x"']
    assert _requirements("p", None) == ["c<2"]


def test_caches_and_the_network_follow_the_environment(kd, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KD_OFFLINE", "1")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.h5").write_bytes(b"12345")
    document = kd("doctor", "--json").document
    assert document["offline"] is True
    sizes = {cache["path"]: cache["bytes"] for cache in document["caches"] if cache["variable"] == "KERAS_HOME"}
    assert sizes == {str(tmp_path / "datasets"): None, str(tmp_path / "models"): 5}
    shown = kd("doctor").out
    assert "no downloads: KD_OFFLINE is set" in shown
    assert f"{tmp_path / 'models'}, 5 bytes" in shown and f"{tmp_path / 'datasets'}, not created yet" in shown


def test_a_tensorflow_that_does_not_load_is_a_finding(monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise ImportError("libcudart.so is missing")

    monkeypatch.setattr(installation, "tf", Broken())
    found = doctor()
    assert found.devices == () and found.threads is None
    assert found.findings == ("TensorFlow cannot be loaded: libcudart.so is missing",)


@pytest.mark.parametrize("option", ["--data", "--quiet", "--threads"])
def test_it_takes_no_option_that_would_do_nothing(kd, option):
    assert kd("doctor", option).code == 2
