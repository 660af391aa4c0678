"""Screening of `.tflite` files: a flatbuffer reader that checks every offset, and the rules for a model in it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np

from kdcli.screening.verdict import COPY_HINT, MAX_FINDINGS, Finding, Verdict

_IDENTIFIER = b"TFL3"
# Far more than real models have.
_MAX_BYTES, _MAX_ENTRIES, _MAX_AXES = 8_000_000_000, 200_000, 16
# For an activation of one example; constants are stored in the file, whose size bounds them.
_MAX_TENSOR_BYTES = 500_000_000
_CUSTOM_HINT = "convert the model without custom operations, or give kd the model it was converted from"
# Operator codes: the custom operation, those that LiteRT does not implement itself, and the last known one.
_CUSTOM, _LAST_OPERATION = 32, 209
_FORBIDDEN = {51: "DELEGATE", 173: "STABLEHLO_CUSTOM_CALL", 127: "PLACEHOLDER"}
# Bits per value by type number; other types have no fixed size.
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128}
_BITS |= {12: 64, 15: 32, 16: 16, 17: 4, 18: 16, 19: 2, 20: 4, 21: 8, 22: 8}
_FLOATS = {0: np.float32, 1: np.float16, 10: np.float64}
# Fields that hold subgraph numbers, by the type number of an operator's options, in both versions of the options.
_CALLS = {16: (0,), 92: (0, 1), 93: (0, 1), 103: (0,)}
_NEWER_CALLS = {6: (1,), 7: (6,), 13: (5,), 14: (2,), 15: (0, 1), 21: (1,)}


def screen_litert(path: Path) -> Verdict:
    """Screen a `.tflite` file.

    Refuses custom operations and those of other libraries (Flex), buffers in other files, tensors that the file
    cannot fill or that are too large for memory, subgraphs that call themselves, weights that are NaN, and offsets
    outside the file.

    Args:
        path: a private copy of the file.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        return Verdict((Finding("size", f"the file has {size:,} bytes (at most {_MAX_BYTES:,})"),))
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        return Verdict((Finding("damaged", f"the identifier {_IDENTIFIER.decode()} is missing", hint=COPY_HINT),))
    findings: list[Finding] = []
    try:
        for finding in islice(_check_model(_read_root(content)), MAX_FINDINGS):
            findings.append(finding)
    except _DamagedFile as error:
        findings.append(Finding("damaged", str(error), hint=COPY_HINT))
    return Verdict(tuple(findings))


def _check_model(model: _Table) -> Iterator[Finding]:
    if model.has(8) or model.has(9):
        yield Finding("external-data", "the buffers are stored in other files")
    codes = model.tables(1, most=_MAX_ENTRIES)
    for code in codes:
        yield from _check_operation(code, max(code.number(0, "i1"), code.number(3, "i4")))
    buffers = [_Buffer(table) for table in model.tables(4, most=_MAX_ENTRIES)]
    subgraphs = model.tables(2, most=_MAX_ENTRIES)
    if not subgraphs:
        raise _DamagedFile("the model has no subgraph")
    calls: dict[int, set[int]] = {}
    checked: set[int] = set()
    for number, subgraph in enumerate(subgraphs):
        tensors = subgraph.tables(0, most=_MAX_ENTRIES)
        for tensor in tensors:
            yield from _check_tensor(tensor, buffers, checked)
        calls[number] = set(_called_subgraphs(subgraph, codes=len(codes), tensors=len(tensors)))
        if any(not 0 <= called < len(subgraphs) for called in calls[number]):
            raise _DamagedFile("an operation calls a subgraph that does not exist")
    if _has_cycle(calls):
        yield Finding("recursion", "a subgraph calls itself")


def _check_operation(code: _Table, operation: int) -> Iterator[Finding]:
    if operation == _CUSTOM:
        name = code.text(1) or "?"
        origin = "TensorFlow" if name.startswith("Flex") else "custom"
        yield Finding("operation", f"the {origin} operation {name!r} is not part of LiteRT", hint=_CUSTOM_HINT)
    elif operation in _FORBIDDEN or not 0 <= operation <= _LAST_OPERATION:
        name = _FORBIDDEN.get(operation, f"number {operation}")
        yield Finding("operation", f"the operation {name} is not supported")


class _Buffer:
    """The position of a constant's bytes."""

    def __init__(self, table: _Table) -> None:
        self.content = table.content
        self.start, self.size = table.span(0) or (0, 0)
        offset, size = table.number(1, "u8"), table.number(2, "u8")
        # Large files store constants behind the flatbuffer; 0 and 1 mean that this constant is inside it.
        if offset > 1:
            if offset + size > len(self.content):
                raise _DamagedFile("a buffer extends past the end of the file")
            self.start, self.size = offset, size


def _check_tensor(tensor: _Table, buffers: list[_Buffer], checked: set[int]) -> Iterator[Finding]:
    """Check the size and the values of a tensor; `checked` holds the buffers whose values were checked before."""
    shape, number = tensor.integers(0, most=_MAX_AXES), tensor.number(2, "u4")
    kind, name = tensor.number(1, "i1"), tensor.text(3)
    if number >= len(buffers) or any(side < -1 for side in shape):
        raise _DamagedFile(f"the tensor {name!r} has no buffer, or an invalid shape")
    if tensor.number(10, "u4"):
        yield Finding("external-data", f"the tensor {name!r} is stored in another file")
    buffer, sparse = buffers[number], tensor.has(6)
    # A dynamic axis has length 1 until the model is resized.
    values = prod(max(side, 1) if side else 0 for side in shape)
    declared = (values * _BITS.get(kind, 0) + 7) // 8
    if declared > max(_MAX_TENSOR_BYTES, buffer.size):
        sides = "×".join(str(side) for side in shape)
        most = f"at most {_MAX_TENSOR_BYTES:,}"
        yield Finding("size", f"the tensor {name!r} of shape {sides} needs {declared:,} bytes ({most})")
    if buffer.size and declared and not sparse and declared != buffer.size:
        message = f"the tensor {name!r} needs {declared:,} bytes, its buffer has {buffer.size:,}"
        yield Finding("damaged", message, hint=COPY_HINT)
    elif buffer.size and kind in _FLOATS and number not in checked:
        checked.add(number)
        width = np.dtype(_FLOATS[kind]).itemsize
        floats = np.frombuffer(buffer.content, _FLOATS[kind], buffer.size // width, buffer.start)
        if np.isnan(floats).any():
            yield Finding("weights", f"the tensor {name!r} contains NaN")


def _called_subgraphs(subgraph: _Table, *, codes: int, tensors: int) -> Iterator[int]:
    """The numbers of the subgraphs that a subgraph calls; checks every index in its operators on the way."""
    for field in (1, 2):
        if any(not 0 <= index < tensors for index in subgraph.integers(field, most=_MAX_ENTRIES)):
            raise _DamagedFile("the inputs or outputs of a subgraph name a tensor that does not exist")
    for operator in subgraph.tables(3, most=_MAX_ENTRIES):
        if operator.number(0, "u4") >= codes:
            raise _DamagedFile("an operation has an operator code that does not exist")
        for field in (1, 2, 8):
            # -1 is an omitted optional input.
            if any(not -1 <= index < tensors for index in operator.integers(field, most=_MAX_ENTRIES)):
                raise _DamagedFile("an operation reads or writes a tensor that does not exist")
        offset, size = operator.number(9, "u8"), operator.number(10, "u8")
        if offset + size > len(subgraph.content):
            raise _DamagedFile("the options of an operation extend past the end of the file")
        for kind, options, table in ((3, 4, _CALLS), (11, 12, _NEWER_CALLS)):
            fields = table.get(operator.number(kind, "u1"), ())
            if fields and (values := operator.table(options)) is not None:
                yield from (values.number(field, "i4") for field in fields)


def _has_cycle(calls: Mapping[int, set[int]]) -> bool:
    try:
        TopologicalSorter(calls).prepare()
    except CycleError:
        return True
    return False


_FORMATS = {"u1": "<B", "i1": "<b", "u2": "<H", "u4": "<I", "i4": "<i", "u8": "<Q"}


class _DamagedFile(Exception):
    """An offset, length or number in the file that is not valid."""


@dataclass(frozen=True)
class _Table:
    """One table of a flatbuffer; fields are counted from 0 in the order of the schema.

    Args:
        content: bytes of the whole file.
        start: offset of the table.
    """

    content: bytes
    start: int

    def number(self, field: int, kind: str) -> int:
        """A scalar field of the type `u1`, `i1`, `u4`, `i4` or `u8`; 0 if the file omits it."""
        position = self._position(field)
        return 0 if position is None else _read(self.content, position, kind)

    def has(self, field: int) -> bool:
        """Whether the file contains the field."""
        return self._position(field) is not None

    def table(self, field: int) -> _Table | None:
        """The table in a field, or None."""
        position = self._position(field)
        return None if position is None else _Table(self.content, position + _read(self.content, position, "u4"))

    def span(self, field: int, width: int = 1) -> tuple[int, int] | None:
        """Offset and number of entries of the vector in a field; `width` is the size of an entry in bytes."""
        position = self._position(field)
        if position is None:
            return None
        start = position + _read(self.content, position, "u4")
        count = _read(self.content, start, "u4")
        if start + 4 + count * width > len(self.content):
            raise _DamagedFile(f"a vector of {count:,} entries extends past the end of the file")
        return start + 4, count

    def tables(self, field: int, *, most: int) -> list[_Table]:
        """The tables in a vector of at most `most` entries."""
        start, count = self._limited_span(field, most)
        positions = range(start, start + 4 * count, 4)
        return [_Table(self.content, position + _read(self.content, position, "u4")) for position in positions]

    def integers(self, field: int, *, most: int) -> tuple[int, ...]:
        """A vector of at most `most` 32-bit integers."""
        start, count = self._limited_span(field, most)
        return struct.unpack_from(f"<{count}i", self.content, start)

    def text(self, field: int) -> str:
        """The first 200 characters of a string."""
        start, count = self.span(field) or (0, 0)
        return self.content[start : start + min(count, 200)].decode("utf-8", "replace")

    def _limited_span(self, field: int, most: int) -> tuple[int, int]:
        start, count = self.span(field, 4) or (0, 0)
        if count > most:
            raise _DamagedFile(f"a vector of {count:,} entries (at most {most:,})")
        return start, count

    def _position(self, field: int) -> int | None:
        layout = self.start - _read(self.content, self.start, "i4")
        if layout < 0:
            raise _DamagedFile("the layout of a table starts before the file")
        entry = 4 + 2 * field
        if entry + 2 > _read(self.content, layout, "u2"):
            return None
        offset = _read(self.content, layout + entry, "u2")
        return self.start + offset if offset else None


def _read_root(content: bytes) -> _Table:
    """The root table, which refers to everything else."""
    return _Table(content, _read(content, 0, "u4"))


def _read(content: bytes, position: int, kind: str) -> int:
    try:
        return struct.unpack_from(_FORMATS[kind], content, position)[0]
    except struct.error:
        raise _DamagedFile("an offset points outside the file") from None
