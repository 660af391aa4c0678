"""What an export writes, and what its files are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcli.exports.format_choice import choose_formats
from kdcli.setup.request import RecipeOptions
from kdcli.spec import ExportFormat


class ExportOptions(RecipeOptions, total=False):
    """What `kdcli.export` takes beside `RecipeOptions`.

    Args:
        quantize: of `litert`: `none`, `float16`, `dynamic`, `int8`; several give several files.
        prepare: `inside`: the file takes raw examples; `outside`: what the model itself takes. Inside with data.
        io: of litert files: `float32` at both ends, or of `int8` ones `uint8` or `int8`. When left out, raw bytes
            of images go in and floats come out.
        batch: the only batch size that the files take; any when left out (LiteRT opens at 1 and resizes).
        output_kind: what files give: `teacher` (what the file of the run's teacher gives; of a model that is not
            a run, what it gives itself), `probabilities` or `logits`.
        split: that files are compared on: `auto` (test where there is one, else everything), `train`, ...
        limit: number of examples of the split, or a fraction of them; stratified.
        latency: time the files, in turns, for about two seconds each; on by default.
        runtime: time only files of this runtime: `tensorflow`, `litert`, `onnxruntime`.
    """

    quantize: Sequence[str]
    prepare: str | None
    io: str | None
    batch: int | None
    output_kind: str
    split: str
    limit: float | None
    latency: bool
    runtime: str | None


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What is written, and what it is compared on.

    Args:
        formats: the files to write.
        prepare: `inside`, `outside` or None.
        batch: the only batch size that the files take; any when None.
        output_kind: `teacher`, `probabilities` or `logits`.
        split: `auto`, `train`, `validation`, `test` or `all`.
        limit: number of examples of the split, or a fraction of them; all when None.
        batch_size: examples in a batch; 256 when None.
        latency: whether the files are timed.
        runtime: the only runtime that is timed; every one when None.
    """

    formats: Sequence[ExportFormat]
    prepare: str | None
    batch: int | None
    output_kind: str
    split: str
    limit: float | None
    batch_size: int | None
    latency: bool
    runtime: str | None


def read_conversion(formats: Sequence[str], options: ExportOptions) -> tuple[Conversion, RecipeOptions]:
    """The conversion that options describe, and the options of the recipe that are left.

    Raises:
        UsageError: an unknown format or quantization, or two that exclude each other.
    """
    conversion = Conversion(
        formats=choose_formats(formats, quantize=options.get("quantize", ()), io=options.get("io")),
        prepare=options.get("prepare"),
        batch=options.get("batch"),
        output_kind=options.get("output_kind", "teacher"),
        split=options.get("split", "auto"),
        limit=options.get("limit"),
        batch_size=options.get("batch_size"),
        latency=options.get("latency", True),
        runtime=options.get("runtime"),
    )
    unknown = sorted(options.keys() - ExportOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"unexpected option: {', '.join(unknown)}")
    recipe: RecipeOptions = {}
    for name in RecipeOptions.__annotations__.keys() & options.keys() - {"batch_size"}:
        recipe[name] = options[name]  # type: ignore[literal-required]
    return conversion, recipe
