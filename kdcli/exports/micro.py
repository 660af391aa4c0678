"""A folder for TensorFlow Lite Micro, which runs on microcontrollers: an 8-bit file, also as C code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from kdcli.exports.litert import Litert
from kdcli.spec import ExportFormat

if TYPE_CHECKING:
    from kdcli.models.keras.served_model import ServedModel
    from kdcli.models.runtimes.micro import MicroRunner

_BYTES_PER_LINE = 12


class Micro(ExportFormat):
    """An `int8` file with integers in and out, and C code that holds it, in the form of TensorFlow Lite Micro.

    The folder holds `NAME.tflite`, `NAME_model_data.h` and `NAME_model_data.cc`.
    """

    extra: ClassVar[str | None] = "micro"
    runtime: ClassVar[str] = "tflite-micro"
    suffix: ClassVar[str] = "_micro"
    batch: ClassVar[int | None] = 1
    # The interpreter on this machine says nothing about the time on a microcontroller.
    is_timed: ClassVar[bool] = False

    kind: Literal["micro"] = "micro"

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations have 8 bits."""
        return True

    def find_file(self, path: Path) -> Path:
        """The `.tflite` file in the folder."""
        return path / f"{path.name.removesuffix(self.suffix)}.tflite"

    def write(self, serving: ServedModel, path: Path) -> None:
        """Write the folder.

        Raises:
            ModelError: an operation that LiteRT does not support.
        """
        path.mkdir()
        file = self.find_file(path)
        Litert(quantize="int8", io="int8").write(serving, file)
        self._write_code(path)

    def copy_to(self, path: Path, target: Path) -> None:
        """Copy the file, and write its C code with the new name."""
        target.mkdir()
        shutil.copyfile(self.find_file(path), self.find_file(target))
        self._write_code(target)

    def _write_code(self, path: Path) -> None:
        file = self.find_file(path)
        name, content = re.sub(r"\W", "_", file.stem), file.read_bytes()
        (path / f"{name}_model_data.h").write_text(_render_header(name, len(content)), "utf-8")
        (path / f"{name}_model_data.cc").write_text(_render_source(name, content), "utf-8")

    def open(self, path: Path, *, threads: int | None = None) -> MicroRunner:
        """Open the file in the interpreter of TensorFlow Lite Micro, with the smallest memory that it runs in."""
        from kdcli.models.runtimes.micro import open_micro

        del threads
        return open_micro(self.find_file(path), name=path.name)


def _render_header(name: str, size: int) -> str:
    return (
        "#include <cstdint>\n\n"
        f"constexpr unsigned int g_{name}_model_data_size = {size};\n"
        f"extern const unsigned char g_{name}_model_data[];\n"
    )


def _render_source(name: str, content: bytes) -> str:
    lines = [
        ", ".join(f"0x{byte:02x}" for byte in content[start : start + _BYTES_PER_LINE])
        for start in range(0, len(content), _BYTES_PER_LINE)
    ]
    body = ",\n    ".join(lines)
    return (
        "#include <cstdint>\n\n"
        f'#include "{name}_model_data.h"\n\n'
        f"alignas(16) const unsigned char g_{name}_model_data[] = {{\n    {body}}};\n"
    )
