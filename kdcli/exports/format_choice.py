"""The formats that `--format`, `--quantize` and `--io` choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from kdcli.errors import UsageError, did_you_mean
from kdcli.exports import EXPORT_FORMATS
from kdcli.exports.litert import IoType, Litert, QuantizeMode
from kdcli.exports.web import find_runtime
from kdcli.extras import find_missing
from kdcli.spec import ExportFormat

QUANTIZE_MODES, IO_TYPES = get_args(QuantizeMode), get_args(IoType)
_SPELLINGS = {"tflite": "litert", "savedmodel": "saved-model", "saved_model": "saved-model"}
# Words for formats and quantizations that other tools use, with the option of kd for them.
FOREIGN_FORMATS = {
    "coreml": "coremltools converts a SavedModel: --format saved-model",
    "mlmodel": "coremltools converts a SavedModel: --format saved-model",
    "tfjs": "tensorflowjs_converter converts a SavedModel: --format saved-model",
    "openvino": "OpenVINO converts ONNX: --format onnx",
    "tensorrt": "TensorRT converts ONNX: --format onnx",
    "engine": "TensorRT converts ONNX: --format onnx",
    "pb": "--format saved-model",
    "h5": "--format keras",
    "torchscript": "--format onnx",
    "fp16": "--format litert --quantize float16",
    "float16": "--format litert --quantize float16",
    "int8": "--format litert --quantize int8",
}
FOREIGN_QUANTIZATIONS = {
    "fp16": "--quantize float16",
    "half": "--quantize float16",
    "fp32": "--quantize none",
    "float32": "--quantize none",
    "full": "--quantize int8",
    "int8-dynamic": "--quantize dynamic",
    "weights": "--quantize dynamic",
}


def choose_formats(
    formats: Sequence[str],
    *,
    quantize: Sequence[str] = (),
    io: str | None = None,
    web_runtime: str | None = None,
) -> tuple[ExportFormat, ...]:
    """The requested formats, each once.

    Args:
        formats: `keras`, `saved-model`, `litert` (or `tflite`), `onnx`, `micro`, `web`.
        quantize: quantizations of `litert`: `none`, `float16`, `dynamic`, `int8`, `int8x16`, `int4`,
            `int4-weights`, `mixed`; `none` if omitted.
        io: type of input and output of `litert` files: `float32`, and for `int8` files also `uint8` and `int8`. If
            omitted, image bytes go in and floats come out.
        web_runtime: a `node_modules` folder with LiteRT.js, for `web`.

    Raises:
        UsageError: an unknown word, an option without effect, or a folder without LiteRT.js.
    """
    if not formats:
        raise UsageError(
            f"--format is missing; expected one of {', '.join(EXPORT_FORMATS)}", hint="--format litert"
        )
    kinds = [_find_kind(word) for word in dict.fromkeys(formats)]
    for word in quantize:
        _check_word("--quantize", word, QUANTIZE_MODES, FOREIGN_QUANTIZATIONS)
    if io is not None:
        _check_word("--io", io, IO_TYPES, {"fp32": "--io float32"})
    if io == "int8" and "web" in kinds:
        raise UsageError(
            "--io int8: the runtime in browsers takes uint8 and float32",
            hint="leave out --io: images go in as uint8",
        )
    if web_runtime is not None and "web" not in kinds:
        raise UsageError("--web-runtime has no effect without --format web", hint="--format web")
    if web_runtime is not None:
        find_runtime(Path(web_runtime))
    quantized = next((word for word in quantize if word != "none"), None)
    for option, value in (("--quantize", quantized), ("--io", io)):
        if value is not None and "litert" not in kinds:
            raise UsageError(
                f"{option} {value} applies to litert files only, got --format {', '.join(kinds)}",
                hint=f"--format litert {option} {value}",
            )
    if io in ("uint8", "int8") and "int8" not in quantize:
        raise UsageError(
            f"--io {io} applies to int8 files only; others take image bytes or floats and give floats",
            hint=f"--format litert --quantize int8 --io {io}",
        )
    chosen: list[ExportFormat] = []
    for kind in dict.fromkeys(kinds):
        if kind != "litert":
            options = {"modules": web_runtime} if kind == "web" else {}
            chosen.append(EXPORT_FORMATS[kind].model_validate(options))
            continue
        for variant in dict.fromkeys(quantize or ("none",)):
            io_type = io if io == "float32" or variant == "int8" else None
            chosen.append(Litert.model_validate({"quantize": variant, "io": io_type}))
    return tuple(chosen)


def choose_all_formats(
    formats: Sequence[str], *, quantize: Sequence[str], io: str | None
) -> tuple[tuple[ExportFormat, ...], tuple[str, ...]]:
    """Every format and quantization whose packages are installed, for `--format all`.

    Args:
        formats: `all`, and nothing else.
        quantize, io: must not be set; anything else is refused.

    Returns:
        The formats, and the names of those that were left out with the package that they need.

    Raises:
        UsageError: `all` beside another format or option.
    """
    other = next((word for word in formats if word != "all"), None)
    if other is not None or quantize or io is not None:
        option = f"--format {other}" if other else f"--quantize {quantize[0]}" if quantize else f"--io {io}"
        raise UsageError(f"{option} has no effect beside --format all", hint="--format all")
    chosen: list[ExportFormat] = []
    skipped = []
    for form in choose_formats(list(EXPORT_FORMATS), quantize=QUANTIZE_MODES):
        missing = [name for extra in form.extras for name in find_missing(extra)]
        if missing:
            skipped.append(f"{form.file_name('NAME')} needs {' and '.join(missing)}")
        else:
            chosen.append(form)
    return tuple(chosen), tuple(skipped)


def _find_kind(word: str) -> str:
    kind = _SPELLINGS.get(word.lower(), word.lower())
    if kind not in EXPORT_FORMATS:
        _check_word("--format", word, tuple(EXPORT_FORMATS), FOREIGN_FORMATS)
    return kind


def _check_word(option: str, word: str, known: Sequence[str], foreign: dict[str, str]) -> None:
    if word in known:
        return
    raise UsageError(
        f"{option} must be one of {', '.join(known)}, got {word!r}",
        hint=foreign.get(word.lower()) or did_you_mean(word, known).strip() or f"{option} {known[0]}",
    )
