"""Options of an export, and the conversion that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcli.exports.format_choice import choose_all_formats, choose_formats
from kdcli.setup.request import RecipeOptions
from kdcli.spec import ExportFormat


class ExportOptions(RecipeOptions, total=False):
    """Options of `kdcli.export` in addition to `RecipeOptions`.

    Args:
        quantize: quantization of `litert` files: `none`, `float16`, `dynamic`, `int8`, `int8x16`, `int4`,
            `int4-weights`, `mixed`; one file for each.
        prepare: preprocessing `inside` (the file takes raw examples) or `outside` (it takes the same inputs as the
            model). Inside by default if there is data.
        io: input and output type of `litert` files: `float32`, or for `int8` files `uint8` or `int8`. By default
            images go in as raw bytes, and floats come out.
        batch: fixed batch size of the files; any size by default (LiteRT opens at 1 and resizes).
        output_kind: output of the files: `teacher` (as the file of the run's teacher; a model that is not a run
            keeps its own output kind), `probabilities` or `logits`.
        split: split to compare files on: `auto` (test if there is one, else all), `train`, ...
        limit: number of examples of the split, or a fraction of them; stratified.
        latency: whether to time the files, in turns, for about two seconds each; true by default.
        runtime: the only runtime to time: `tensorflow`, `litert` or `onnxruntime`.
        latency_command: command that prints the milliseconds of a file, with `{file}` for its path; it replaces
            timing on this machine.
        web_runtime: a `node_modules` folder with LiteRT.js, which is copied beside the page of `web`.
        pick: the file that `path` of the result names: the `smallest`, `fastest` or `best` that passes its gates.
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
    latency_command: str | None
    web_runtime: str | None
    pick: str | None


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Files to write, and examples to compare them on.

    Args:
        formats: formats of the files.
        prepare: `inside`, `outside` or None.
        batch: fixed batch size of the files; any size if None.
        output_kind: `teacher`, `probabilities` or `logits`.
        split: `auto`, `train`, `validation`, `test` or `all`.
        limit: number of examples of the split, or a fraction of them; all if None.
        batch_size: examples per batch; 256 if None.
        latency: whether to time the files.
        runtime: the only runtime to time; all if None.
        latency_command: measures files in the place of this machine; None for this machine.
        pick: which of the files `path` of the result names: `smallest`, `fastest` or `best`; None for all.
        skipped: formats of `all` that need a package that is not installed.
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
    latency_command: str | None
    pick: str | None = None
    skipped: tuple[str, ...] = ()


def _choose_named(formats: Sequence[str], options: ExportOptions) -> tuple[ExportFormat, ...]:
    return choose_formats(
        formats,
        quantize=options.get("quantize", ()),
        io=options.get("io"),
        web_runtime=options.get("web_runtime"),
    )


def read_conversion(formats: Sequence[str], options: ExportOptions) -> tuple[Conversion, RecipeOptions]:
    """Split the options of an export into the conversion and the options of the recipe.

    Raises:
        UsageError: a format or quantization is unknown, or two exclude each other.
        TypeError: an option is unknown.
    """
    if "all" in formats:
        chosen, skipped = choose_all_formats(formats, quantize=options.get("quantize", ()), io=options.get("io"))
    else:
        chosen, skipped = _choose_named(formats, options), ()
    conversion = Conversion(
        formats=chosen,
        skipped=skipped,
        pick=options.get("pick"),
        prepare=options.get("prepare"),
        batch=options.get("batch"),
        output_kind=options.get("output_kind", "teacher"),
        split=options.get("split", "auto"),
        limit=options.get("limit"),
        batch_size=options.get("batch_size"),
        latency=options.get("latency", True),
        runtime=options.get("runtime"),
        latency_command=options.get("latency_command"),
    )
    unknown = sorted(options.keys() - ExportOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"unexpected option: {', '.join(unknown)}")
    recipe: RecipeOptions = {}
    for name in RecipeOptions.__annotations__.keys() & options.keys() - {"batch_size"}:
        recipe[name] = options[name]  # type: ignore[literal-required]
    return conversion, recipe
