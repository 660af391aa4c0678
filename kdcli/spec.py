"""The base classes of recipe entries: frozen, strict pydantic objects that do their own work.

A *kind* is one class with `kind: Literal[...]` and one verb. The recipe entry is the object itself: there is no
factory and no registry.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from kdcli.lazy import ops
from kdcli.tensors import Tensor

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
OutputKind = Literal["logits", "probabilities", "sigmoid", "values"]


class Spec(BaseModel):
    """The base of every recipe entry: unknown keys are errors, types are not coerced, and objects are frozen."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def defaults(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the options by name, given an entry; required options have none."""
        return {
            field.alias or name: field.default
            for name, field in cls.model_fields.items()
            if not field.is_required()
        }


class Change(Spec):
    """A value that changes during training: `{from: 1.0, to: 0.0, over: 0.5, shape: linear}`.

    Args:
        start: value at the first step, written `from` in recipes.
        to: value after the fraction `over` of training, and until the end.
        over: fraction of training that the change takes, in (0, 1]; default 1.
        shape: `linear`, or `cosine` (slow at both ends).
    """

    start: Annotated[float, Field(alias="from", ge=0)]
    to: Annotated[float, Field(ge=0)]
    over: Annotated[float, Field(gt=0, le=1)] = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, progress: float | Tensor) -> Tensor:
        """Return the value at the fraction `progress` (0 to 1) of training."""
        done = ops.minimum(ops.convert_to_tensor(progress, dtype="float32") / self.over, 1.0)
        if self.shape == "cosine":
            done = (1.0 - ops.cos(math.pi * done)) / 2.0
        return self.start + (self.to - self.start) * done


class Standardization(Spec):
    """Pixels minus a mean, divided by a deviation: `{mean: [33.3], deviation: [78.6]}`.

    Values are given for pixels from 0 to 255. If all values are at most 1, they are taken as those of images
    divided by 255, as most papers print them.

    Args:
        mean: value to subtract; one for all channels, or one for each channel.
        deviation: value to divide by; one for all channels, or one for each channel.
    """

    mean: Annotated[tuple[FiniteFloat, ...], Field(strict=False, min_length=1)]
    deviation: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _check_lengths(self) -> Standardization:
        lengths = {len(self.mean), len(self.deviation)} - {1}
        if len(lengths) > 1:
            raise ValueError(f"mean has {len(self.mean)} values, deviation {len(self.deviation)}")
        return self

    @property
    def channels(self) -> int:
        """Number of channels with a value each; 1 if one value applies to all channels."""
        return max(len(self.mean), len(self.deviation))

    @property
    def in_pixels(self) -> Standardization:
        """The same standardization for pixels from 0 to 255."""
        if max(*map(abs, self.mean), *self.deviation) > 1:
            return self
        return Standardization(
            mean=tuple(255 * value for value in self.mean), deviation=tuple(255 * d for d in self.deviation)
        )

    def __str__(self) -> str:
        mean, deviation = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.deviation))
        return f"{{mean: [{mean}], deviation: [{deviation}]}}"


def _select_weight_tag(value: Any) -> str:
    return "change" if isinstance(value, dict | Change) else "number"


def _check_not_zero(value: Any) -> Any:
    if isinstance(value, Change) and value.start == value.to == 0:
        raise ValueError("from and to are both 0: remove the entry instead")
    return value


Weight = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[Change, Tag("change")],
    Discriminator(_select_weight_tag),
    AfterValidator(_check_not_zero),
]


def _check_above_zero(value: Any) -> Any:
    if isinstance(value, Change) and 0 in (value.start, value.to):
        raise ValueError("a temperature must stay above 0")
    return value


Temperature = Annotated[Weight, AfterValidator(_check_above_zero)]


def value_at(value: float | Change, progress: float | Tensor) -> float | Tensor:
    """Return the value of a setting at the fraction `progress` (0 to 1) of training."""
    return value.at(progress) if isinstance(value, Change) else value


class Source(Spec):
    """A source of examples. The verb is `load()`, which returns `kdcli.data.examples.Splits`."""

    kind: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders that the source reads; no run may delete them."""
        return ()

    def load(self) -> Any:
        """Read the splits, with the labels unchanged."""
        raise TypeError(f"{type(self).__name__} does not define load")


class Augment(Spec):
    """An augmentation: a pure function of its random draws, which follow from (seed, view, example).

    Class variables describe a kind:

    - `draws`: number of random draws for each image.
    - `moves`: whether parts of the image move or disappear, so that a label map would no longer fit.
    """

    draws: ClassVar[int] = 1
    moves: ClassVar[bool] = True

    kind: str

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images: (batch, height, width, channels).
            draws: uniform random numbers in [0, 1), shape (batch, `draws`).
        """
        raise TypeError(f"{type(self).__name__} does not define __call__")


class ModelSource(Spec):
    """Where a model comes from: a file, or the zoo. The verb of zoo models is `build(input_shape, classes)`.

    Class variables describe a kind:

    - `sizes`: options of a few smaller and larger models, as `kd inspect zoo:NAME` lists them.
    - `needs_teacher`: whether the model is built from the teacher.
    """

    sizes: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    needs_teacher: ClassVar[bool] = False

    kind: str


class ExportFormat(Spec):
    """A format for deployment. The verbs are `write(serving, path)` and `open(path)`, which returns a `Runner`.

    Class variables describe a kind:

    - `extra`: the extra of kd that the format needs, or None.
    - `runtime`: the runtime that runs the file.
    - `suffix`: ending of the file name.
    - `batch`: the only batch size that the runtime takes, or None.
    - `is_timed`: whether the latency on this machine means anything.
    """

    extra: ClassVar[str | None] = None
    runtime: ClassVar[str] = "tensorflow"
    suffix: ClassVar[str]
    batch: ClassVar[int | None] = None
    is_timed: ClassVar[bool] = True

    kind: str

    @property
    def variant(self) -> str | None:
        """Distinguishes several files of one format; None if there is only one."""
        return None

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras that it needs."""
        return () if self.extra is None else (self.extra,)

    @property
    def from_data(self) -> bool:
        """Whether writing it needs training examples: activations of 8 bits are calibrated on them."""
        return self.is_int8

    @property
    def searches(self) -> bool:
        """Whether writing it tries files on validation examples."""
        return False

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations have 8 bits."""
        return False

    @property
    def takes_floats(self) -> bool:
        """Whether the model to convert takes floats even if the raw examples are integers.

        The converter adds the integer input of an 8-bit file.
        """
        return self.is_int8

    def file_name(self, name: str) -> str:
        """Return the name of the file or folder for a model called `name`."""
        variant = self.variant
        return f"{name}_{variant}{self.suffix}" if variant not in (None, "none") else f"{name}{self.suffix}"

    def find_file(self, path: Path) -> Path:
        """The file or folder that ships, in what `write` wrote."""
        return path

    def write(self, serving: Any, path: Path) -> None:
        """Write a `kdcli.models.keras.served_model.Serving` to a path in a scratch folder."""
        raise TypeError(f"{type(self).__name__} does not define write")

    def describe(self, path: Path) -> str | None:
        """What a user should know of what `write` wrote; None if nothing."""
        return None

    def copy_to(self, path: Path, target: Path) -> None:
        """Copy what `write` wrote to another name."""
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)

    def add_labels(self, path: Path, names: tuple[str, ...]) -> None:
        """Add the class names to what `write` wrote, where the format holds them."""

    def open(self, path: Path, *, threads: int | None = None) -> Any:
        """Open the written file in its own runtime."""
        raise TypeError(f"{type(self).__name__} does not define open")
