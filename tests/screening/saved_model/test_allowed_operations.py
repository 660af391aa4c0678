"""The list of allowed operations: what it contains, and what it must never contain."""

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

# Operations that exist in graphs only, without a Python function.
HIDDEN = {"_Arg", "_Retval"}
# Words in the names of operations that access something outside the graph.
OUTSIDE_WORDS = (
    "File Save Restore Checkpoint Summary Dataset Iterator Debug PyFunc Remote Send Recv Rpc Collective".split()
)
# Arguments that name a file, a server or a program.
OUTSIDE = {
    "file",
    "filename",
    "filenames",
    "path",
    "vocab_file",
    "debug_urls",
    "url",
    "address",
    "debug_ops_spec",
}
OUTSIDE |= {"function_list", "module", "token", "serialized_graph", "cache_filename", "logdir", "target"}


def test_every_listed_operation_exists_in_tensorflow():
    listed = ALLOWED_OPERATIONS | TABLE_OPERATIONS | FOLDED_FILE_OPERATIONS | RESTORE_OPERATIONS | DEBUG_OPERATIONS
    assert {name for name in listed if not hasattr(tf.raw_ops, name)} <= HIDDEN


def test_each_operation_is_in_one_group():
    names = [name for text in GROUPS.values() for name in text.split()]
    assert len(names) == len(set(names)) == len(ALLOWED_OPERATIONS)
    assert not ALLOWED_OPERATIONS & (
        TABLE_OPERATIONS | FOLDED_FILE_OPERATIONS | RESTORE_OPERATIONS | DEBUG_OPERATIONS
    )


def test_no_allowed_operation_has_the_name_of_outside_access():
    assert {name for name in ALLOWED_OPERATIONS for word in OUTSIDE_WORDS if word in name} == set()


def test_no_allowed_operation_has_an_argument_for_a_file_or_a_program():
    naming = {}
    for operation in sorted(ALLOWED_OPERATIONS - HIDDEN):
        naming[operation] = OUTSIDE & set(inspect.signature(getattr(tf.raw_ops, operation)).parameters)
    assert {operation: found for operation, found in naming.items() if found} == {}
    assert OUTSIDE & set(inspect.signature(tf.raw_ops.FixedUnigramCandidateSampler).parameters) == {"vocab_file"}


@pytest.mark.parametrize(
    ("operation", "effect"),
    [
        ("WriteFile", "writes files"),
        ("ReadFile", "reads files"),
        ("EagerPyFunc", "runs Python code"),
        ("SomethingNew", "is not known to be harmless"),
    ],
)
def test_a_refused_operation_has_a_described_effect(operation, effect):
    assert operation not in ALLOWED_OPERATIONS and describe_effect(operation) == effect
