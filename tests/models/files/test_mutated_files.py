"""Damaged model files: no crash of the command and no hang; refused with exit 4, or opened with finite weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import bar_reader

FORMATS = ("keras", "h5", "saved_model", "tflite")
# Looks into each file that it is given and says how that ended; the last line names a file that ends the process.
SCRIPT = """
import json, sys, time
import numpy as np
import kdcli

for path in sys.argv[1:]:
    print(json.dumps({"begins": path}), flush=True)
    began = time.monotonic()
    try:
        looked = kdcli.inspect(path)
        refused, safe, findings = looked.refused, looked.safe, looked.findings[:1]
    except kdcli.KdError as error:
        refused, safe, findings = error, False, [error.message]
    line = {"path": path, "safe": safe, "code": refused and refused.exit_code, "findings": findings}
    print(json.dumps({**line, "seconds": time.monotonic() - began}), flush=True)
"""
SECONDS_EACH = 90


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A sound file of each format."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("sound")
    model = bar_reader()
    model.save(folder / "m.keras")
    model.save(folder / "m.h5")
    model.export(folder / "m_saved_model", verbose=False)
    (folder / "m.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    return {form: folder / ("m_saved_model" if form == "saved_model" else f"m.{form}") for form in FORMATS}


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A damage of one of the kinds that disks and networks make, and one that only people make."""
    array = np.frombuffer(content, np.uint8).copy()
    at = int(random.integers(len(array)))
    kind = random.integers(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        array[at] ^= 1 << random.integers(8)
    elif kind == 2:
        array[at : at + 256] = 0
    elif kind == 3:
        array[at : at + 8] = 255
    elif kind == 4:
        array[at : at + 16] = random.integers(0, 256, len(array[at : at + 16]))
    else:
        return content[:at] + content[max(0, at - 32) : at] + content[at:]
    return array.tobytes()


def make_files(originals, folder, count, *, seed):
    """`count` damaged files, the formats in turn; of a SavedModel one of its files is damaged."""
    random, made = np.random.default_rng(seed), []
    for number in range(count):
        original = originals[FORMATS[number % len(FORMATS)]]
        path = folder / f"{number:04d}-{original.name}"
        if original.is_dir():
            shutil.copytree(original, path)
            inside = sorted(entry for entry in path.rglob("*") if entry.is_file() and entry.stat().st_size > 8)
            damaged = inside[random.integers(len(inside))]
        else:
            shutil.copyfile(original, path)
            damaged = path
        damaged.write_bytes(mutated(damaged.read_bytes(), random))
        made.append(path)
    return made


def look_into(files):
    """What became of each file, by name, looked into in one process."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=60 + SECONDS_EACH * len(files),
        check=False,
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    begun = [line["begins"] for line in lines if "begins" in line]
    assert ran.returncode == 0, f"{begun[-1:]} ended the process with {ran.returncode}: {ran.stderr[-2000:]}"
    return [line for line in lines if "path" in line]


def check(results, count):
    assert len(results) == count
    assert {line["code"] for line in results} <= {None, 4}
    assert all(line["safe"] == (line["code"] is None) for line in results)
    assert max(line["seconds"] for line in results) < SECONDS_EACH
    # Some damage is in bytes that mean nothing; most is not.
    assert sum(line["code"] == 4 for line in results) > count / 3
    assert all(line["findings"] for line in results if line["code"] == 4)


# Every SavedModel among them starts a TensorFlow of its own, which takes seconds.
@pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="ai_edge_litert is not installed")
def test_damaged_files(originals, tmp_path, count):
    sound = [*originals.values()]
    results = look_into([*sound, *make_files(originals, tmp_path, count, seed=1)])
    assert all(line["code"] is None for line in results[: len(sound)])
    check(results[len(sound) :], count)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_damaged_files(originals, tmp_path, part):
    check(look_into(make_files(originals, tmp_path, 100, seed=100 + part)), 100)
