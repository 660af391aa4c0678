"""The outputs of a network: their kind, and the columns of the data's classes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError, UsageError
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.outputs import choose_columns, resolve_output

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(8, 3)) * 3
CHANCES = RANDOM.dirichlet(np.ones(3), 8)
SINGLE = RANDOM.random((8, 3))
ANIMALS = ("ant", "bee", "cat", "dog", "elk")


def network(activation=None, units=3, *, hidden=False):
    inputs = keras.Input((2,))
    x = keras.layers.Dense(units, activation=activation)(inputs)
    # A reshape after it hides the activation from the last layer.
    x = keras.layers.Reshape((units,))(x) if hidden else x
    return KerasNetwork(keras.Model(inputs, x), name="given")


def resolved(found, values, *, setting="auto", task="classification", outputs=3):
    return resolve_output(found, setting=setting, task=task, output_count=outputs, values=values)


def refused(*args, **options):
    with pytest.raises(ModelError) as caught:
        resolved(*args, **options)
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize(
    ("activation", "task", "values", "saved_kind", "output_kind"),
    [
        (None, "classification", LOGITS, "logits", "logits"),
        ("hidden", "classification", CHANCES, "probabilities", "logits"),
        (None, "classification", CHANCES, "logits", "logits"),
        ("softmax", "classification", CHANCES, "probabilities", "logits"),
        ("sigmoid", "multilabel", SINGLE, "sigmoid", "sigmoid"),
        ("hidden", "multilabel", SINGLE, "sigmoid", "sigmoid"),
        (None, "multilabel", SINGLE, "logits", "sigmoid"),
        (None, "multilabel", LOGITS, "logits", "sigmoid"),
        (None, "regression", LOGITS, "values", "values"),
        ("sigmoid", "regression", SINGLE, "values", "values"),
    ],
)
def test_auto_considers_the_last_layer_and_the_outputs(activation, task, values, saved_kind, output_kind):
    # Outputs of a linear layer are in [0, 1] only by chance.
    original = network(hidden=True) if activation == "hidden" else network(activation)
    found = resolved(original, values, task=task)
    assert (found.saved_kind, found.output_kind) == (saved_kind, output_kind)


def test_probabilities_in_half_precision_are_still_probabilities():
    half = CHANCES.astype(np.float16).astype(np.float64)
    assert resolved(network(hidden=True), half).saved_kind == "probabilities"


def test_probabilities_in_steps_of_an_8_bit_file_are_still_probabilities():
    steps = np.rint(RANDOM.dirichlet(np.ones(10), 64) * 256) / 256
    assert np.abs(steps.sum(-1) - 1).max() > 5e-3
    found = resolved(network(units=10, hidden=True), steps, outputs=10)
    assert found.saved_kind == "probabilities"


def test_outputs_outside_0_to_1_under_another_scale_are_logits():
    original = network(units=1, hidden=True)
    values, unbounded = RANDOM.random((8, 1)), RANDOM.normal(size=(8, 1)) * 3
    for rescaled, kind in ((unbounded, "logits"), (values, "sigmoid")):
        found = resolve_output(
            original, setting="auto", task="classification", output_count=2, values=values, rescaled=rescaled
        )
        assert found.saved_kind == kind


def test_positive_outputs_that_do_not_sum_to_one_are_logits():
    assert resolved(network(), SINGLE).saved_kind == "logits"


def test_the_setting_overrides_detection():
    assert resolved(network(), CHANCES, setting="logits").saved_kind == "logits"
    assert resolved(network(), SINGLE, setting="sigmoid").output_kind == "sigmoid"


def test_probabilities_that_do_not_sum_to_one_are_refused():
    message = refused(network(), LOGITS, setting="probabilities").message
    assert message == "given: output_kind is probabilities, but the outputs do not sum to 1"


def test_logits_out_of_a_softmax_are_refused():
    message = refused(network("softmax"), CHANCES, setting="logits").message
    assert message == "given: output_kind is logits, but the last layer returns probabilities"


def test_sigmoids_outside_their_range_are_refused():
    message = refused(network(), LOGITS, setting="sigmoid").message
    assert message == "given: output_kind is sigmoid, but some outputs are outside [0, 1]"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(bad):
    values = LOGITS.copy()
    values[2, 1] = bad
    error = refused(network(), values)
    assert error.message == "given: the outputs contain NaN or infinity"
    assert "input.scale" in error.hint


def test_another_number_of_classes_is_refused_with_both_counts():
    error = refused(network(), LOGITS, outputs=10)
    assert error.message == "given has 3 outputs, the data has 10 classes"
    assert "data.classes" in error.hint


def test_another_number_of_values_is_refused_with_both_counts():
    message = refused(network(), LOGITS, outputs=2, task="regression").message
    assert message == "given has 3 outputs, the data has 2 values"


def test_one_sigmoid_stands_for_two_classes():
    found = resolved(network("sigmoid", 1), SINGLE[:, :1], outputs=2)
    assert (found.outputs, found.output_kind, found.saved_kind) == (2, "logits", "sigmoid")


def test_one_logit_stands_for_two_classes():
    found = resolved(network(None, 1), LOGITS[:, :1], outputs=2)
    assert (found.outputs, found.output_kind, found.saved_kind) == (2, "logits", "logits")


def test_one_hidden_sigmoid_is_detected_from_its_outputs():
    found = resolved(network("sigmoid", 1, hidden=True), SINGLE[:, :1], outputs=2)
    assert (found.outputs, found.output_kind, found.saved_kind) == (2, "logits", "sigmoid")


def test_one_output_is_not_three_classes():
    message = refused(network(None, 1), LOGITS[:, :1], outputs=3).message
    assert message == "given has 1 outputs, the data has 3 classes"


def test_one_hidden_sigmoid_named_in_the_recipe_stands_for_two_classes():
    found = resolved(network("sigmoid", 1, hidden=True), SINGLE[:, :1], outputs=2, setting="sigmoid")
    assert (found.outputs, found.output_kind, found.saved_kind) == (2, "logits", "sigmoid")


def test_the_original_network_is_not_changed():
    found = network("softmax")
    resolved(found, CHANCES, setting="probabilities", task="regression")
    assert (found.saved_kind, found.output_kind) == ("probabilities", "logits")


def test_names_are_found_in_the_order_of_the_data():
    assert choose_columns(ANIMALS, output_count=5, class_names=("dog", "ant")) == (3, 0)


def test_column_numbers_are_used_as_given():
    assert choose_columns((4, 2), output_count=5, class_names=("x", "y")) == (4, 2)


def test_names_may_come_from_a_file(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(ANIMALS) + "\n\n")
    assert choose_columns(str(file), output_count=5, class_names=("elk",)) == (4,)


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (("cat", "dog"), ("dog",), "names 2 classes, the teacher has 5 outputs"),
        (ANIMALS, ("dig", "fox"), r"has no class 'dig' \(and 1 more\); did you mean 'dog'"),
        (("cat", "cat", "a", "b", "c"), ("cat",), "has 'cat' more than once"),
        ((1, 2, 3), ("x", "y"), "3 column numbers, the data has 2 classes"),
        ((1, 5), ("x", "y"), "column 5 does not exist, the teacher has 5 outputs"),
        ((1, 1), ("x", "y"), "two classes of the data have the same column"),
        ("nowhere.txt", ("x",), "nowhere.txt cannot be read"),
    ],
)
def test_invalid_columns_are_refused(classes, names, message):
    with pytest.raises(UsageError, match=message):
        choose_columns(classes, output_count=5, class_names=names)
