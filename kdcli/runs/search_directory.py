"""A search on disk: its record, its candidates with their runs, and the files that come out of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.exports import EXPORT_FORMATS
from kdcli.runs import writer
from kdcli.runs.export_results import INTERFACE_FILE, LABELS_FILE
from kdcli.runs.shared_directory import SharedDirectory, read_json_object

REPORT_FILE, TABLES_FILE, RECORD_FILE = "compress.json", "compress.md", "search.json"
# The model that comes out, without its suffix; where no file meets the targets, the nearest one.
MODEL_STEM, NEAREST_FOLDER = "model", "nearest"
_CANDIDATES_FOLDER, _RUN_FOLDER, _START_FILE = "candidates", "run", "start.keras"
# The larger student that is trained before a candidate is made from it.
_LARGER_FOLDER, _LARGER_FILE = "larger", "larger.keras"


class SearchDirectory(SharedDirectory):
    """The directory of a search."""

    content = "search"
    command = "compress"
    files = (REPORT_FILE, TABLES_FILE, RECORD_FILE)

    report = property(lambda self: self.path / REPORT_FILE)
    tables = property(lambda self: self.path / TABLES_FILE)
    nearest = property(lambda self: self.path / NEAREST_FOLDER)

    def run_of(self, name: str, *, seed: int | None = None) -> Path:
        """The run directory of a candidate; further repeats have one for each seed."""
        return self.path / _CANDIDATES_FOLDER / name / (_RUN_FOLDER if seed is None else f"seed-{seed}")

    def start_of(self, name: str) -> Path:
        """The untrained student of a candidate."""
        return self.path / _CANDIDATES_FOLDER / name / _START_FILE

    def larger_run_of(self, name: str) -> Path:
        """The run of the larger student from which a candidate is made."""
        return self.path / _CANDIDATES_FOLDER / name / _LARGER_FOLDER

    def quantized_run_of(self, run: Path) -> Path:
        """The run of the quantization-aware training that follows a run."""
        return run.with_name(f"{run.name}-int8")

    def read_record(self) -> dict[str, Any]:
        """What was measured and decided so far; empty before."""
        return read_json_object(self.path / RECORD_FILE)

    def write_record(self, record: dict[str, Any]) -> None:
        """Write what was measured and decided, before it is used."""
        writer.write_text(self.path / RECORD_FILE, json.dumps(record, indent=2) + "\n")

    def write_start(self, name: str, content: bytes, *, larger: bool = False) -> Path:
        """Write the untrained student of a candidate, or the larger one that is trained before."""
        path = self.start_of(name).with_name(_LARGER_FILE) if larger else self.start_of(name)
        writer.make_folder(path.parent)
        writer.write_bytes(path, content)
        return path

    def read_outputs(self, name: str, rung: int, *, seed: int | None = None) -> np.ndarray | None:
        """The outputs of a candidate on the validation split after a rung; None before it is finished."""
        path = self._outputs_file(name, rung, seed)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content["outputs"])

    def write_outputs(self, name: str, rung: int, outputs: np.ndarray, *, seed: int | None = None) -> None:
        """Write the outputs of a candidate on the validation split after a rung."""
        file = io.BytesIO()
        np.savez(file, outputs=outputs)
        writer.write_bytes(self._outputs_file(name, rung, seed), file.getvalue())

    def _outputs_file(self, name: str, rung: int, seed: int | None) -> Path:
        suffix = "" if seed is None else f"-seed-{seed}"
        return self.path / _CANDIDATES_FOLDER / name / f"rung-{rung}{suffix}.npz"

    def _is_own_file(self, file: Path) -> bool:
        parts = file.parts
        if parts[0] == NEAREST_FOLDER:
            file = Path(*parts[1:])
            parts = file.parts
        models = [f"{MODEL_STEM}{form.suffix}" for form in EXPORT_FORMATS.values()]
        if len(parts) == 1:
            return file.name in (*self.files, *models, LABELS_FILE, INTERFACE_FILE)
        if parts[0] in models:
            return True
        own = parts[-1] in (_START_FILE, _LARGER_FILE) or (
            parts[-1].startswith("rung-") and parts[-1].endswith(".npz")
        )
        return parts[0] == _CANDIDATES_FOLDER and len(parts) == 3 and own
