"""The frozen results of `kd inspect` and their JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.runs.results import relativize_path
from kdcli.tensors import Shape


@dataclass(frozen=True)
class InspectedTensor:
    """An input, an output or a tap.

    Args:
        name: its name; for a tap, the value that `teacher_layer` takes.
        shape: shape with the batch axis first, and None for axes of any size; None if the shape is unknown.
        dtype: dtype of its values; None for a tap.
        quantization: scale and zero point, if a stored integer q stands for `scale * (q - zero_point)`.
    """

    name: str
    shape: Shape | None
    dtype: str | None = None
    quantization: tuple[float, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Name, shape and, if known, dtype and quantization."""
        shape = None if self.shape is None else list(self.shape)
        document: dict[str, Any] = {"name": self.name, "shape": shape}
        if self.dtype is not None:
            document["dtype"] = self.dtype
        if self.quantization is not None:
            document["scale"], document["zero_point"] = self.quantization
        return document


@dataclass(frozen=True)
class InspectedLayer:
    """One layer.

    Args:
        name: path in the model.
        kind: class of the layer.
        parameters: number of its weights.
    """

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class DataCheck:
    """The outputs of a model for real examples.

    Args:
        data: name of the data.
        split: split of the examples.
        examples: number of examples.
        task: task of the labels.
        input: preprocessing by input name, with the scale that was found or set.
        answer: shape of the output for one example.
        metric: name and value of the task's main metric on these examples; None without labels.
    """

    data: str
    split: str
    examples: int
    task: str
    input: dict[str, Any]
    answer: tuple[int, ...]
    metric: tuple[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """`checked` of `kd.inspect/1`, which exists if data was given."""
        document = {**asdict(self), "answer": list(self.answer)}
        name, value = document.pop("metric") or (None, None)
        return document if name is None else {**document, name: value}


@dataclass(frozen=True)
class ZooSize:
    """One size of a zoo model, built for the data.

    Args:
        model: recipe entry of the model.
        flops: None if they cannot be counted.
        latency: `runtime`, `threads`, `batch` and `p50_ms` of a short measurement.
    """

    model: dict[str, Any]
    parameters: int
    int8_bytes: int
    flops: int | None
    latency: dict[str, Any]


@dataclass(frozen=True)
class Inspection:
    """The result of `kd inspect`. Values that a file does not contain or that were not read are None or empty.

    Args:
        safe: whether screening refused nothing and the file opened. A model that kd cannot use may be safe.
        findings: findings of screening and opening.
        refused: the error that other commands raise for the model.
        signature, signatures: of a SavedModel, the signature that was opened and all signatures.
        sizes: sizes of a zoo model, which has no file and no sha256.
    """

    path: Path
    format: str
    sha256: str | None
    inputs: tuple[InspectedTensor, ...]
    outputs: tuple[InspectedTensor, ...]
    bytes: int
    output_kind: str | None = None
    parameters: int | None = None
    export_bytes: dict[str, int] | None = None
    flops: int | None = None
    taps: tuple[InspectedTensor, ...] | None = None
    layers: tuple[InspectedLayer, ...] = ()
    checked: DataCheck | None = None
    safe: bool = True
    findings: tuple[str, ...] = ()
    refused: ModelError | None = None
    signature: str | None = None
    signatures: tuple[str, ...] | None = None
    sizes: tuple[ZooSize, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """`kd.inspect/1`."""
        document: dict[str, Any] = {"schema": "kd.inspect/1", "path": relativize_path(self.path)}
        document |= {"format": self.format, "sha256": self.sha256}
        document |= {name: [tensor.to_json() for tensor in getattr(self, name)] for name in ("inputs", "outputs")}
        for name in ("output_kind", "parameters", "bytes", "export_bytes", "flops"):
            document[name] = getattr(self, name)
        document["taps"] = None if self.taps is None else [tap.to_json() for tap in self.taps]
        if self.signatures is not None:
            document |= {"signature": self.signature, "signatures": list(self.signatures)}
        document |= {"safe": self.safe, "findings": list(self.findings)}
        if self.sizes:
            document["sizes"] = [asdict(size) for size in self.sizes]
        return document if self.checked is None else {**document, "checked": self.checked.to_json()}
