"""BMP images with a table of colours as PNG: TensorFlow takes the numbers of the colours for grey levels."""

from __future__ import annotations

import struct
import zlib

from kdcli.data.image_header import UnsupportedImageError, read_bmp_palette


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
