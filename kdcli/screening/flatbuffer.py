"""Reads a flatbuffer without leaving it: every offset is checked against the file before it is followed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FORMATS = {"u1": "<B", "i1": "<b", "u4": "<I", "i4": "<i", "u8": "<Q"}


class Broken(Exception):
    """An offset or a length that leaves the file."""


@dataclass(frozen=True)
class Table:
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

    def table(self, field: int) -> Table | None:
        """A table in a field."""
        place = self._place(field)
        return None if place is None else Table(self.content, place + _read(self.content, place, "u4"))

    def span(self, field: int, width: int = 1) -> tuple[int, int] | None:
        """Where the vector in a field starts, and how many entries of `width` bytes it has."""
        place = self._place(field)
        if place is None:
            return None
        start = place + _read(self.content, place, "u4")
        count = _read(self.content, start, "u4")
        if start + 4 + count * width > len(self.content):
            raise Broken(f"a vector of {count} entries leaves the file")
        return start + 4, count

    def tables(self, field: int, *, most: int) -> list[Table]:
        """The tables in a vector.

        Args:
            most: more than so many are no model.
        """
        start, count = self.span(field, 4) or (0, 0)
        if count > most:
            raise Broken(f"a list of {count} entries; {most} are the most")
        places = range(start, start + 4 * count, 4)
        return [Table(self.content, place + _read(self.content, place, "u4")) for place in places]

    def integers(self, field: int, *, most: int) -> tuple[int, ...]:
        """A vector of 32-bit integers."""
        start, count = self.span(field, 4) or (0, 0)
        if count > most:
            raise Broken(f"a list of {count} numbers; {most} are the most")
        return struct.unpack_from(f"<{count}i", self.content, start)

    def text(self, field: int) -> str:
        """A string, at most 200 characters of it."""
        start, count = self.span(field) or (0, 0)
        return self.content[start : start + min(count, 200)].decode("utf-8", "replace")

    def _place(self, field: int) -> int | None:
        layout = self.at - _read(self.content, self.at, "i4")
        if layout < 0:
            raise Broken("a table's layout lies before the file")
        size = _read(self.content, layout, "u1") + 256 * _read(self.content, layout + 1, "u1")
        entry = 4 + 2 * field
        if entry + 2 > size:
            return None
        offset = _read(self.content, layout + entry, "u1") + 256 * _read(self.content, layout + entry + 1, "u1")
        return self.at + offset if offset else None


def root(content: bytes) -> Table:
    """The table that everything else hangs on."""
    return Table(content, _read(content, 0, "u4"))


def _read(content: bytes, place: int, kind: str) -> int:
    try:
        return struct.unpack_from(_FORMATS[kind], content, place)[0]
    except struct.error:
        raise Broken("an offset leaves the file") from None
