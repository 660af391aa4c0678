"""The child process that reads an untrusted HDF5 file: the HDF5 library may crash on damaged files.

The request is one line of JSON on standard input, the result one line of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from io import BytesIO
from typing import IO, Any

from kdcli.errors import summarize_error
from kdcli.screening.keras.hdf5_walk import Refusal, Walk
from kdcli.screening.process_limits import limit_process

UNREADABLE = "unreadable"


class _FilePart:
    """A part of a file as a file object: uncompressed weights in an archive."""

    def __init__(self, file: IO[bytes], *, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        most = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:most])  # type: ignore[attr-defined]
        self._position += count
        return int(count)

    def read(self, size: int = -1) -> bytes:
        content = bytearray(self._size - self._position if size < 0 else size)
        return bytes(content[: self.readinto(memoryview(content))])


def describe_hdf5(request: dict[str, Any]) -> dict[str, Any]:
    """Read an HDF5 file.

    Args:
        request: `path`, and either the `start` and `size` of the HDF5 file in it or the `member` of an archive.

    Returns:
        `faults` (rule and message), `values` (number of values), `config` (the model's configuration or None).
    """
    import h5py

    with open(request["path"], "rb") as opened:
        if request["member"] is not None:
            with zipfile.ZipFile(opened) as archive:
                content: Any = BytesIO(archive.read(request["member"]))
        else:
            content = _FilePart(opened, start=request["start"], size=request["size"])
        try:
            with h5py.File(content, "r") as file:
                walk = Walk(file, size=request["size"])
                try:
                    walk.run()
                except Refusal as refusal:
                    walk.faults.append(refusal)
        # For damaged files the library raises errors of many types.
        except Exception as error:
            reason = summarize_error(error)
            cut = "truncated file" in reason
            message = "the file is truncated" if cut else f"the file cannot be read: {reason[:150]}"
            return {"faults": [[UNREADABLE, message]], "values": 0, "config": None}
    faults = [[fault.rule, str(fault)] for fault in walk.faults]
    return {"faults": faults, "values": walk.values, "config": walk.config}


if __name__ == "__main__":
    # Native code may write to standard output, so the result gets its own descriptor.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    limit_process(memory=request["memory"], cpu_seconds=request["seconds"])
    json.dump(describe_hdf5(request), channel)
    channel.close()
