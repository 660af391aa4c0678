"""Layers that a user brings along."""

from __future__ import annotations

import pytest

from kdcli.errors import UsageError
from kdcli.models.own_code import bring_code, registered_names

pytestmark = pytest.mark.usefixtures("own_layers_forgotten")
LAYER = """
import keras

@keras.saving.register_keras_serializable(package="zoo_of_mine")
class {name}(keras.layers.Layer):
    pass
"""


def test_what_a_file_registers_is_known_by_the_name_in_a_configuration(tmp_path):
    file = tmp_path / "layers.py"
    file.write_text(LAYER.format(name="Twice"))
    bring_code([file])
    assert "zoo_of_mine>Twice" in registered_names()
    bring_code([file])


def test_a_file_that_registers_nothing_is_refused(tmp_path):
    file = tmp_path / "layers.py"
    file.write_text("class Layer: pass\n")
    with pytest.raises(UsageError, match="registers nothing") as failure:
        bring_code([file])
    assert "register_keras_serializable" in failure.value.hint


@pytest.mark.parametrize(("content", "said"), [("1 / 0", "ZeroDivisionError"), ("def (", "SyntaxError")])
def test_a_file_that_fails_says_what_it_raised(tmp_path, content, said):
    file = tmp_path / "layers.py"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        bring_code([file])
