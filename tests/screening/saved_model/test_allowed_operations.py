"""The list of operations that may run: what stands on it, and what never may."""

from __future__ import annotations

import inspect

import pytest
import tensorflow as tf

from kdcli.screening.saved_model.allowed_operations import (
    ALLOWED_OPERATIONS,
    DEBUG_OPERATIONS,
    FOLDED_FILE_OPERATIONS,
    GROUPS,
    RESTORE_OPERATIONS,
    TABLE_OPERATIONS,
    describe_effect,
)

# Operations that exist in graphs only, without a function in Python.
HIDDEN = {"_Arg", "_Retval"}
# Words that stand in names of operations which reach out of the graph.
REACHING = (
    "File Save Restore Checkpoint Summary Dataset Iterator Debug PyFunc Remote Send Recv Rpc Collective".split()
)
# Attributes with which an operation could name a file, a server or a program.
NAMING = {"file", "filename", "filenames", "path", "vocab_file", "debug_urls", "url", "address", "debug_ops_spec"}
NAMING |= {"function_list", "module", "token", "serialized_graph", "cache_filename", "logdir", "target"}


def test_every_listed_operation_is_one_of_tensorflow():
    listed = ALLOWED_OPERATIONS | TABLE_OPERATIONS | FOLDED_FILE_OPERATIONS | RESTORE_OPERATIONS | DEBUG_OPERATIONS
    assert {name for name in listed if not hasattr(tf.raw_ops, name)} <= HIDDEN


def test_each_operation_stands_in_one_group_that_says_why():
    names = [name for text in GROUPS.values() for name in text.split()]
    assert len(names) == len(set(names)) == len(ALLOWED_OPERATIONS)
    assert not ALLOWED_OPERATIONS & (
        TABLE_OPERATIONS | FOLDED_FILE_OPERATIONS | RESTORE_OPERATIONS | DEBUG_OPERATIONS
    )


def test_nothing_that_reaches_out_of_the_graph_is_allowed():
    assert {name for name in ALLOWED_OPERATIONS for word in REACHING if word in name} == set()


def test_no_allowed_operation_has_an_argument_that_names_a_file_or_a_program():
    naming = {}
    for operation in sorted(ALLOWED_OPERATIONS - HIDDEN):
        naming[operation] = NAMING & set(inspect.signature(getattr(tf.raw_ops, operation)).parameters)
    assert {operation: found for operation, found in naming.items() if found} == {}
    assert NAMING & set(inspect.signature(tf.raw_ops.FixedUnigramCandidateSampler).parameters) == {"vocab_file"}


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("WriteFile", "writes files"),
        ("ReadFile", "reads files"),
        ("EagerPyFunc", "runs Python code"),
        ("SomethingNew", "is not known to be harmless"),
    ],
)
def test_a_refusal_says_what_the_operation_does(operation, said):
    assert operation not in ALLOWED_OPERATIONS and describe_effect(operation) == said
