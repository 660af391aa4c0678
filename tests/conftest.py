"""What every test may rely on: quiet TensorFlow, tiny seeded data, a run of the command inside this process."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hints import typed

# Real data sets are not part of the repository; tests that want them skip with this reason.
HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)


# The hints that a test has provoked, each with the words of the command that failed.
_hints: dict[tuple[str, tuple[str, ...]], None] = {}
_words: list[str] = []


# Folders and files whose tests train nothing and open no model: all of them in a minute.
QUICK = {"cache", "catalogue", "formulas", "recipe", "runs", "sources", "test_architecture.py", "test_hints.py"}
QUICK |= {"test_help.py", "test_losses_page.py", "test_readme.py"}


def pytest_collection_modifyitems(items):
    """Mark what `-m quick` runs."""
    for item in items:
        if {item.path.relative_to(HERE).parts[0], item.path.name} & QUICK:
            item.add_marker("quick")


@pytest.fixture(autouse=True, scope="session")
def hints_are_noted():
    """Every hint of the library is noted where its error is made."""
    from kdcli.errors import KdError

    made = KdError.__init__

    def noting(self, message, *, hint=None, location=None):
        made(self, message, hint=hint, location=location)
        # What a command says in the end is noted by `kd`.
        if hint and not _words:
            _hints[hint, ()] = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KdError, "__init__", noting)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """A test that provokes a hint, or the next command, also asserts that it can be typed."""
    _hints.clear()
    result = yield
    for hint, words in _hints:
        typed(hint, words)
    return result


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory):
    """Tests keep teachers' answers in a cache of their own, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def brief_timing(request):
    """A few rounds of timing are enough where a command's output is tested; tests/evaluation tests the timing."""
    if request.path.parent.name not in ("cli", "commands", "setup", "jobs", "teacher"):
        yield
        return
    from kdcli.evaluation.latency import measure

    brief = {
        "LEAST_SESSION_SECONDS": 0.1,
        "SAMPLES_FOR_P99": 100,
        "WARM_UP_SECONDS": 0.05,
        "WARM_UP_LIMIT_SECONDS": 0.5,
        "RATE_WARM_UP_SECONDS": 0.2,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in brief.items():
            patch.setattr(measure, name, value)
        patch.setitem(measure.time_models.__kwdefaults__, "warm_limit", 0.5)
        yield


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    """An empty cache that no other test sees."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("KD_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def kd(capsys, monkeypatch, tmp_path):
    """Run a command line in this process, in an empty folder: `kd("evaluate", "a.keras")`."""
    from kdcli.cli.app import run

    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Ran:
        capsys.readouterr()
        _words[:] = [str(word) for word in words]
        code = run(_words)
        captured = capsys.readouterr()
        for typed_next in re.findall("^(?:hint|next): (.*)", captured.err, re.MULTILINE):
            _hints[typed_next, tuple(_words)] = None
        _words.clear()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside a checkout."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there")
    return folder


@pytest.fixture
def own_layers_forgotten():
    """What a test registers with Keras is unknown to the next one."""
    import keras

    known = dict(keras.saving.get_custom_objects())
    yield
    now = keras.saving.get_custom_objects()
    now.clear()
    now.update(known)


def blobs(examples: int = 96, *, size: int = 8, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (size, size, 1) in uint8 whose class shows: a bright bar in one of `classes` places."""
    random = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    pictures = random.integers(0, 60, (examples, size, size, 1), dtype=np.uint8)
    for number, label in enumerate(labels):
        row = 1 + label * (size - 2) // classes
        pictures[number, row : row + 2] += 150
    return pictures, labels


def save_npz(path: Path, *, examples: int = 96, size: int = 8, classes: int = 3, **arrays: np.ndarray) -> Path:
    """A data file of blobs; `arrays` replace or add entries."""
    x_train, y_train = blobs(examples, size=size, classes=classes)
    x_test, y_test = blobs(examples // 2, size=size, classes=classes, seed=1)
    content = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **arrays}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


def bar_reader(*, size: int = 8, classes: int = 3) -> Any:
    """A `keras.Model` for pictures in [0, 1] that sees which bar of `blobs` is bright; nearly always right."""
    import keras

    inputs = keras.Input((size, size, 1))
    model = keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(inputs)))
    kernel = np.zeros((size, size, classes), np.float32)
    for label in range(classes):
        row = 1 + label * (size - 2) // classes
        kernel[row : row + 2, :, label] = 0.6
    model.layers[-1].set_weights([kernel.reshape(-1, classes), np.zeros(classes, np.float32)])
    return model


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    """A float type, which is also Keras' own while the test runs: layers that a loss builds compute in it."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
