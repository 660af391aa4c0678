"""Image file formats: read size and channels from the first bytes; convert BMP palettes to PNG."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from kdcli.screening.pointer import POINTER_MESSAGE
from kdcli.screening.pointer import POINTER_PREFIX as POINTER_START

# Formats that kd does not read, by the first bytes of the file.
_UNSUPPORTED = {
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\0\0\0\x0cjP": "a JPEG 2000 image",
    b"8BPS": "a Photoshop image",
    b"<svg": "an SVG image",
    b"<?xml": "an XML file",
    b"<!DOC": "a web page",
    b"<html": "a web page",
    POINTER_START: POINTER_MESSAGE,
}
_UNSUPPORTED_BOXES = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "an HEIC image",
    b"heix": "an HEIC image",
}
_ORIENTATION_TAG = 0x0112
# Bit masks of blue, green and red in a 32-bit BMP, in the order that TensorFlow expects.
_BGR_MASKS = (0xFF0000, 0xFF00, 0xFF)


class UnsupportedImageError(Exception):
    """An image that kd does not read; the message names its format or its fault."""


@dataclass(frozen=True)
class ImageHeader:
    """Properties of an image that its first bytes define.

    Args:
        height, width: size in pixels.
        channels: 1 (grey) or 3 (colour); transparency is not counted.
        depth: bits per channel.
        rotated: whether EXIF gives a rotation.
        palette: whether a BMP stores its colours in a palette.
    """

    height: int
    width: int
    channels: int
    depth: int = 8
    rotated: bool = False
    palette: bool = False


def read_image_header(content: bytes) -> ImageHeader | None:
    """Read the header of a JPEG, PNG, GIF, BMP or WebP image; None for any other content.

    Raises:
        UnsupportedImageError: an unsupported variant of these formats, or another known format.
    """
    for magic, read in _READERS.items():
        if content.startswith(magic):
            try:
                header = read(content)
            except (struct.error, IndexError):
                return None
            return header if header and header.height > 0 and header.width > 0 else None
    other = next((name for magic, name in _UNSUPPORTED.items() if content.startswith(magic)), None)
    other = other or (_UNSUPPORTED_BOXES.get(content[8:12]) if content[4:8] == b"ftyp" else None)
    if other:
        raise UnsupportedImageError(other)
    return None


def _read_png(content: bytes) -> ImageHeader | None:
    width, height, depth, colour = struct.unpack_from(">IIBB", content, 16)
    channels = 1 if colour in (0, 4) else 3
    return ImageHeader(height, width, channels, max(depth, 8)) if content[12:16] == b"IHDR" else None


def _read_gif(content: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", content, 6)
    return ImageHeader(height, width, 3)


def _read_bmp(content: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", content, 14)
    if size < 40:
        raise UnsupportedImageError("an OS/2 BMP image")
    # A negative height means that the rows are stored from the top.
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    if compression in (1, 2):
        raise UnsupportedImageError("a BMP image with run-length compression")
    if bits not in (1, 4, 8, 24, 32) or (
        compression == 3 and struct.unpack_from("<III", content, 54) != _BGR_MASKS
    ):
        raise UnsupportedImageError(f"a BMP image with {bits} bits per pixel and custom colour masks")
    if bits > 8:
        return ImageHeader(abs(height), width, 3)
    colours = _read_bmp_palette(content)
    grey = all(blue == green == red for blue, green, red in colours)
    plain = bits == 8 and colours == [(level, level, level) for level in range(len(colours))]
    return ImageHeader(abs(height), width, 1 if grey else 3, palette=not plain)


def _read_bmp_palette(content: bytes) -> list[tuple[int, ...]]:
    """Read the colours in the palette of a BMP, as (blue, green, red)."""
    (size,) = struct.unpack_from("<I", content, 14)
    (bits,) = struct.unpack_from("<H", content, 28)
    (used,) = struct.unpack_from("<I", content, 46)
    count = min(used or 256, 1 << bits)
    return [struct.unpack_from("<BBB", content, 14 + size + 4 * number) for number in range(count)]


def _read_jpeg(content: bytes) -> ImageHeader | None:
    offset, rotated = 2, False
    while content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        (length,) = struct.unpack_from(">H", content, offset + 2)
        if marker == 0xE1 and content[offset + 4 : offset + 10] == b"Exif\0\0":
            rotated = _read_orientation(content[offset + 10 : offset + 2 + length]) > 1
        # C0 to CF are frame headers, except for the tables C4, C8 and CC.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            depth, height, width, channels = struct.unpack_from(">BHHB", content, offset + 4)
            if depth != 8:
                raise UnsupportedImageError(f"a JPEG image with {depth} bits per channel")
            return ImageHeader(height, width, 1 if channels == 1 else 3, rotated=rotated)
        offset += 2 + length
    return None


def _read_orientation(exif: bytes) -> int:
    """Read the orientation of an image; 1 means that it is not rotated."""
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION_TAG:
                return int(value)
    except struct.error:
        pass
    return 1


def _read_webp(content: bytes) -> ImageHeader | None:
    form = content[8:16]
    if form == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return ImageHeader(height & 0x3FFF, width & 0x3FFF, 3)
    if form == b"WEBPVP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return ImageHeader((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 3)
    if form == b"WEBPVP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
        return ImageHeader(height, width, 3)
    return None


_READERS = {
    b"\xff\xd8": _read_jpeg,
    b"\x89PNG\r\n\x1a\n": _read_png,
    b"GIF8": _read_gif,
    b"BM": _read_bmp,
    b"RIFF": _read_webp,
}


def convert_bmp_to_png(content: bytes) -> bytes:
    """Convert a BMP with a palette to a PNG with the same pixels; TensorFlow would read palette indices as grey.

    Raises:
        UnsupportedImageError: the file is truncated.
    """
    (start,) = struct.unpack_from("<I", content, 10)
    width, height, _, bits = struct.unpack_from("<iiHH", content, 18)
    row_bytes, padded_bytes = (width * bits + 7) // 8, (width * bits + 31) // 32 * 4
    offsets = range(start, start + abs(height) * padded_bytes, padded_bytes)
    if len(content) < offsets[-1] + row_bytes:
        raise UnsupportedImageError("truncated")
    # The byte 0 before each row is the PNG filter "none".
    ordered = offsets[::-1] if height > 0 else offsets
    rows = b"".join(b"\0" + content[offset : offset + row_bytes] for offset in ordered)
    palette = b"".join(bytes(reversed(colour)) for colour in _read_bmp_palette(content))
    header = struct.pack(">IIBBBBB", width, abs(height), bits, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.ljust(3 << bits, b"\0")), (b"IDAT", zlib.compress(rows, 1)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_format_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def _format_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
