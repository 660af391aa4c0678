"""A student from the teacher's own graph, with fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field, ValidationError, model_validator

from kdcli.errors import UsageError
from kdcli.spec import ModelSource

Importance: TypeAlias = Literal["activation", "taylor", "bn_scale", "l1", "l2", "fpgm", "random"]
Allocation: TypeAlias = Literal["uniform", "global"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
# The criteria that run the teacher on examples.
MEASURED_IMPORTANCES = ("activation", "taylor")

_HINTS = {
    "keep": "--keep 0.5 keeps half of the channels",
    "importance": "--importance activation",
    "allocation": "--allocation uniform",
}


class Shrunk(ModelSource):
    """The teacher without its least important channels; for the student only.

    `student.start: inherited`, the default, keeps the teacher's weights for the channels that stay; `fresh` gives
    the same architecture with weights from the seed. The preprocessing is the teacher's, unless `student.input`
    is set. Taps: those of the teacher.

    Args:
        of: the model to shrink: the `teacher`, in a later stage the `previous` student, or the path of a model
            that was shrunk before from the same teacher.
        relative_to: path of the model whose channels `keep` counts; the teacher if omitted.
        keep: fraction of the teacher's channels to keep in every layer, in (0, 1]; 0.5 unless
            `max_params`, `blocks`, `rank` or `side` is set.
        max_params: maximum number of parameters; the largest student within it is built.
        importance: criterion that ranks the channels: `activation`, `taylor`, `bn_scale`, `l1`, `l2`, `fpgm`, or
            `random` as a control.
        allocation: `uniform` keeps the same fraction in every layer; `global` ranks all channels together.
        round_to: channel counts are rounded to multiples of it; other counts are slower on real runtimes.
        blocks: number of residual blocks to leave out, those that change their input least first.
        rank: Dense layers are split into two with this rank between them, where that saves parameters.
        side: fraction of the teacher's image sides that the student takes, in (0, 1]; images are resized first.
        free_normalized: whether channels that a layer normalization or a softmax couples may be removed as well.
    """

    needs_teacher: ClassVar[bool] = True

    kind: Literal["shrunk"] = "shrunk"
    of: str = "teacher"
    relative_to: str | None = None
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    max_params: Annotated[int, Field(ge=1)] | None = None
    importance: Importance = "activation"
    allocation: Allocation = "uniform"
    round_to: Annotated[int, Field(ge=1)] = 8
    blocks: Annotated[int, Field(ge=0)] = 0
    rank: Annotated[int, Field(ge=1)] | None = None
    side: Annotated[float, Field(gt=0, le=1)] = 1.0
    free_normalized: bool = False

    @model_validator(mode="after")
    def _check_size(self) -> Shrunk:
        if self.keep is not None and self.max_params is not None:
            raise ValueError("keep and max_params exclude each other")
        return self

    def with_options(self, options: Mapping[str, Any]) -> Shrunk:
        """A copy with some settings replaced, as options of a command set them.

        Raises:
            UsageError: naming the option.
        """
        try:
            return Shrunk.model_validate({**self.model_dump(), **options})
        except ValidationError as error:
            fault = error.errors()[0]
            if not fault["loc"]:
                raise UsageError("--keep and --max-params exclude each other", hint="leave out --keep") from error
            name = str(fault["loc"][0])
            reason = fault["msg"].replace("Input should be ", "must be ")
            raise UsageError(
                f"--{name.replace('_', '-')} {reason} (got {fault['input']})", hint=_HINTS.get(name)
            ) from error

    @property
    def path(self) -> str | None:
        """The file or run to shrink; None for the teacher and for the previous student."""
        return None if self.of in ("teacher", "previous") else self.of

    @property
    def fraction(self) -> float:
        """The fraction of channels that stays, where no other target is set."""
        if self.keep is None:
            others = (self.max_params is not None, self.blocks, self.rank, self.side < 1)
            return 1.0 if any(others) else 0.5
        return self.keep

    @property
    def name(self) -> str:
        """What messages call the model."""
        return "shrunk"
