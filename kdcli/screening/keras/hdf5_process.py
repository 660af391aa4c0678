"""The child process that reads a stranger's HDF5 file: its library is not safe with damaged ones and may end.

The request is one line of JSON on standard input, the answer one on standard output.
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


class Part:
    """A stretch of a file as a file of its own: weights that lie uncompressed in an archive."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the start (0), from here (1) or from the end (2)."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """Where reading goes on."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as there is something."""
        wanted = max(0, min(len(buffer), self._size - self._place))
        self._file.seek(self._start + self._place)
        count = self._file.readinto(memoryview(buffer)[:wanted])  # type: ignore[attr-defined]
        self._place += count
        return int(count)

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all that is left."""
        content = bytearray(self._size - self._place if size < 0 else size)
        return bytes(content[: self.readinto(memoryview(content))])


def describe_hdf5(request: dict[str, Any]) -> dict[str, Any]:
    """What lies in a file.

    Args:
        request: `path`; `start` and `size` of the file's part, or the `member` of an archive that is unpacked.

    Returns:
        `faults` (rule and message), `values` (how many numbers), `config` (the model's, or None).
    """
    import h5py

    with open(request["path"], "rb") as opened:
        if request["member"] is not None:
            with zipfile.ZipFile(opened) as archive:
                content: Any = BytesIO(archive.read(request["member"]))
        else:
            content = Part(opened, request["start"], request["size"])
        try:
            with h5py.File(content, "r") as file:
                walk = Walk(file, request["size"])
                try:
                    walk.go()
                except Refusal as refusal:
                    walk.faults.append(refusal)
        # The library's errors for damaged files have every type.
        except Exception as error:
            reason = summarize_error(error)
            said = "its end is missing" if "truncated file" in reason else f"it does not read: {reason[:150]}"
            return {"faults": [[UNREADABLE, said]], "values": 0, "config": None}
    faults = [[fault.rule, str(fault)] for fault in walk.faults]
    return {"faults": faults, "values": walk.values, "config": walk.config}


if __name__ == "__main__":
    # Native code writes to standard output as it likes: the channel gets a descriptor of its own.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.readline())
    limit_process(memory=asked["memory"], cpu_seconds=asked["seconds"])
    json.dump(describe_hdf5(asked), channel)
    channel.close()
