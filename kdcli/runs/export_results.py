"""The frozen results of an export and their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path

LABELS_FILE, INTERFACE_FILE = "labels.txt", "input.json"


@dataclass(frozen=True)
class ExportInterface:
    """The input and output of an exported file: an entry of `input.json`.

    Args:
        shape: shape of one example, without the batch axis.
        dtype: dtype of the input array.
        range: minimum and maximum of the input, if the data determines them.
        batch: the only batch size; None if any is accepted.
        prepare: `inside` (the file takes raw examples) or `outside` (it takes preprocessed examples).
        scale, resize, fit: preprocessing of raw examples.
        quantization: `scale` and `zero_point` of an integer input q, which stands for `scale * (q - zero_point)`.
        output_kind: `logits`, `probabilities`, `sigmoid` or `values`.
        output_dtype: dtype of the output array.
        output_quantization: `scale` and `zero_point` of an integer output.
        classes: number of outputs.
    """

    shape: tuple[int, ...]
    dtype: str
    range: tuple[float, float] | None
    batch: int | None
    prepare: str
    scale: str | dict[str, Any] | None
    resize: tuple[int, int] | None
    fit: str | None
    quantization: dict[str, float] | None
    output_kind: str
    output_dtype: str
    output_quantization: dict[str, float] | None
    classes: int

    def to_json(self) -> dict[str, Any]:
        """The entry of `input.json`."""
        values = dict(vars(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class Artifact:
    """One exported file, compared with the model that it was made from.

    Args:
        name: name of the file or folder.
        format: `keras`, `saved-model`, `litert` or `onnx`.
        quantize: quantization of a `litert` file, else None.
        path: path of the file; None if it was not written because a gate failed.
        bytes: size of the file.
        input: its input and output.
        max_abs_diff: largest difference between its outputs and those of the model.
        agreement, accuracy: None for tasks without classes, or without labels.
        p50_ms: median latency of one request; None if it was not measured.
        ram_bytes: memory for its tensors on a microcontroller; None for other formats.
        low, high: 95% interval of the accuracy; None where there is no accuracy.
        quality: accuracy, else agreement, else the explained variance; None without data.
        passes: whether it passes every gate.
        dominated_by: name of a file that is at least as small, as fast and as good, and better in one of these.
    """

    name: str
    format: str
    quantize: str | None
    path: Path | None
    bytes: int
    input: ExportInterface
    max_abs_diff: float
    agreement: float | None = None
    accuracy: float | None = None
    p50_ms: float | None = None
    ram_bytes: int | None = None
    low: float | None = None
    high: float | None = None
    quality: float | None = None
    passes: bool = True
    dominated_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `artifacts`."""
        interface = self.input.to_json()
        return {
            "name": self.name,
            "format": self.format,
            "quantize": self.quantize,
            "path": relativize_path(self.path) if self.path else None,
            "bytes": self.bytes,
            "input": {name: interface[name] for name in ("shape", "dtype", "range", "batch")},
            "output": {"kind": self.input.output_kind, "dtype": self.input.output_dtype},
            "max_abs_diff": self.max_abs_diff,
            "agreement": self.agreement,
            "accuracy": self.accuracy,
            "low": self.low,
            "high": self.high,
            "p50_ms": self.p50_ms,
            "ram_bytes": self.ram_bytes,
            "dominated_by": self.dominated_by,
        }


@dataclass(frozen=True)
class ExportFailure:
    """A file that could not be written.

    Args:
        name: name of the file or folder.
        format, quantize: as in `Artifact`.
        message: what is wrong, in one line that starts with the name.
        hint: the next step.
    """

    name: str
    format: str
    quantize: str | None
    message: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `failures`."""
        return dict(vars(self))


@dataclass(frozen=True)
class ExportResult:
    """The result of `kd export`.

    Args:
        out: the folder; None if no file passed its gates.
        model: the model that was exported.
        artifacts: the exported files in the requested order, including those that failed a gate.
        gates: results of the gates.
        split: split on which the files were compared with the model; None without data.
        examples: number of examples in the comparison.
        accuracy: accuracy of the model.
        failures: files that could not be written.
        picked: the file that `--pick` chose; None without the option.
    """

    out: Path | None
    model: Path
    artifacts: tuple[Artifact, ...]
    gates: tuple[GateResult, ...]
    split: str | None = None
    examples: int = 0
    accuracy: float | None = None
    failures: tuple[ExportFailure, ...] = ()
    picked: Path | None = None

    @property
    def path(self) -> Path | None:
        """The picked file, or the file that was written, or the folder if there are several."""
        if self.picked is not None:
            return self.picked
        paths = [artifact.path for artifact in self.artifacts if artifact.path]
        return paths[0] if len(paths) == 1 else self.out

    def to_json(self) -> dict[str, Any]:
        """`kd.export/1`."""
        return {
            "schema": "kd.export/1",
            "out": relativize_path(self.out) if self.out else None,
            "model": relativize_path(self.model),
            "split": self.split,
            "examples": self.examples,
            "accuracy": self.accuracy,
            "picked": relativize_path(self.picked) if self.picked else None,
            "artifacts": [artifact.to_json() for artifact in self.artifacts],
            "failures": [failure.to_json() for failure in self.failures],
            "gates": [gate.to_json() for gate in self.gates],
        }


def render_interface_files(
    interfaces: Mapping[str, ExportInterface], class_names: Sequence[str]
) -> dict[str, str]:
    """The files that describe exported files to their users: the text of each, by its name.

    Args:
        interfaces: by file name, for `input.json`.
        class_names: in label order, for `labels.txt`; without names there is no such file.
    """
    labels = {LABELS_FILE: "".join(f"{name}\n" for name in class_names)} if class_names else {}
    document = {name: one.to_json() for name, one in interfaces.items()}
    return {**labels, INTERFACE_FILE: json.dumps(document, indent=2) + "\n"}
