"""A folder for the browser: an int8 file and a page that runs it with LiteRT.js, without a connection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdcli.errors import ModelError, UsageError
from kdcli.exports.litert import Litert
from kdcli.spec import ExportFormat

if TYPE_CHECKING:
    from kdcli.models.keras.served_model import ServedModel
    from kdcli.models.runtimes.child_process import FileRunner

FILE, DESCRIPTION = "model.tflite", "model.json"
_PAGE = Path(__file__).parent / "web_page"
_PACKAGES = Path("node_modules") / "@litertjs"
# What the page loads of the runtime.
_RUNTIME_FILES = ("core/dist/index.js", "wasm-utils/dist/index.js")
_RUNTIME_FOLDER = "core/wasm"
_INSTALL = "npm install @litertjs/core"


class Web(ExportFormat):
    """A folder with `model.tflite` (bytes or floats in, floats out, 8 bits inside), `index.html` and its scripts.

    Args:
        modules: a `node_modules` folder with `@litertjs/core`, which is copied into the folder. Without it,
            `npm install @litertjs/core` in the folder adds the runtime.
    """

    extra: ClassVar[str | None] = "litert"
    runtime: ClassVar[str] = "litert"
    suffix: ClassVar[str] = "_web"
    batch: ClassVar[int | None] = 1
    # LiteRT on this machine says little about a browser; the page shows its own latency.
    is_timed: ClassVar[bool] = False

    kind: Literal["web"] = "web"
    modules: str | None = None

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations have 8 bits."""
        return True

    def find_file(self, path: Path) -> Path:
        """The `.tflite` file in the folder."""
        return path / FILE

    def write(self, serving: ServedModel, path: Path) -> None:
        """Write the folder.

        Raises:
            ModelError: an operation that LiteRT does not support, or a runtime that cannot be read.
        """
        path.mkdir()
        Litert(quantize="int8").write(serving, path / FILE)
        for file in _PAGE.iterdir():
            shutil.copyfile(file, path / file.name)
        _update_description(
            path,
            name=path.name.removesuffix(self.suffix),
            file=FILE,
            bytes=(path / FILE).stat().st_size,
            shape=list(serving.shape),
            dtype="uint8" if serving.takes_bytes else "float32",
            image=serving.takes_bytes and serving.preprocessing.is_image,
            fit=serving.preprocessing.fit,
            outputs=serving.output_kind,
            labels=[],
        )
        if self.modules is not None:
            _copy_runtime(find_runtime(Path(self.modules)), path / _PACKAGES)

    def copy_to(self, path: Path, target: Path) -> None:
        """Copy the folder; the page shows the new name."""
        shutil.copytree(path, target)
        _update_description(target, name=target.name.removesuffix(self.suffix))

    def add_labels(self, path: Path, names: tuple[str, ...]) -> None:
        """Write the class names into the folder, for the page."""
        _update_description(path, labels=list(names))

    def open(self, path: Path, *, threads: int | None = None) -> FileRunner:
        """Open the file with LiteRT, in a process of its own."""
        from kdcli.models.runtimes.child_process import FileRunner

        return FileRunner(self.find_file(path), form="tflite", name=path.name, threads=threads)


def _update_description(path: Path, **entries: Any) -> None:
    """Write entries into the description that the page reads; others stay."""
    file = path / DESCRIPTION
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**known, **entries}, indent=2) + "\n", "utf-8")


def find_runtime(folder: Path) -> Path:
    """The folder of the runtime's packages: that folder itself, or `@litertjs` in it or in its `node_modules`.

    Raises:
        UsageError: it is not there, or a part of it is missing.
    """
    for found in (folder, folder / "@litertjs", folder / _PACKAGES):
        if all((found / name).is_file() for name in _RUNTIME_FILES) and any(
            (found / _RUNTIME_FOLDER).glob("*.wasm")
        ):
            return found
    raise UsageError(
        f"--web-runtime {folder}: there is no LiteRT.js (expected @litertjs/core and @litertjs/wasm-utils)",
        hint=f"{_INSTALL}, then --web-runtime node_modules",
    )


def _copy_runtime(source: Path, target: Path) -> None:
    try:
        for name in _RUNTIME_FILES:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
        shutil.copytree(source / _RUNTIME_FOLDER, target / _RUNTIME_FOLDER)
    except OSError as error:
        raise ModelError(f"--web-runtime {source}: {error.strerror}: {error.filename}") from error
