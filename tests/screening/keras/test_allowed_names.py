"""The allow-lists match the names of this Keras version: a new version fails here if it has new names."""

from __future__ import annotations

import types

import keras
import pytest

from kdcli.screening.keras import allowed_names

# Classes that run code or open files, and base classes that are never saved.
OMITTED = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"} | {
    "InputSpec",
    "Layer",
    "Wrapper",
}
BASES = {"Initializer", "Regularizer", "Constraint", "Loss", "Metric", "Quantizer"}


def public_names(module, kind):
    return {name for name in dir(module) if not name.startswith("_") and isinstance(getattr(module, name), kind)}


def test_all_layers_are_listed_except_those_that_run_code():
    assert public_names(keras.layers, type) == allowed_names.LAYERS | OMITTED
    assert not allowed_names.LAYERS & OMITTED


@pytest.mark.parametrize(
    "module", ["initializers", "regularizers", "constraints", "losses", "metrics", "optimizers", "quantizers"]
)
def test_all_classes_of_parts_are_listed(module):
    classes = {name for name in public_names(getattr(keras, module), type) if name[0].isupper()} - BASES
    assert classes <= allowed_names.PARTS


@pytest.mark.parametrize("module", ["activations", "losses", "metrics"])
def test_all_functions_that_compute_are_listed(module):
    functions = public_names(getattr(keras, module), types.FunctionType) - {"get", "serialize", "deserialize"}
    assert functions <= allowed_names.FUNCTIONS


def test_no_listed_name_loads_or_reads_files():
    everything = allowed_names.LAYERS | allowed_names.PARTS | allowed_names.FUNCTIONS | allowed_names.OPERATIONS
    assert not {"get", "deserialize", "load_model", "get_file", "Map", "Cond", "WhileLoop", "Lambda"} & everything
    assert not any(name.startswith(("io.", "raw_ops", "py_func")) for name in allowed_names.KERAS_2_FUNCTIONS)
