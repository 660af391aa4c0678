"""The names that a configuration may use are Keras' own: a new version shows here what is to be looked at."""

from __future__ import annotations

import types

import keras
import pytest

from kdcli.screening.keras import allowed_names

# They run code or open files of their own; the others are never written as such.
LEFT_OUT = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"} | {
    "InputSpec",
    "Layer",
    "Wrapper",
}
BASES = {"Initializer", "Regularizer", "Constraint", "Loss", "Metric", "Quantizer"}


def public(module, kind):
    return {name for name in dir(module) if not name.startswith("_") and isinstance(getattr(module, name), kind)}


def test_layers_are_all_but_those_that_run_code():
    assert public(keras.layers, type) == allowed_names.LAYERS | LEFT_OUT
    assert not allowed_names.LAYERS & LEFT_OUT


@pytest.mark.parametrize(
    "room", ["initializers", "regularizers", "constraints", "losses", "metrics", "optimizers", "quantizers"]
)
def test_parts_are_all_classes_of_keras(room):
    classes = {name for name in public(getattr(keras, room), type) if name[0].isupper()} - BASES
    assert classes <= allowed_names.PARTS


@pytest.mark.parametrize("room", ["activations", "losses", "metrics"])
def test_functions_are_all_that_compute(room):
    functions = public(getattr(keras, room), types.FunctionType) - {"get", "serialize", "deserialize"}
    assert functions <= allowed_names.FUNCTIONS


def test_nothing_is_a_name_that_loads_or_reads():
    everything = allowed_names.LAYERS | allowed_names.PARTS | allowed_names.FUNCTIONS | allowed_names.OPERATIONS
    assert not {"get", "deserialize", "load_model", "get_file", "Map", "Cond", "WhileLoop", "Lambda"} & everything
    assert not any(name.startswith(("io.", "raw_ops", "py_func")) for name in allowed_names.KERAS_2_FUNCTIONS)
