"""The two sides of a distillation: the teacher, or several of them, and the student."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from kdcli.recipe.types import ClassColumns, InputValues, WordOrSize, WordOrViews
from kdcli.spec import OutputKind, PositiveFloat, Spec, Standardization
from kdcli.zoo import AnyModel

ScaleSetting = Annotated[
    Annotated[Literal["auto", "unit", "signed", "raw", "imagenet", "caffe"], Tag("word")]
    | Annotated[Standardization, Tag("mapping")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "mapping"),
]


class InputSection(Spec):
    """How a raw example becomes a network's input. Only `uint8` images are scaled.

    Args:
        scale: `unit` [0, 1], `signed` [-1, 1], `raw`, `imagenet` (mean and deviation), `caffe` (BGR minus
            mean), or `{mean: [...], deviation: [...]}` in pixel values. `auto` asks what range the model itself
            maps 0..255 to, then compares the loss of a trained model under each scale; `unit` where neither tells.
        resize: `auto` (the network's own size) or [height, width].
        fit: `stretch`, `crop` (fill, then cut) or `pad` (fit, then fill with zeros).
        tensor: the inner tensor of a SavedModel that the examples are fed into, past what stands before it.
        values: what inputs of a SavedModel that are not data hold, such as `{keep_prob: 1.0}`.
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
        output_kind: what the last layer gives; `auto` looks at it and at its answers.
        precision: in which it answers; `auto` is half precision where the machine is faster in it and the answers
            stay the same.
        targets: where its answers are kept: on `disk` (the cache), in `memory`, or nowhere (`live`: it is asked
            in every step).
        start: for train-teacher only: `fresh` weights or those in the `file`.
        views: how many augmented views are answered and kept; epochs take them in turn. `all` is a new one every
            epoch, live; `auto` is 8, or as many as there are epochs or room for. Several teachers answer the same
            ones: where one of them has a number, it is that of all.
        signature: which signature of a SavedModel; `serving_default`, or the only one, when left out.
        output: which of several outputs.
        classes: which of its outputs belong to the classes of the data, in their order: column numbers; or the
            names of all its outputs (a list, or a text file with one a line), among which the data's are found.
        input: its preparation.
        weight: in a list of teachers, how much this one counts; the weights are divided by their sum. 1 when left
            out.
        temperature: in a list of teachers, what its logits are divided by before the term's temperature; 1 when
            left out.
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


def _one_or_several(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "mapping"


TeacherSections = Annotated[tuple[TeacherSection, ...], Field(strict=False, min_length=1)]
TeacherOrEnsemble = Annotated[
    Annotated[TeacherSection, Tag("mapping")] | Annotated[TeacherSections, Tag("list")],
    Discriminator(_one_or_several),
]


class EnsembleSection(Spec):
    """How several teachers become one.

    Args:
        mix: the weighted mean of their `probabilities` at each term's temperature, or of their `logits`.
    """

    mix: Literal["probabilities", "logits"] = "probabilities"


class StudentSection(Spec):
    """The student.

    Args:
        model: a file or a zoo model.
        output_kind: what the last layer gives.
        start: `file` (its weights as they are) or `fresh` (initialised by the seed); `auto` is `file`.
        signature: which signature of a SavedModel; `serving_default`, or the only one, when left out.
        output: which of several outputs.
        input: its preparation.
    """

    model: AnyModel | None = None
    output_kind: Literal["auto", OutputKind] = "auto"
    start: Literal["auto", "file", "fresh"] = "auto"
    signature: str | None = None
    output: str | None = None
    input: InputSection = InputSection()


ModelSection: TypeAlias = TeacherSection | StudentSection
