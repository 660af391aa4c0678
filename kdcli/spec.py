"""What a recipe entry is: a frozen, strict pydantic object that can do its own work.

A *kind* is one class with `kind: Literal[...]` and one verb. The entry of the recipe is the object itself:
there is no factory and no registry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from kdcli.lazy import ops

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
OutputKind = Literal["logits", "probabilities", "sigmoid", "values"]


class Spec(BaseModel):
    """The base of every recipe entry: unknown keys are errors, types are not coerced, nothing changes later."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def defaults(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of the options by name, with what is written in an entry; required options have none."""
        return {
            field.alias or name: field.default
            for name, field in cls.model_fields.items()
            if not field.is_required()
        }


class Change(Spec):
    """A value that changes over training: `{from: 1.0, to: 0.0, over: 0.5, shape: linear}`.

    Args:
        start: value at the first step (written `from`).
        to: value once the share `over` of training is done, kept until the end.
        over: share of training in (0, 1] that the change takes.
        shape: `linear`, or `cosine` (slow, fast, slow).
    """

    start: Annotated[float, Field(alias="from", ge=0)]
    to: Annotated[float, Field(ge=0)]
    over: Annotated[float, Field(gt=0, le=1)] = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, progress: Any) -> Any:
        """The value when the share `progress` (0 to 1, a number or a tensor) of training is done."""
        done = ops.minimum(ops.convert_to_tensor(progress, dtype="float32") / self.over, 1.0)
        if self.shape == "cosine":
            done = (1.0 - ops.cos(math.pi * done)) / 2.0
        return self.start + (self.to - self.start) * done


class Standardization(Spec):
    """Pixels minus a mean, divided by a deviation: `{mean: [33.3], deviation: [78.6]}`.

    One number for all channels, or one for each. Numbers are in pixel values from 0 to 255; where all of them are
    at most 1 they are read as those of images divided by 255, as most papers print them.

    Args:
        mean: what is subtracted.
        deviation: what the difference is divided by.
    """

    mean: Annotated[tuple[FiniteFloat, ...], Field(strict=False, min_length=1)]
    deviation: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _one_length(self) -> Standardization:
        lengths = {len(self.mean), len(self.deviation)} - {1}
        if len(lengths) > 1:
            raise ValueError(f"mean has {len(self.mean)} numbers, deviation {len(self.deviation)}")
        return self

    @property
    def channels(self) -> int:
        """For how many channels the numbers are; 1 where they hold for all."""
        return max(len(self.mean), len(self.deviation))

    @property
    def in_pixels(self) -> Standardization:
        """The same in pixel values from 0 to 255."""
        if max(*map(abs, self.mean), *self.deviation) > 1:
            return self
        return Standardization(
            mean=tuple(255 * value for value in self.mean), deviation=tuple(255 * d for d in self.deviation)
        )

    def __str__(self) -> str:
        mean, deviation = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.deviation))
        return f"{{mean: [{mean}], deviation: [{deviation}]}}"


def _number_or_change(value: Any) -> str:
    return "change" if isinstance(value, dict | Change) else "number"


def _not_nothing(value: Any) -> Any:
    if isinstance(value, Change) and value.start == value.to == 0:
        raise ValueError("from and to are both 0: leave the entry out")
    return value


Weight = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[Change, Tag("change")],
    Discriminator(_number_or_change),
    AfterValidator(_not_nothing),
]


def _above_zero(value: Any) -> Any:
    if isinstance(value, Change) and 0 in (value.start, value.to):
        raise ValueError("a temperature must stay above 0")
    return value


Temperature = Annotated[Weight, AfterValidator(_above_zero)]


def value_at(value: float | Change, progress: Any) -> Any:
    """A setting's value when the share `progress` of training is done."""
    return value.at(progress) if isinstance(value, Change) else value


class Source(Spec):
    """Where examples come from. The verb is `load()`, which gives `kdcli.data.examples.Splits`."""

    kind: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders that are read, which no run may delete."""
        return ()

    def load(self) -> Any:
        """Read the source: its splits, with labels as they are."""
        raise TypeError(f"{type(self).__name__} cannot load")


class Augment(Spec):
    """One augmentation. Pure: the picture follows from the draws, the draws from (seed, view, example).

    `draws` is how many numbers it takes for a picture; `moves` whether anything in the picture changes its place
    or goes, so that a map of labels would no longer fit.
    """

    draws: ClassVar[int] = 1
    moves: ClassVar[bool] = True

    kind: str

    def __call__(self, images: Any, draws: Any) -> Any:
        """Change a batch of images (batch, h, w, channels) by its draws (batch, `draws`) from [0, 1)."""
        raise TypeError(f"{type(self).__name__} has no formula")


class ModelSource(Spec):
    """Where a model comes from: a file, or the zoo, whose verb is `build(input_shape, classes)`.

    `sizes` are options of a few smaller and larger ones, as `kd inspect zoo:NAME` lists them.
    """

    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    kind: str


class ExportFormat(Spec):
    """A file that ships. The verbs are `write(serving, path)` and `open(path)`, which gives a `Runner`.

    `runtime` is what runs it, `extra` the optional part of kd that this needs, `from_data` whether writing looks
    at training examples, `takes_floats` whether raw bytes go into the file as floats.
    """

    extra: ClassVar[str | None] = None
    runtime: ClassVar[str] = "tensorflow"
    suffix: ClassVar[str]

    kind: str

    @property
    def variant(self) -> str | None:
        """What tells several files of one format apart; None where there is one."""
        return None

    @property
    def from_data(self) -> bool:
        """Whether writing it needs training examples."""
        return False

    @property
    def takes_floats(self) -> bool:
        """Whether the file is made for float inputs whatever the raw examples are."""
        return False

    def file_name(self, name: str) -> str:
        """The name of the file or folder for a model called `name`."""
        variant = self.variant
        return f"{name}_{variant}{self.suffix}" if variant not in (None, "none") else f"{name}{self.suffix}"

    def write(self, serving: Any, path: Any) -> None:
        """Write `kdcli.models.keras.serving.Serving` to a path in a scratch folder."""
        raise TypeError(f"{type(self).__name__} cannot be written")

    def open(self, path: Any, *, threads: int | None = None) -> Any:
        """Open what was written, in its own runtime."""
        raise TypeError(f"{type(self).__name__} cannot be opened")
