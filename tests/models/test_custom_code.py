"""Custom layers and kinds from the files of `--code`."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError, UsageError
from kdcli.loss import Loss
from kdcli.models.custom_code import attribute_errors, find_kinds, list_registered_names, run_keras_code
from kdcli.models.files.open import open_file
from kdcli.spec import Augment, Source

pytestmark = pytest.mark.usefixtures("own_layers_forgotten")
LAYER = """
import keras

@keras.saving.register_keras_serializable(package="zoo_of_mine")
class {name}(keras.layers.Layer):
    pass
"""


def test_a_registered_layer_is_listed_by_its_configuration_name(tmp_path):
    file = tmp_path / "layers.py"
    file.write_text(LAYER.format(name="Twice"))
    run_keras_code([file])
    assert "zoo_of_mine>Twice" in list_registered_names()
    run_keras_code([file])


def test_a_file_that_registers_nothing_is_refused(tmp_path):
    file = tmp_path / "layers.py"
    file.write_text("class Layer: pass\n")
    with pytest.raises(UsageError, match="registers nothing: no layer, model, loss"):
        run_keras_code([file])


DEFINED = """
import keras

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

class Ones(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.ones(shape, dtype)

class Attention(keras.layers.Layer):
    def call(self, x):
        return 5 * x

def double_relu(x):
    return 2 * keras.ops.relu(x)

def relu(x):
    return x
"""


def defined(text=DEFINED):
    """The names of a script without registration: Keras saves its classes under their bare names."""
    names = {"__name__": "__main__"}
    exec(text, names)
    return names


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_classes_and_functions_open_under_the_bare_names_that_they_were_saved_with(tmp_path, suffix):
    made, inputs = defined(), keras.Input((4,))
    hidden = keras.layers.Dense(3, activation=made["double_relu"], kernel_initializer=made["Ones"]())(inputs)
    model = keras.Model(inputs, made["Attention"]()(made["Twice"]()(hidden)))
    path, code = tmp_path / f"m.{suffix}", tmp_path / "layers.py"
    model.save(path)
    code.write_text(DEFINED)
    with pytest.raises(ModelError, match="refused, class: ") as refused:
        open_file(path)
    assert refused.value.hint.startswith("--code FILE.py")
    run_keras_code([code])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(open_file(path).network.model(x), model(x), rtol=1e-6)
    # Objects of Keras keep their names: layers of an archive, and every function.
    assert keras.activations.get("relu") is keras.activations.relu
    own = keras.layers.deserialize(keras.layers.serialize(keras.layers.Attention()))
    assert type(own) is keras.layers.Attention


def test_a_decorated_class_opens_what_was_saved_without_the_decorator(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, defined()["Twice"]()(inputs)).save(tmp_path / "m.keras")
    code = tmp_path / "layers.py"
    code.write_text(DEFINED.replace("class Twice", "@keras.saving.register_keras_serializable()\nclass Twice"))
    run_keras_code([code])
    assert type(open_file(tmp_path / "m.keras").network.model.layers[-1]).__name__ == "Twice"


@pytest.mark.parametrize(
    ("signature", "message", "hint"),
    [
        ("self, k=2", "the class Twice does not accept 'name', which Keras passes to every layer", "**kwargs"),
        ("self, units, **options", "the class Twice needs 'units', which its get_config", "as defaults"),
    ],
)
def test_a_class_that_cannot_be_rebuilt_names_the_missing_argument(tmp_path, signature, message, hint):
    forwarded = "**options" if "options" in signature else ""
    text = DEFINED.replace(
        "    def call(self, x):\n        return 2 * x",
        f"    def __init__({signature}):\n        super().__init__({forwarded})\n\n"
        "    def call(self, x):\n        return 2 * x\n\n"
        "    def get_config(self):\n        return keras.layers.Layer.get_config(self)",
    )
    inputs = keras.Input((4,))
    layer = defined(text)["Twice"](**({"units": 3} if forwarded else {}))
    keras.Model(inputs, layer(inputs)).save(tmp_path / "m.keras")
    code = tmp_path / "layers.py"
    code.write_text(text)
    run_keras_code([code])
    with pytest.raises(ModelError, match="does not load") as caught:
        open_file(tmp_path / "m.keras")
    assert message in caught.value.message and hint in caught.value.hint
    assert "{" not in caught.value.message


@pytest.mark.parametrize(("content", "message"), [("1 / 0", "ZeroDivisionError"), ("def (", "SyntaxError")])
def test_a_file_that_fails_reports_its_error(tmp_path, content, message):
    file = tmp_path / "layers.py"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        run_keras_code([file])


KIND = """
from typing import ClassVar, Literal
import kdcli

class {name}(kdcli.{parent}):
    {body}
"""
LOSS = (
    'kind: Literal["{kind}"] = "{kind}"\n\n    def __call__(self, *, student, **_):\n        return student[:, 0]'
)


def write(folder, text, name="mine.py"):
    file = folder / name
    file.write_text(text)
    return file


def loss(kind="mine", name="Mine", parent="Loss"):
    return KIND.format(name=name, parent=parent, body=LOSS.format(kind=kind))


def refused(*files):
    with pytest.raises(UsageError) as caught:
        find_kinds(files)
    return caught.value


def test_kinds_are_found_by_family_with_their_file(tmp_path):
    both = (
        loss()
        + loss("other", "Other", "FeatureLoss")
        + KIND.format(
            name="Still",
            parent="Augment",
            body='kind: Literal["still"] = "still"\n\n    def __call__(self, images, draws): return images',
        )
    )
    own = find_kinds([write(tmp_path, both), write(tmp_path, loss("third"), "third.py")])
    assert list(own.of(Loss)) == ["mine", "other", "third"]
    assert list(own.of(Augment)) == ["still"] and own.of(Source) == {}
    assert own.files == ("mine.py", "third.py")
    assert own.of(Loss)["third"]()(student=np.ones((2, 3))).tolist() == [1.0, 1.0]


def test_a_file_runs_once_and_leaves_no_module_behind(tmp_path):
    log = tmp_path / "log"
    text = f"with open({str(log)!r}, 'a') as log:\n    log.write('ran ')\n"
    file, layers = write(tmp_path, text + loss()), write(tmp_path, text + LAYER.format(name="Late"), "layers.py")
    own = find_kinds([file, layers])
    assert log.read_text() == "ran "
    run_keras_code(own.paths)
    assert log.read_text() == "ran ran "
    assert "zoo_of_mine>Late" in list_registered_names()
    assert "mine" not in sys.modules


def test_a_file_may_define_kinds_and_layers(tmp_path):
    own = find_kinds([write(tmp_path, LAYER.format(name="Beside") + loss())])
    assert list(own.of(Loss)) == ["mine"]
    assert "zoo_of_mine>Beside" in list_registered_names()
    # One that imports kdcli for another reason defines layers all the same.
    assert find_kinds([write(tmp_path, "import kdcli\n" + LAYER.format(name="Alone"), "b.py")]).members == ()


def test_a_base_class_needs_no_kind(tmp_path):
    text = KIND.format(name="Common", parent="Loss", body="power: float = 2.0")
    text += loss("mine", "Mine").replace("kdcli.Loss", "Common")
    assert list(find_kinds([write(tmp_path, text)]).of(Loss)) == ["mine"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (loss("hint"), "Mine: kdcli's Hint already defines the kind 'hint'", "another name"),
        (loss() + loss(name="Twice"), "Twice: Mine already defines the kind 'mine'", None),
        (KIND.format(name="NoKind", parent="Loss", body="a: int = 1"), "NoKind has no kind", '"no_kind"'),
        (
            loss().replace('Literal["mine"]', "str"),
            "Mine: the type of kind must be Literal",
            'Literal["mine"]',
        ),
        (loss("My Kind"), "Mine: the name of a kind consists of a-z, 0-9 and _ (got 'My Kind')", None),
        (
            KIND.format(name="Empty", parent="Source", body='kind: Literal["empty"] = "empty"'),
            "Empty has no load method",
            "docs/custom-kinds.md",
        ),
        (
            KIND.format(name="Silent", parent="Loss", body='kind: Literal["silent"] = "silent"'),
            "Silent has no __call__ method",
            "docs/custom-kinds.md",
        ),
        ("import kdcli\n", "defines nothing: no subclass of Loss, FeatureLoss, Source or Augment", "check"),
        ("import kdcli\n\n1 / 0\n", "mine.py:3: ZeroDivisionError: division by zero", "python"),
        ("import kdcli\nraise SystemExit('enough')\n", "mine.py:2: SystemExit: enough", "python"),
        ("import kdcli\ndef (\n", "mine.py:2: SyntaxError: ", "python"),
        ("from kdcli.loss import Los\n", "mine.py:1: ImportError: cannot import name 'Los'", "python"),
        (
            "from __future__ import annotations\n"
            + loss().replace("def __call__", "a: Unknown = 1\n\n    def __call__"),
            "Mine: the type of a setting is not defined in the file",
            None,
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, message, hint):
    error = refused(write(tmp_path, text))
    assert error.exit_code == 2
    assert error.message.startswith(f"--code {tmp_path / 'mine.py'}") and "\n" not in error.message
    assert message in error.message
    assert (hint or "") in (error.hint or "")


def test_two_files_that_define_one_kind_are_refused(tmp_path):
    first, second = write(tmp_path, loss()), write(tmp_path, loss(), "second.py")
    assert refused(first, second).message == f"--code {second}: Mine: mine.py already defines the kind 'mine'"


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    first, second = write(tmp_path, loss()), write(tmp_path / "b", loss("other"))
    assert "another file has the same name" in refused(first, second).message


def test_a_missing_file_is_refused(tmp_path):
    assert refused(tmp_path / "nowhere.py").message.endswith("nowhere.py: no such file")


def test_an_error_in_the_users_file_names_the_line(tmp_path):
    file = write(tmp_path, loss().replace("student[:, 0]", "student.nothing"))
    (member,) = find_kinds([file]).of(Loss).values()
    with pytest.raises(UsageError) as caught, attribute_errors([file]):
        member()(student=np.ones(3))
    assert caught.value.message.startswith(f"--code {file}:9: AttributeError: ")
    with pytest.raises(AttributeError), attribute_errors([tmp_path / "other.py"]):
        member()(student=np.ones(3))
    with pytest.raises(UsageError, match="raised by kd"), attribute_errors([file]):
        raise UsageError("raised by kd")
    # An error that wraps an error of the file is reported as the error of the file.
    with pytest.raises(UsageError, match=r"mine\.py:9: AttributeError"), attribute_errors([file]):
        try:
            member()(student=np.ones(3))
        except AttributeError as error:
            raise ModelError("a loss failed") from error
