"""Screening of `.tflite` files: the flatbuffer is read here, every offset checked, and nothing is run."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from kdcli.screening.verdict import COPY_HINT, Finding, Verdict

IDENTIFIER = b"TFL3"
# No model that people run is anywhere near these.
_MAX_BYTES, MOST_ENTRIES, MOST_AXES = 8_000_000_000, 200_000, 16
# A tensor between two layers, for one example; a constant lies in the file, whose size bounds it.
_MAX_TENSOR_BYTES = 500_000_000
# Operations by their number: what is not LiteRT's own, and the last one that this schema knows.
_CONVERTED = "convert the model without operations of other libraries, or give kd the model it was made from"
_CUSTOM, _DELEGATE, _CUSTOM_CALL, _PLACEHOLDER, _LAST = 32, 51, 173, 127, 209
_OPERATIONS = {_DELEGATE: "DELEGATE", _CUSTOM_CALL: "STABLEHLO_CUSTOM_CALL", _PLACEHOLDER: "PLACEHOLDER"}
# Bits of a value by the number of its type; the other types have no fixed size.
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128}
_BITS |= {12: 64, 15: 32, 16: 16, 17: 4, 18: 16, 19: 2, 20: 4, 21: 8, 22: 8}
_FLOATS = {0: np.float32, 1: np.float16, 10: np.float64}
# Which options name other subgraphs, and in which fields: by the number of the options' type.
_CALLS = {16: (0,), 92: (0, 1), 93: (0, 1), 103: (0,)}
_NEWER_CALLS = {6: (1,), 7: (6,), 13: (5,), 14: (2,), 15: (0, 1), 21: (1,)}


def screen_litert(path: Path) -> Verdict:
    """What a `.tflite` file could do.

    Refused are operations of other libraries (custom, Flex), buffers in other files, tensors that the file cannot
    fill or no memory can hold, subgraphs that call themselves, weights that are NaN, and files whose parts lie
    outside of them.

    Args:
        path: of a private copy.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        return Verdict((Finding("size", f"it has {size} bytes, {_MAX_BYTES} are the most"),))
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        return Verdict((Finding("damaged", f"its identifier {IDENTIFIER.decode()} is missing", hint=COPY_HINT),))
    findings: list[Finding] = []
    try:
        # A file of damaged parts may have one fault in each of them: the first hundred are enough.
        for finding, _ in zip(_found(_read_root(content)), range(100), strict=False):
            findings.append(finding)
    except _DamagedFile as error:
        findings.append(Finding("damaged", str(error), hint=COPY_HINT))
    return Verdict(tuple(findings))


def _found(model: _Table) -> Iterator[Finding]:
    if model.has(8) or model.has(9):
        yield Finding("external-data", "its buffers lie in other files")
    codes = model.tables(1, most=MOST_ENTRIES)
    operations = [max(code.number(0, "i1"), code.number(3, "i4")) for code in codes]
    for code, operation in zip(codes, operations, strict=True):
        yield from _operation(code, operation)
    buffers = [_Buffer(one) for one in model.tables(4, most=MOST_ENTRIES)]
    subgraphs = model.tables(2, most=MOST_ENTRIES)
    if not subgraphs:
        raise _DamagedFile("it has no graph")
    calls: list[set[int]] = []
    seen: set[int] = set()
    for subgraph in subgraphs:
        tensors = subgraph.tables(0, most=MOST_ENTRIES)
        for tensor in tensors:
            yield from _tensor(tensor, buffers, seen)
        called = set(_operators(subgraph, len(codes), len(tensors)))
        if any(not 0 <= number < len(subgraphs) for number in called):
            raise _DamagedFile("an operation calls a graph that is not there")
        calls.append(called)
    if _calls_itself(calls):
        yield Finding("recursion", "a graph in it calls itself")


def _operation(code: _Table, operation: int) -> Iterator[Finding]:
    if operation == _CUSTOM:
        name = code.text(1) or "?"
        told = "TensorFlow's own" if name.startswith("Flex") else "custom"
        yield Finding("operation", f"the {told} operation {name!r} is not part of LiteRT", hint=_CONVERTED)
    elif operation in _OPERATIONS or not 0 <= operation <= _LAST:
        name = _OPERATIONS.get(operation, f"number {operation}")
        yield Finding("operation", f"the operation {name} is unknown to kd")


class _Buffer:
    """Where the bytes of a constant are."""

    def __init__(self, table: _Table) -> None:
        self.content = table.content
        self.start, self.size = table.span(0) or (0, 0)
        offset, size = table.number(1, "u8"), table.number(2, "u8")
        # Large files keep constants behind the flatbuffer; 0 and 1 mean that this one does not.
        if offset > 1:
            if offset + size > len(self.content):
                raise _DamagedFile("a buffer leaves the file")
            self.start, self.size = offset, size


def _tensor(tensor: _Table, buffers: list[_Buffer], seen: set[int]) -> Iterator[Finding]:
    shape, number = tensor.integers(0, most=MOST_AXES), tensor.number(2, "u4")
    kind, name = tensor.number(1, "i1"), tensor.text(3)
    if number >= len(buffers) or any(side < -1 for side in shape):
        raise _DamagedFile(f"the tensor {name!r} has no buffer, or a shape that cannot be")
    if tensor.number(10, "u4"):
        yield Finding("external-data", f"the tensor {name!r} lies in another file")
    buffer, sparse = buffers[number], tensor.has(6)
    # A side that is left open is 1 until somebody asks for more.
    values = prod(max(side, 1) if side else 0 for side in shape)
    declared = (values * _BITS.get(kind, 0) + 7) // 8
    if declared > max(_MAX_TENSOR_BYTES, buffer.size):
        shown = "×".join(str(side) for side in shape)
        yield Finding("size", f"the tensor {name!r} of shape {shown} takes {declared} bytes")
    if buffer.size and declared and not sparse and declared != buffer.size:
        message = f"the tensor {name!r} takes {declared} bytes, {buffer.size} are there"
        yield Finding("damaged", message, hint=COPY_HINT)
    elif buffer.size and kind in _FLOATS and number not in seen:
        seen.add(number)
        width = np.dtype(_FLOATS[kind]).itemsize
        floats = np.frombuffer(buffer.content, _FLOATS[kind], buffer.size // width, buffer.start)
        if np.isnan(floats).any():
            yield Finding("weights", f"the tensor {name!r} holds NaN")


def _operators(subgraph: _Table, codes: int, tensors: int) -> Iterator[int]:
    """The numbers of the graphs that a graph calls; every index on the way is checked."""
    for field in (1, 2):
        if any(not 0 <= index < tensors for index in subgraph.integers(field, most=MOST_ENTRIES)):
            raise _DamagedFile("the graph's inputs or outputs are tensors that are not there")
    for operator in subgraph.tables(3, most=MOST_ENTRIES):
        if operator.number(0, "u4") >= codes:
            raise _DamagedFile("an operation is of a kind that is not there")
        for field in (1, 2, 8):
            # -1 is an input that is left out.
            if any(not -1 <= index < tensors for index in operator.integers(field, most=MOST_ENTRIES)):
                raise _DamagedFile("an operation takes or gives a tensor that is not there")
        offset, size = operator.number(9, "u8"), operator.number(10, "u8")
        if offset + size > len(subgraph.content):
            raise _DamagedFile("the options of an operation leave the file")
        for kind, options, table in ((3, 4, _CALLS), (11, 12, _NEWER_CALLS)):
            fields = table.get(operator.number(kind, "u1"), ())
            given = operator.table(options) if fields else None
            for field in fields if given is not None else ():
                assert given is not None
                yield given.number(field, "i4")


def _calls_itself(calls: list[set[int]]) -> bool:
    """Whether a graph is reached from itself: what is left when those that call nothing are taken away."""
    left = dict(enumerate(calls))
    while True:
        leaves = [number for number, called in left.items() if not called & left.keys()]
        if not leaves:
            return bool(left)
        for number in leaves:
            del left[number]


_FORMATS = {"u1": "<B", "i1": "<b", "u4": "<I", "i4": "<i", "u8": "<Q"}


class _DamagedFile(Exception):
    """An offset or a length that leaves the file."""


@dataclass(frozen=True)
class _Table:
    """One table of a flatbuffer.

    Args:
        content: of the whole file.
        at: where the table starts.
    """

    content: bytes
    at: int

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A scalar field.

        Args:
            field: its place in the schema, counted from 0.
            kind: `u1`, `i1`, `u4`, `i4` or `u8`.
            default: where the file leaves it out.
        """
        place = self._place(field)
        return default if place is None else _read(self.content, place, kind)

    def has(self, field: int) -> bool:
        """Whether the file holds the field."""
        return self._place(field) is not None

    def table(self, field: int) -> _Table | None:
        """A table in a field."""
        place = self._place(field)
        return None if place is None else _Table(self.content, place + _read(self.content, place, "u4"))

    def span(self, field: int, width: int = 1) -> tuple[int, int] | None:
        """Where the vector in a field starts, and how many entries of `width` bytes it has."""
        place = self._place(field)
        if place is None:
            return None
        start = place + _read(self.content, place, "u4")
        count = _read(self.content, start, "u4")
        if start + 4 + count * width > len(self.content):
            raise _DamagedFile(f"a vector of {count} entries leaves the file")
        return start + 4, count

    def tables(self, field: int, *, most: int) -> list[_Table]:
        """The tables in a vector.

        Args:
            most: more than so many are no model.
        """
        start, count = self.span(field, 4) or (0, 0)
        if count > most:
            raise _DamagedFile(f"a list of {count} entries; {most} are the most")
        places = range(start, start + 4 * count, 4)
        return [_Table(self.content, place + _read(self.content, place, "u4")) for place in places]

    def integers(self, field: int, *, most: int) -> tuple[int, ...]:
        """A vector of 32-bit integers."""
        start, count = self.span(field, 4) or (0, 0)
        if count > most:
            raise _DamagedFile(f"a list of {count} numbers; {most} are the most")
        return struct.unpack_from(f"<{count}i", self.content, start)

    def text(self, field: int) -> str:
        """A string, at most 200 characters of it."""
        start, count = self.span(field) or (0, 0)
        return self.content[start : start + min(count, 200)].decode("utf-8", "replace")

    def _place(self, field: int) -> int | None:
        layout = self.at - _read(self.content, self.at, "i4")
        if layout < 0:
            raise _DamagedFile("a table's layout lies before the file")
        size = _read(self.content, layout, "u1") + 256 * _read(self.content, layout + 1, "u1")
        entry = 4 + 2 * field
        if entry + 2 > size:
            return None
        offset = _read(self.content, layout + entry, "u1") + 256 * _read(self.content, layout + entry + 1, "u1")
        return self.at + offset if offset else None


def _read_root(content: bytes) -> _Table:
    """The table that everything else hangs on."""
    return _Table(content, _read(content, 0, "u4"))


def _read(content: bytes, place: int, kind: str) -> int:
    try:
        return struct.unpack_from(_FORMATS[kind], content, place)[0]
    except struct.error:
        raise _DamagedFile("an offset leaves the file") from None
