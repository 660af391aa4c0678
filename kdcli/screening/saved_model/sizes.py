"""Limits on the size of a SavedModel: a small file must not need much memory or endless work."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from kdcli.screening.saved_model.files import Contents
from kdcli.screening.saved_model.objects import Objects
from kdcli.screening.saved_model.program import Program, call_order
from kdcli.screening.saved_model.proto import dtype_bytes
from kdcli.screening.verdict import Finding, quote

_MAX_PARTS = 500_000
# The wire type of a length-delimited field, and the length in bytes of a small one.
_DELIMITED, _SMALL_BYTES = 2, 32
# How many small fields a message may have: a fixed number, and one more per so many bytes.
_SPARE_FIELDS, _BYTES_PER_FIELD = 4_000_000, 64
_CHUNK_BYTES = 2**24
# After functions are copied to where they are called.
_MAX_CALLED_NODES = 20_000_000
# Variables may be declared several times: copies on devices, the slots of an optimizer.
_VARIABLE_COPIES, _SPARE_VARIABLE_BYTES = 4, 2**26


def check_density(content: bytes) -> Iterator[Finding]:
    """Refuse a message with too many small fields: each takes two bytes in the file and a hundred once parsed.

    Counts every pair of bytes that could start a field of at most 32 bytes; numbers that look like one are rare.

    Args:
        content: the serialized message.
    """
    fields = 0
    for start in range(0, len(content) - 1, _CHUNK_BYTES):
        chunk = np.frombuffer(content[start : start + _CHUNK_BYTES + 1], np.uint8)
        tags, lengths = chunk[:-1], chunk[1:]
        fields += int(np.count_nonzero(((tags & 0x87) == _DELIMITED) & (lengths <= _SMALL_BYTES)))
    most = _SPARE_FIELDS + len(content) // _BYTES_PER_FIELD
    if fields > most:
        message = f"the model has about {fields:,} fields in {len(content):,} bytes (at most {most:,})"
        yield Finding("size", message)


def check_part_counts(meta: Any) -> Iterator[Finding]:
    """Refuse more operations, functions or objects than real models have; to be called before any other check.

    Args:
        meta: the `MetaGraphDef` message.
    """
    library = meta.graph_def.library
    counts = {
        "operations": len(meta.graph_def.node) + sum(len(function.node_def) for function in library.function),
        "functions": len(library.function),
        "objects": len(meta.object_graph_def.nodes),
    }
    for part, count in counts.items():
        if count > _MAX_PARTS:
            yield Finding("size", f"the model has {count:,} {part} (at most {_MAX_PARTS:,})")


def check_function_calls(program: Program) -> Iterator[Finding]:
    """Refuse functions that call themselves, and graphs that grow too large once their calls are expanded."""
    try:
        order = call_order(program)
    except ValueError as error:
        yield Finding("recursion", str(error))
        return
    sizes: dict[str, int] = {}
    for body in (*(program.functions[name] for name in order), program.graph):
        called = (name for names in body.calls.values() for name in names)
        sizes[body.name] = len(body.nodes) + sum(sizes.get(name, 0) for name in called)
    largest = max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > _MAX_CALLED_NODES:
        message = f"the function calls expand to {sizes[largest]:,} operations (at most {_MAX_CALLED_NODES:,})"
        yield Finding("size", message)


def check_variables(objects: Objects, contents: Contents) -> Iterator[Finding]:
    """Refuse variables that are declared larger than the values in the file."""
    stored, total = contents.variable_bytes, 0
    for variable in objects.variables():
        dims = [dim.size for dim in variable.shape.dim]
        if variable.shape.unknown_rank or any(size < 0 for size in dims):
            continue
        declared = prod(dims) * (dtype_bytes(variable.dtype) or 1)
        total += declared
        if declared > stored:
            variable_bytes = f"the variable {quote(variable.name)} declares {declared:,} bytes"
            yield Finding("size", f"{variable_bytes}, the files of all variables have {stored:,}")
            return
    if total > _VARIABLE_COPIES * stored + _SPARE_VARIABLE_BYTES:
        yield Finding("size", f"the variables declare {total:,} bytes, their files have {stored:,}")
