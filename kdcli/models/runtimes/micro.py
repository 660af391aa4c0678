"""A file in the interpreter of TensorFlow Lite Micro, with the smallest tensor arena in which it runs."""

from __future__ import annotations

from pathlib import Path

from kdcli.errors import ModelError
from kdcli.models.runtimes.child_process import FileRunner

# The smallest arena is found to within this number of bytes; the runtime aligns its parts to 16.
_STEP_BYTES = 64
_FIRST_BYTES, _LARGEST_BYTES = 4096, 64_000_000


class MicroRunner(FileRunner):
    """Runs a file in the interpreter of TensorFlow Lite Micro.

    Args:
        path: the `.tflite` file.
        arena: bytes of its tensor arena.
        name: name of the file in messages.

    Raises:
        ModelError: the arena is too small, the runtime lacks an operation, or the package is missing.
    """

    def __init__(self, path: Path, *, arena: int, name: str) -> None:
        self.arena_bytes = arena
        super().__init__(path, form="micro", threads=1, name=name, options={"arena": arena})


def open_micro(path: Path, *, name: str) -> MicroRunner:
    """Open a file with the smallest tensor arena in which it runs.

    A process is started for each size that is tried: the interpreter crashes where the arena is too small.

    Args:
        path: the `.tflite` file.
        name: name of the file in messages.

    Raises:
        ModelError: the runtime lacks an operation, or the file does not run in 64 MB.
    """
    enough = _FIRST_BYTES
    while not _runs(path, enough, name):
        if enough == _LARGEST_BYTES:
            raise ModelError(f"{name}: TensorFlow Lite Micro cannot run it in a {_LARGEST_BYTES:,}-byte arena")
        enough = min(2 * enough, _LARGEST_BYTES)
    too_small = enough // 2 if enough > _FIRST_BYTES else 0
    while enough - too_small > _STEP_BYTES:
        middle = (enough + too_small) // 2 // _STEP_BYTES * _STEP_BYTES
        if middle <= too_small:
            break
        if _runs(path, middle, name):
            enough = middle
        else:
            too_small = middle
    return MicroRunner(path, arena=enough, name=name)


def _runs(path: Path, arena: int, name: str) -> bool:
    try:
        MicroRunner(path, arena=arena, name=name).close()
    except ModelError as error:
        if "has no operation" in error.message:
            raise
        return False
    return True
