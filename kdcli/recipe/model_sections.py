"""The `teacher`, `ensemble` and `student` sections, and their `input`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from kdcli.recipe.types import ClassColumns, InputValues, WordOrSize, WordOrViews
from kdcli.spec import OutputKind, PositiveFloat, Spec, Standardization
from kdcli.zoo import AnyModel, Shrunk, StudentModel

ScaleSetting = Annotated[
    Annotated[Literal["auto", "unit", "signed", "raw", "imagenet", "caffe"], Tag("word")]
    | Annotated[Standardization, Tag("mapping")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "mapping"),
]


class InputSection(Spec):
    """Preprocessing of raw examples. Only `uint8` images are scaled.

    Args:
        scale: `unit` [0, 1], `signed` [-1, 1], `raw`, `imagenet` (mean and deviation), `caffe` (BGR minus
            mean), or `{mean: [...], deviation: [...]}` in pixel values. `auto` uses the range to which the model
            itself maps 0..255, else the scale with the lowest loss of a trained model, else `unit`.
        resize: `auto` (the network's input size) or [height, width].
        fit: `stretch`, `crop` (fill, then cut) or `pad` (fit, then fill with zeros).
        tensor: inner tensor of a SavedModel that receives the examples; the layers before it are skipped.
        values: constant values for inputs of a SavedModel that are not data, such as `{keep_prob: 1.0}`.
    """

    scale: ScaleSetting = "auto"
    resize: WordOrSize = "auto"
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    tensor: str | None = None
    values: InputValues | None = None


class TeacherSection(Spec):
    """The teacher.

    Args:
        model: a file or a zoo model.
        output_kind: kind of the last layer's output; `auto` determines it from the layer and its outputs.
        precision: precision for computing its outputs; `auto` is half precision if that is faster on this machine
            and does not change the outputs.
        targets: where its outputs are stored: on `disk` (the cache), in `memory`, or nowhere (`live`: computed in
            every step).
        start: for train-teacher only: `fresh` weights or those in the `file`.
        views: number of augmented views for which outputs are stored; epochs use them in turn. `all` is a new view
            every epoch, live; `auto` is 8, or fewer if there are fewer epochs or too little space. In an ensemble
            all members use the same views: a number set for one member applies to all.
        signature: signature of a SavedModel; `serving_default`, or the only one, if omitted.
        output: name of the output, if there are several.
        classes: outputs for the classes of the data, in their order: column numbers; or the names of all outputs
            (a list, or a text file with one per line), among which the classes of the data are found.
        input: its preprocessing.
        weight: weight in an ensemble, divided by the sum of all weights; 1 if omitted.
        temperature: in an ensemble, divisor of its logits before the term's temperature; 1 if omitted.
    """

    model: AnyModel | None = None
    output_kind: Literal["auto", OutputKind] = "auto"
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    targets: Literal["auto", "live", "memory", "disk"] = "auto"
    start: Literal["fresh", "file"] = "fresh"
    views: WordOrViews = "auto"
    signature: str | None = None
    output: str | None = None
    classes: ClassColumns | None = None
    input: InputSection = InputSection()
    weight: PositiveFloat | None = None
    temperature: PositiveFloat | None = None


def _select_teacher_tag(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "mapping"


TeacherSections = Annotated[tuple[TeacherSection, ...], Field(strict=False, min_length=1)]
TeacherOrEnsemble = Annotated[
    Annotated[TeacherSection, Tag("mapping")] | Annotated[TeacherSections, Tag("list")],
    Discriminator(_select_teacher_tag),
]


class EnsembleSection(Spec):
    """How the outputs of several teachers are combined.

    Args:
        mix: weighted mean of the `probabilities` at each term's temperature, or of the `logits`.
    """

    mix: Literal["probabilities", "logits"] = "probabilities"


class StudentSection(Spec):
    """The student.

    Args:
        model: a file, a zoo model, or `{kind: shrunk, keep: 0.5}`: the teacher with fewer channels.
        output_kind: kind of the last layer's output; `auto` determines it.
        start: `file` (its weights unchanged), `fresh` (initialized from the seed), or for a shrunk student
            `inherited` (the teacher's weights); `auto` is `file`, and `inherited` for a shrunk student.
        signature: signature of a SavedModel; `serving_default`, or the only one, if omitted.
        output: name of the output, if there are several.
        input: its preprocessing.
    """

    model: StudentModel | None = None
    output_kind: Literal["auto", OutputKind] = "auto"
    start: Literal["auto", "file", "fresh", "inherited"] = "auto"
    signature: str | None = None
    output: str | None = None
    input: InputSection = InputSection()

    @model_validator(mode="after")
    def _check_start(self) -> StudentSection:
        shrunk = isinstance(self.model, Shrunk)
        if self.start == "inherited" and self.model is not None and not shrunk:
            raise ValueError(
                "start: inherited is for {kind: shrunk} students; start: file keeps the file's weights"
            )
        if self.start == "file" and shrunk:
            raise ValueError("a shrunk student has start: inherited or fresh")
        return self


ModelSection: TypeAlias = TeacherSection | StudentSection
