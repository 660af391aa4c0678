"""How much a SavedModel would take: memory that a small file asks for, and work without end."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from kdcli.screening.saved_model.files import Contents
from kdcli.screening.saved_model.objects import Objects
from kdcli.screening.saved_model.program import Program, call_order
from kdcli.screening.saved_model.proto import declared_bytes, dtype_bytes, quote_name
from kdcli.screening.verdict import Finding

_MANY = 500_000
# How a part of a message begins, in its wire format, and how many small ones there may be.
_DELIMITED, _SMALL = 2, 32
_PARTS, _BYTES_FOR_EACH = 4_000_000, 64
_CHUNK = 2**24
# Functions are copied to where they are called, so that the whole grows with each call of a call.
_CALLED_NODES = 20_000_000
_CONSTANT_BYTES = 2**28
# Beside their values in the file, variables may be listed again: copies on devices, the slots of an optimizer.
_VARIABLES_TIMES, _VARIABLES_MORE = 4, 2**26


def check_density(content: bytes) -> Iterator[Finding]:
    """More small parts than a message of this size has: each takes two bytes here and a hundred once it is read.

    Every byte pair that could begin a part of at most 32 bytes is counted; numbers that look like one are few.
    """
    parts = 0
    for start in range(0, len(content) - 1, _CHUNK):
        chunk = np.frombuffer(content[start : start + _CHUNK + 1], np.uint8)
        tags, lengths = chunk[:-1], chunk[1:]
        parts += int(np.count_nonzero(((tags & 0x87) == _DELIMITED) & (lengths <= _SMALL)))
    most = _PARTS + len(content) // _BYTES_FOR_EACH
    if parts > most:
        yield Finding("size", f"about {parts:,} parts in {len(content):,} bytes (at most {most:,})")


def check_part_counts(meta: Any) -> Iterator[Finding]:
    """More operations, functions or objects than any model has; asked before anything is done for each of them."""
    library = meta.graph_def.library
    counts = {
        "operations": len(meta.graph_def.node) + sum(len(function.node_def) for function in library.function),
        "functions": len(library.function),
        "objects": len(meta.object_graph_def.nodes),
    }
    for what, count in counts.items():
        if count > _MANY:
            yield Finding("size", f"{count:,} {what} (at most {_MANY:,})")


def check_function_calls(program: Program) -> Iterator[Finding]:
    """Functions that call themselves, and graphs that grow without measure where functions are put in."""
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
    if sizes[largest] > _CALLED_NODES:
        most = f"at most {_CALLED_NODES:,}"
        yield Finding("size", f"{sizes[largest]:,} operations with all that functions call ({most})")


def check_variables(objects: Objects, contents: Contents) -> Iterator[Finding]:
    """Variables that are declared larger than their values in the file."""
    held, total = contents.variable_bytes, 0
    for variable in objects.variables():
        dims = [dim.size for dim in variable.shape.dim]
        if variable.shape.unknown_rank or any(size < 0 for size in dims):
            continue
        declared = prod(dims) * (dtype_bytes(variable.dtype) or 1)
        total += declared
        if declared > held:
            message = (
                f"the variable {quote_name(variable.name)} declares {declared:,} bytes, all values are {held:,}"
            )
            yield Finding("size", message)
            return
    if total > _VARIABLES_TIMES * held + _VARIABLES_MORE:
        yield Finding("size", f"variables declare {total:,} bytes, their values are {held:,}")


def check_specifications(*messages: Any) -> Iterator[Finding]:
    """Arrays inside of what functions and signatures say of their arguments: loading makes each of them."""
    for tensor in (tensor for message in messages for tensor in _tensors_within(message)):
        declared, held = declared_bytes(tensor), tensor.ByteSize()
        if declared is None:
            yield Finding("size", "an argument of a function has no proper shape")
        elif declared > _CONSTANT_BYTES and declared > 4 * held:
            yield Finding("size", f"an argument of a function asks for {declared:,} bytes and holds {held:,}")


def _tensors_within(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            several = [one for one in value.values() if hasattr(one, "ListFields")]
        else:
            several = [value] if hasattr(value, "ListFields") else list(value)
        for one in several:
            if field.message_type.name == "TensorProto":
                yield one
            else:
                yield from _tensors_within(one)
