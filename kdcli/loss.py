"""What every loss is: a weighted term, what it needs, and the parts of its own that it may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Tag, model_validator

from kdcli.lazy import ops
from kdcli.spec import Fraction, Names, Spec, Weight, value_at

Shape = tuple[int | None, ...]
# Features by their number of axes beside the batch, as people call them.
FEATURE_NAMES = {3: "maps", 2: "sequences", 1: "vectors"}


@dataclass(frozen=True)
class Given:
    """What a loss may make its parts from.

    Args:
        student: shapes of the student's features, without the batch axis; as projected, where the loss
            `projects`. For a loss on outputs: of its logits.
        teacher: the teacher's, in the same order.
        examples: training examples, for memories by index.
        batch: examples in a batch, for parts whose size follows it.
        seed: of random starts.
        normalizations: for each of the teacher's features the (scale, shift) of the batch normalisation that
            made it, each (channels,), or None where none did.
    """

    student: tuple[Shape, ...]
    teacher: tuple[Shape, ...]
    examples: int = 1
    batch: int = 1
    seed: int = 0
    normalizations: tuple[tuple[Any, Any] | None, ...] = ()


@dataclass(frozen=True)
class Parts:
    """What a term owns beside its settings; all of it is in checkpoints and none of it in the exported student.

    Args:
        trained: built Keras layers and variables that learn with the student, by name; a list of them counts too.
        kept: what only the loss changes: memories, random states, an opponent and its optimizer.
    """

    trained: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainable_variables(self) -> list[Any]:
        """What learns with the student."""
        return [variable for variable in _variables(self.trained) if variable.trainable]

    @property
    def variables(self) -> list[Any]:
        """Everything that a checkpoint holds."""
        return [*_variables(self.trained), *_variables(self.kept)]


NO_PARTS = Parts()


def _variables(owner: Any) -> Iterator[Any]:
    """The variables in a mapping, a list, a layer, an optimizer or a random state, in order."""
    if isinstance(owner, Mapping):
        owner = list(owner.values())
    if isinstance(owner, Sequence):
        for item in owner:
            yield from _variables(item)
    elif hasattr(owner, "variables"):
        yield from owner.variables
    elif hasattr(owner, "state"):
        yield owner.state
    elif owner is not None:
        yield owner


# Figures of the log beside the terms.
_RESERVED_NAMES = ("loss", "regularization", "gradient norm")


def _unreserved(name: str | None) -> str | None:
    if name in _RESERVED_NAMES:
        raise ValueError(f"{name!r} is what the log calls another figure; reserved: {', '.join(_RESERVED_NAMES)}")
    return name


class Loss(Spec):
    """One weighted term of what the student minimises.

    Calling it gives a tensor whose mean over the batch is the loss: `(batch,)`, or a scalar where the value
    depends on the whole batch (`whole_batch`). The weight is applied outside.

    A kind says of itself, in class variables: `known_as` and `paper` for the catalogue; what it `needs_...`;
    whether its labels must name `one_class` for each example (mixed ones are refused); the `heads` it can
    compare; the `least_batch` and `least_classes` that it works with; whether it works on `one_device` only; what
    it `keeps` beside weights (a memory, a discriminator); `notes` on what differs from another method in one
    line; for the contract, whether it is `non_negative` and `zero_when_equal`.

    Args:
        name: what the log and `--set` call the term; the kind when left out.
        weight: used as written, or a `Change`.
        warmup: share of training over which the weight rises from 0.
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
    least_batch: ClassVar[int] = 1
    least_classes: ClassVar[int] = 1
    non_negative: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = True
    # Defaults that another option changes: {("standardize", True): {"weight": 9.0}}.
    implied: ClassVar[Mapping[tuple[str, Any], Mapping[str, Any]]] = {}
    # Whether logits may have axes between the batch and the classes: maps, tokens.
    leading_axes: ClassVar[bool] = True
    shape_text: ClassVar[str] = "student, teacher (batch, ..., classes) → (batch,)"

    # The verb of every kind: `loss(student=..., teacher=..., labels=..., ...)`, what it does not need it ignores.
    __call__: ClassVar[Callable[..., Any]]

    kind: str
    name: Annotated[str | None, AfterValidator(_unreserved)] = None
    weight: Weight = 1.0
    warmup: Fraction = 0.0

    @classmethod
    def defaults(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of the options by name, with those that an option in the entry changes."""
        return super().defaults(entry) | cls._implied_by(entry)

    @classmethod
    def _implied_by(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        changed = [others for (option, value), others in cls.implied.items() if entry.get(option) == value]
        return {name: default for others in changed for name, default in others.items()}

    @model_validator(mode="before")
    @classmethod
    def _fill_implied(cls, values: Any) -> Any:
        return {**cls._implied_by(values), **values} if isinstance(values, dict) else values

    @property
    def label(self) -> str:
        """The term's name in logs and in `--set`."""
        return self.name or self.kind

    def weight_at(self, progress: Any) -> Any:
        """The weight when the share `progress` of training is done, warm-up included."""
        weight = value_at(self.weight, progress)
        if self.warmup == 0:
            return weight
        return weight * ops.minimum(ops.convert_to_tensor(progress, dtype="float32") / self.warmup, 1.0)

    @property
    def on_logits(self) -> bool:
        """Whether it compares outputs; else inner layers, which a run then pairs."""
        return True

    @property
    def accepted_output_kinds(self) -> tuple[str, ...]:
        """The heads that it can compare as its options are."""
        return self.output_kinds

    @property
    def has_parts(self) -> bool:
        """Whether calling it needs what `build` makes."""
        return type(self).build is not Loss.build

    def build(self, given: Given) -> Parts:
        """The parts of its own, ready to be called; most losses have none."""
        return NO_PARTS


def _text_or_list(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "text"


LayerNames = Annotated[
    Annotated[str | None, Tag("text")] | Annotated[Names, Tag("list")], Discriminator(_text_or_list)
]


class FeatureLoss(Loss):
    """A loss between inner tensors. `student` and `teacher` are one feature or a list of features, in pairs.

    A kind says of itself: whether features are projected to the teacher's shape first (`projects`), the `axes`
    a feature may have beside the batch (3: maps, 2: sequences, 1: vectors; the first that both networks have is
    chosen), how pairs are chosen where nobody names them (`pairing`), the `least_pairs` it works with, what of
    the shapes must be `equal`, and whether networks of one `family` only are known to gain from it.

    Args:
        teacher_layer: tap name or names in the teacher; chosen by depth and size when left out.
        student_layer: the student's, one for each of the teacher's.
    """

    output_kinds: ClassVar[tuple[str, ...]] = ("logits", "sigmoid", "values")
    projects: ClassVar[bool] = False
    axes: ClassVar[tuple[int, ...]] = (3, 2, 1)
    pairing: ClassVar[Literal["last", "several"]] = "last"
    least_pairs: ClassVar[int] = 1
    # "channels" and "space" (height and width, or steps); a loss that projects needs neither.
    equal: ClassVar[tuple[str, ...]] = ()
    family: ClassVar[bool] = False
    # Whether every student layer is compared with every teacher layer: each comes once, not once for each pair.
    all_with_all: ClassVar[bool] = False
    # Whether features from before an activation are chosen, or attention scores, where nobody names them.
    before_activation: ClassVar[bool] = False
    attention_scores: ClassVar[bool] = False
    # Whether the teacher's features must come out of batch normalisation: `Given.normalizations`.
    needs_normalization: ClassVar[bool] = False
    # Whether a run builds the loss's layers into the student itself, so that they ship with it.
    grows_student: ClassVar[bool] = False
    shape_text: ClassVar[str] = "student, teacher (batch, ..., channels), or lists of them → (batch,)"

    teacher_layer: LayerNames = None
    student_layer: LayerNames = None

    @model_validator(mode="after")
    def _as_many_layers(self) -> FeatureLoss:
        ours, theirs = len(self.student_layers), len(self.teacher_layers)
        if ours and theirs and ours != theirs:
            raise ValueError(f"teacher_layer has {theirs}, student_layer {ours}: name as many, or leave both out")
        if max(ours, theirs) > 1 and not (ours and theirs):
            missing = "student_layer" if theirs else "teacher_layer"
            raise ValueError(f"several layers are named, so {missing} must name as many")
        if 0 < max(ours, theirs) < self.least_pairs:
            raise ValueError(f"1 layer on a side: {self.kind} compares lists of {self.least_pairs} layers or more")
        return self

    @property
    def on_logits(self) -> bool:
        """Whether it compares outputs instead of inner layers, as its options say."""
        return False

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """The teacher's tap names as a tuple, empty when they are to be chosen."""
        return _as_names(self.teacher_layer)

    @property
    def student_layers(self) -> tuple[str, ...]:
        """The student's tap names as a tuple, empty when they are to be chosen."""
        return _as_names(self.student_layer)


def _as_names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
