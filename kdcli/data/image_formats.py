"""Image file formats: read size and channels from the first bytes; rewrite BMP palettes as PNG."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from kdcli.screening.pointer import POINTER_MESSAGE
from kdcli.screening.pointer import POINTER_PREFIX as POINTER_START

# What files are that hold images of other formats, by their first bytes.
_OTHERS = {
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
_BOXED = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "an HEIC image", b"heix": "an HEIC image"}
_ORIENTATION = 0x0112
# Blue, green and red of a BMP as TensorFlow takes them: bits of 32.
_BGR = (0xFF0000, 0xFF00, 0xFF)


class UnsupportedImageError(Exception):
    """An image in a form that is not read, in words."""


@dataclass(frozen=True)
class ImageHeader:
    """Size in pixels, channels without transparency (1 is grey, 3 is colour), and what needs a word.

    `depth` is the bits of a channel, `rotated` whether EXIF says that the image is to be turned, `palette` whether
    the colours of a BMP are in a table.
    """

    height: int
    width: int
    channels: int
    depth: int = 8
    rotated: bool = False
    palette: bool = False


def read_image_header(content: bytes) -> ImageHeader | None:
    """The header of a JPEG, PNG, GIF, BMP or WebP picture, by its content; None for anything else.

    Raises:
        NotReadError: a form of these formats, or another known format, that is not read.
    """
    for magic, read in _READERS.items():
        if content.startswith(magic):
            try:
                header = read(content)
            except (struct.error, IndexError):
                return None
            return header if header and header.height > 0 and header.width > 0 else None
    other = next((words for magic, words in _OTHERS.items() if content.startswith(magic)), None)
    other = other or (_BOXED.get(content[8:12]) if content[4:8] == b"ftyp" else None)
    if other:
        raise UnsupportedImageError(other)
    return None


def _png(content: bytes) -> ImageHeader | None:
    width, height, depth, colour = struct.unpack_from(">IIBB", content, 16)
    channels = 1 if colour in (0, 4) else 3
    return ImageHeader(height, width, channels, max(depth, 8)) if content[12:16] == b"IHDR" else None


def _gif(content: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", content, 6)
    return ImageHeader(height, width, 3)


def _bmp(content: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", content, 14)
    if size < 40:
        raise UnsupportedImageError("a BMP of OS/2")
    # A negative height only says that the rows come from the top.
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    if compression in (1, 2):
        raise UnsupportedImageError("a BMP with run-length compression")
    if bits not in (1, 4, 8, 24, 32) or (compression == 3 and struct.unpack_from("<III", content, 54) != _BGR):
        raise UnsupportedImageError(f"a BMP of {bits} bits with colours of its own")
    if bits > 8:
        return ImageHeader(abs(height), width, 3)
    colours = read_bmp_palette(content)
    grey = all(blue == green == red for blue, green, red in colours)
    plain = bits == 8 and colours == [(level, level, level) for level in range(len(colours))]
    return ImageHeader(abs(height), width, 1 if grey else 3, palette=not plain)


def read_bmp_palette(content: bytes) -> list[tuple[int, ...]]:
    """The colours in the table of a BMP, as blue, green and red."""
    (size,) = struct.unpack_from("<I", content, 14)
    (bits,) = struct.unpack_from("<H", content, 28)
    (used,) = struct.unpack_from("<I", content, 46)
    count = min(used or 256, 1 << bits)
    return [struct.unpack_from("<BBB", content, 14 + size + 4 * number) for number in range(count)]


def _jpeg(content: bytes) -> ImageHeader | None:
    place, rotated = 2, False
    while content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        (length,) = struct.unpack_from(">H", content, place + 2)
        if marker == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0":
            rotated = _orientation(content[place + 10 : place + 2 + length]) > 1
        # The frame header; C4, C8 and CC are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            depth, height, width, channels = struct.unpack_from(">BHHB", content, place + 4)
            if depth != 8:
                raise UnsupportedImageError(f"a JPEG of {depth} bits a channel")
            return ImageHeader(height, width, 1 if channels == 1 else 3, rotated=rotated)
        place += 2 + length
    return None


def _orientation(exif: bytes) -> int:
    """How an image is to be turned: 1 is not at all."""
    order = "<" if exif.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1


def _webp(content: bytes) -> ImageHeader | None:
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


_READERS = {b"\xff\xd8": _jpeg, b"\x89PNG\r\n\x1a\n": _png, b"GIF8": _gif, b"BM": _bmp, b"RIFF": _webp}


def convert_bmp_to_png(content: bytes) -> bytes:
    """The same image, pixel for pixel: rows from the top, and the table as red, green and blue.

    Raises:
        NotReadError: the file is cut off.
    """
    (start,) = struct.unpack_from("<I", content, 10)
    width, height, _, bits = struct.unpack_from("<iiHH", content, 18)
    used, padded = (width * bits + 7) // 8, (width * bits + 31) // 32 * 4
    places = range(start, start + abs(height) * padded, padded)
    if len(content) < places[-1] + used:
        raise UnsupportedImageError("cut off")
    # A byte before each row says that it is stored as it is.
    rows = b"".join(b"\0" + content[place : place + used] for place in (places[::-1] if height > 0 else places))
    palette = b"".join(bytes(reversed(colour)) for colour in read_bmp_palette(content))
    header = struct.pack(">IIBBBBB", width, abs(height), bits, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette.ljust(3 << bits, b"\0")), (b"IDAT", zlib.compress(rows, 1)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
