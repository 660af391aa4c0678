"""The start of TensorFlow: threads that come too late are refused."""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.lazy import tf
from kdcli.setup.startup import start_tensorflow

LATE = "--threads must be set before TensorFlow starts"


def refused(*files):
    tf.constant(1.0)
    with pytest.raises(UsageError) as caught:
        start_tensorflow(threads=977, seed=0, code=files)
    return caught.value


def test_threads_are_refused_after_tensorflow_has_started(tmp_path):
    layers = tmp_path / "layers.py"
    layers.write_text("import keras\n")
    for files in ((), (layers,)):
        error = refused(*files)
        assert (error.message, error.hint, error.exit_code) == (LATE, None, 2)


def test_a_code_file_that_may_have_started_tensorflow_is_named(tmp_path):
    loss, layers = tmp_path / "loss.py", tmp_path / "layers.py"
    loss.write_text("import kdcli\nimport tensorflow as tf\n\ntf.constant(1.0)\n")
    layers.write_text("import keras\n")
    error = refused(layers, loss)
    assert error.message == f"{LATE}, and --code {loss} runs before that"
    assert "run no TensorFlow operation there on import" in error.hint and "--threads" in error.hint
