"""The base classes of all losses, what a loss may build its parts from, and those parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Tag, model_validator

from kdcli.lazy import ops
from kdcli.spec import Fraction, Names, Spec, Weight, value_at
from kdcli.tensors import Shape, Tensor, Variable

# Names of features by their number of axes without the batch.
FEATURE_NAMES = {3: "maps", 2: "sequences", 1: "vectors"}


@dataclass(frozen=True)
class Given:
    """What a loss may build its parts from.

    Args:
        student: shapes of the student's features without the batch axis, after the projection if the loss
            `projects`; for a loss on outputs, the shape of the logits.
        teacher: shapes of the teacher's features, in the same order.
        examples: number of training examples, for memories addressed by example index.
        batch: number of examples in a batch, for parts whose size depends on it.
        seed: RNG seed for the initial values of the parts.
        normalizations: for each teacher feature the (scale, shift) of the batch normalization that produced it,
            each of shape (channels,), or None if there is none.
    """

    student: tuple[Shape, ...]
    teacher: tuple[Shape, ...]
    examples: int = 1
    batch: int = 1
    seed: int = 0
    normalizations: tuple[tuple[Any, Any] | None, ...] = ()


@dataclass(frozen=True)
class Parts:
    """The state of a loss besides its settings. Checkpoints contain it; the student's file does not.

    Args:
        trained: built Keras layers and variables, or lists of them, that are trained with the student, by name.
        kept: state that only the loss itself changes: memories, random states, a discriminator and its optimizer.
    """

    trained: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that are trained with the student."""
        return [variable for variable in _iterate_variables(self.trained) if variable.trainable]

    @property
    def variables(self) -> list[Variable]:
        """All variables, as checkpoints contain them."""
        return [*_iterate_variables(self.trained), *_iterate_variables(self.kept)]


NO_PARTS = Parts()


def _iterate_variables(owner: Any) -> Iterator[Variable]:
    """Iterate over the variables of a mapping, list, layer, optimizer or random state, in order."""
    if isinstance(owner, Mapping):
        owner = list(owner.values())
    if isinstance(owner, Sequence):
        for item in owner:
            yield from _iterate_variables(item)
    elif hasattr(owner, "variables"):
        yield from owner.variables
    elif hasattr(owner, "state"):
        yield owner.state
    elif owner is not None:
        yield owner


# Other metrics in the log.
_RESERVED_NAMES = ("loss", "regularization", "gradient norm")


def _check_name(name: str | None) -> str | None:
    if name in _RESERVED_NAMES:
        raise ValueError(
            f"{name!r} is already the name of another metric in the log; reserved: {', '.join(_RESERVED_NAMES)}"
        )
    return name


_FORMER_NAMES = {"heads": "output_kinds", "works_on": "accepted_output_kinds"}


class Loss(Spec):
    """One weighted term of the objective that the student minimizes.

    Calling a loss returns one value per example, shape `(batch,)`; or a scalar if the value depends on the whole
    batch (`whole_batch`). The mean over the batch is the loss. The caller applies the weight.

    Class variables describe a kind:

    - `known_as`, `paper`: other name and reference, for the catalogue.
    - `needs_teacher`, `needs_labels`: inputs that it requires.
    - `one_class`: whether labels must name a single class for each example; mixed labels are refused.
    - `output_kinds`: output kinds that it can compare.
    - `least_batch`, `least_classes`: minimum batch size and number of classes.
    - `one_device`: whether it works on a single device only.
    - `keeps`: state besides weights, such as a memory or a discriminator.
    - `notes`: one-line differences from similar methods.
    - `non_negative`, `zero_when_equal`: properties that the loss contract checks.

    Args:
        name: name of the term in the log and in `--set`; the kind if omitted.
        weight: factor of the term, used as written, or a `Change`.
        warmup: fraction of training over which the weight rises from 0; 0 to 1.
    """

    known_as: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    keeps: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[tuple[str, ...]] = ()
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    one_class: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False
    one_device: ClassVar[bool] = False
    output_kinds: ClassVar[tuple[str, ...]] = ("logits",)
    # The former name of `output_kinds`, accepted for one release.
    heads: ClassVar[tuple[str, ...]]
    least_batch: ClassVar[int] = 1
    least_classes: ClassVar[int] = 1
    non_negative: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    # Defaults that depend on another option: {("standardize", True): {"weight": 9.0}}.
    implied: ClassVar[Mapping[tuple[str, Any], Mapping[str, Any]]] = {}
    # Whether logits may have axes between batch and classes, as maps and token sequences do.
    leading_axes: ClassVar[bool] = True
    shape_text: ClassVar[str] = "student, teacher (batch, ..., classes) → (batch,)"

    # `loss(student=..., teacher=..., labels=..., ...)`; a kind ignores the arguments that it does not need.
    __call__: ClassVar[Callable[..., Any]]

    kind: str
    name: Annotated[str | None, AfterValidator(_check_name)] = None
    weight: Weight = 1.0
    warmup: Fraction = 0.0

    @classmethod
    def defaults(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of the options by name, given the options of an entry."""
        return super().defaults(entry) | cls._implied_defaults(entry)

    @classmethod
    def _implied_defaults(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        changed = [others for (option, value), others in cls.implied.items() if entry.get(option) == value]
        return {name: default for others in changed for name, default in others.items()}

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Accept the former names of class variables in custom kinds, with a warning."""
        for former, name in _FORMER_NAMES.items():
            if former in cls.__dict__:
                setattr(cls, name, cls.__dict__[former])
                text = f"{cls.__name__}.{former} is now {name}; the next release does not accept {former}"
                warnings.warn(text, FutureWarning, stacklevel=3)

    @model_validator(mode="before")
    @classmethod
    def _fill_implied_defaults(cls, values: Any) -> Any:
        return {**cls._implied_defaults(values), **values} if isinstance(values, dict) else values

    @property
    def label(self) -> str:
        """The term's name in logs and in `--set`."""
        return self.name or self.kind

    def weight_at(self, progress: float | Tensor) -> float | Tensor:
        """Return the weight, including warm-up, at the fraction `progress` (0 to 1) of training."""
        weight = value_at(self.weight, progress)
        if self.warmup == 0:
            return weight
        return weight * ops.minimum(ops.convert_to_tensor(progress, dtype="float32") / self.warmup, 1.0)

    @property
    def on_logits(self) -> bool:
        """Whether it compares outputs; otherwise it compares inner layers, which a run pairs."""
        return True

    @property
    def accepted_output_kinds(self) -> tuple[str, ...]:
        """The output kinds that it can compare with the options it has."""
        return self.output_kinds

    @property
    def has_parts(self) -> bool:
        """Whether it must be called with the parts that `build` returns."""
        return type(self).build is not Loss.build

    def build(self, given: Given) -> Parts:
        """Build the parts of the loss; most losses have none."""
        return NO_PARTS


def _select_layer_tag(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "text"


LayerNames = Annotated[
    Annotated[str | None, Tag("text")] | Annotated[Names, Tag("list")], Discriminator(_select_layer_tag)
]


class FeatureLoss(Loss):
    """A loss between inner tensors. `student` and `teacher` are one feature each, or lists of paired features.

    Class variables describe a kind, in addition to those of `Loss`:

    - `projects`: whether the student's features are projected to the teacher's shapes first.
    - `axes`: numbers of axes that a feature may have without the batch (3: maps, 2: sequences, 1: vectors); the
      first that both networks offer is used.
    - `pairing`: which pairs are chosen if the recipe names no layers: the `last` one or `several`.
    - `least_pairs`: minimum number of pairs.
    - `equal`: what must be equal in a pair of shapes: `channels`, `space` (height and width, or steps). A loss
      that projects needs neither.
    - `family`: whether it is known to help only between networks of the same family.
    - `all_with_all`: whether every student layer is compared with every teacher layer; each is then passed once.
    - `before_activation`, `attention_scores`: which features are chosen if the recipe names no layers.
    - `needs_normalization`: whether the teacher's features must be outputs of batch normalization
      (`Given.normalizations`).
    - `grows_student`: whether its layers are built into the student and become part of the student's file.

    Args:
        teacher_layer: tap name or names in the teacher; chosen by depth and size if omitted.
        student_layer: tap name or names in the student, one for each teacher layer.
    """

    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid", "values")
    projects: ClassVar[bool] = False
    axes: ClassVar[tuple[int, ...]] = (3, 2, 1)
    pairing: ClassVar[Literal["last", "several"]] = "last"
    least_pairs: ClassVar[int] = 1
    equal: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[bool] = False
    all_with_all: ClassVar[bool] = False
    before_activation: ClassVar[bool] = False
    attention_scores: ClassVar[bool] = False
    needs_normalization: ClassVar[bool] = False
    grows_student: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, ..., channels), or lists of them → (batch,)"

    teacher_layer: LayerNames = None
    student_layer: LayerNames = None

    @model_validator(mode="after")
    def _check_layer_counts(self) -> FeatureLoss:
        ours, theirs = len(self.student_layers), len(self.teacher_layers)
        if ours and theirs and ours != theirs:
            raise ValueError(
                f"teacher_layer names {theirs}, student_layer {ours}: name the same number, or omit both"
            )
        if max(ours, theirs) > 1 and not (ours and theirs):
            missing = "student_layer" if theirs else "teacher_layer"
            raise ValueError(f"several layers are named, so {missing} must name the same number")
        if 0 < max(ours, theirs) < self.least_pairs:
            raise ValueError(f"one layer is named, but {self.kind} compares lists of at least {self.least_pairs}")
        return self

    @property
    def on_logits(self) -> bool:
        """Whether its options make it compare outputs instead of inner layers."""
        return False

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """The teacher's tap names; empty if they are chosen automatically."""
        return _make_tuple(self.teacher_layer)

    @property
    def student_layers(self) -> tuple[str, ...]:
        """The student's tap names; empty if they are chosen automatically."""
        return _make_tuple(self.student_layer)


def _make_tuple(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
