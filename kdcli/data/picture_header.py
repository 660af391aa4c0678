"""What a picture says about itself in its first bytes: size and colours, without decoding it."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """Size in pixels, and channels without transparency: 1 is grey, 3 is colour."""

    height: int
    width: int
    channels: int


def read_header(content: bytes) -> Header | None:
    """The header of a JPEG, PNG, GIF, BMP or WebP picture, by its content; None for anything else."""
    for magic, read in _READERS.items():
        if content.startswith(magic):
            try:
                header = read(content)
            except (struct.error, IndexError):
                return None
            return header if header and header.height > 0 and header.width > 0 else None
    return None


def _png(content: bytes) -> Header | None:
    width, height, _, colour = struct.unpack_from(">IIBB", content, 16)
    return Header(height, width, 1 if colour in (0, 4) else 3) if content[12:16] == b"IHDR" else None


def _gif(content: bytes) -> Header:
    width, height = struct.unpack_from("<HH", content, 6)
    return Header(height, width, 3)


def _bmp(content: bytes) -> Header:
    # A negative height only says that the rows come from the top.
    width, height, _, bits = struct.unpack_from("<iiHH", content, 18)
    return Header(abs(height), width, 1 if bits == 8 else 3)


def _jpeg(content: bytes) -> Header | None:
    place = 2
    while content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        # The frame header; C4, C8 and CC are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = struct.unpack_from(">HHB", content, place + 5)
            return Header(height, width, 1 if channels == 1 else 3)
        place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return None


def _webp(content: bytes) -> Header | None:
    form = content[8:16]
    if form == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return Header(height & 0x3FFF, width & 0x3FFF, 3)
    if form == b"WEBPVP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return Header((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 3)
    if form == b"WEBPVP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
        return Header(height, width, 3)
    return None


_READERS = {b"\xff\xd8": _jpeg, b"\x89PNG\r\n\x1a\n": _png, b"GIF8": _gif, b"BM": _bmp, b"RIFF": _webp}
