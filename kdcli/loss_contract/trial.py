"""A loss with generated inputs that fit its kind: what the contract is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from kdcli.lazy import keras, tf
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Loss, Parts
from kdcli.models.variables import preserve_values
from kdcli.tensors import Tensor, Tensors

_Shape = tuple[int, ...]

# Shapes of features without the batch axis, by number of axes, from shallow to deep layers.
SHAPES: dict[int, tuple[_Shape, ...]] = {
    3: ((8, 8, 6), (4, 4, 6)),
    2: ((5, 6), (5, 6)),
    1: ((6,), (6,)),
}
ROLES = ("student", "teacher")
CLASSES = 5
EXAMPLE_COUNT = 24


@dataclass(frozen=True)
class Trial:
    """A loss, its inputs, and its parts.

    Args:
        loss: the loss.
        given: `student`, `teacher`, `labels` and `index`; features are lists, as in a run.
        parts: parts built for these shapes; `value` and `gradients` leave them unchanged.
        built: number of variables of the parts before the first call.
    """

    loss: Loss
    given: Tensors
    parts: Parts = NO_PARTS
    built: int = 0

    @property
    def batch(self) -> int:
        """Number of examples."""
        return int(self.given["index"].shape[0])

    def with_changes(self, loss: Loss | None = None, **changes: Tensor) -> Trial:
        """The trial with other inputs, or with another loss of the kind."""
        return replace(self, loss=loss or self.loss, given={**self.given, **changes})

    def select_rows(self, begin: int, end: int) -> Trial:
        """A slice of the batch."""
        rows = {name: map_tensors(value, lambda whole: whole[begin:end]) for name, value in self.given.items()}
        return replace(self, given=rows)

    def call(self, given: Tensors) -> Tensor:
        """The value of the loss for some inputs; its parts may change."""
        return self.loss(**{"output_kind": default_output_kind(self.loss), **given}, parts=self.parts)

    def value(self) -> Tensor:
        """The value of the loss."""
        with preserve_values(self.parts.variables):
            return self.call(self.given)

    def gradients(self, *of: str, weights: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The value, and its gradients with respect to tensors; None for a tensor without a gradient.

        Args:
            of: `student` (the default), `teacher`, or `parts` for the trained parts.
            weights: (batch,) weights of the values.
        """
        watched = []
        for source in of or ("student",):
            if source == "parts":
                watched += [variable.value for variable in self.parts.trainable_variables]
            else:
                watched += list_tensors(self.given[source])
        with preserve_values(self.parts.variables), tf.GradientTape() as tape:
            tape.watch(watched)
            value = self.call(self.given)
            scaled = value if weights is None else value * tf.cast(weights, value.dtype)
        return value, tape.gradient(scaled, watched)


def make_trial(
    loss: Loss,
    *,
    batch: int | None = None,
    middle: _Shape = (),
    student: Sequence[_Shape] | None = None,
    teacher: Sequence[_Shape] | None = None,
    dtype: str = "float32",
) -> Trial:
    """Make a trial of a loss with random inputs.

    Args:
        loss: a loss of any kind.
        batch: number of examples; by default 8, or twice the minimum of the kind if that is more.
        middle: sizes of the axes of logits between the batch and the classes.
        student, teacher: shapes of features without the batch axis; by default those of `default_shapes`.
        dtype: data type of the inputs, and of the layers that the loss builds.
    """
    batch = batch or max(8, 2 * loss.least_batch)
    if not loss.on_logits:
        assert isinstance(loss, FeatureLoss)
        student = student or default_shapes(loss)
        teacher = teacher or student
    else:
        student = teacher = [(*middle, max(CLASSES, loss.least_classes))]
    with _use_float_type(dtype):
        parts = loss.build(_describe_shapes(student, teacher, batch)) if loss.has_parts else NO_PARTS
    given = draw_inputs(loss, student, teacher, batch=batch, dtype=dtype)
    trial = Trial(loss, given, parts, len(parts.variables))
    if parts.kept:
        # The first call may initialize the parts from its batch; the contract is checked afterwards.
        trial.call(trial.given)
    return trial


def default_shapes(loss: FeatureLoss, axes: int | None = None) -> tuple[_Shape, ...]:
    """Shapes of as many features as the kind needs, with one of its numbers of axes."""
    number = max(loss.least_pairs, 2 if loss.pairing == "several" else 1)
    shapes = SHAPES[axes or loss.axes[0]]
    return tuple(shapes[min(depth, len(shapes) - 1)] for depth in range(number))


def draw_inputs(
    loss: Loss,
    student: Sequence[_Shape],
    teacher: Sequence[_Shape],
    *,
    batch: int,
    dtype: str = "float32",
    size: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Normally distributed inputs with the standard deviation `size`, fitting labels, and example indices."""
    random = np.random.default_rng(seed)

    def draw(shape: _Shape) -> Tensor:
        return tf.cast(size * random.normal(size=(batch, *shape)), dtype)

    features = {"student": [draw(shape) for shape in student], "teacher": [draw(shape) for shape in teacher]}
    labels = tf.constant(random.integers(0, CLASSES, batch))
    if loss.on_logits:
        labels = make_labels(default_output_kind(loss), draw(student[0]))
    return {
        **{role: drawn[0] if loss.on_logits else drawn for role, drawn in features.items()},
        "labels": labels,
        "index": tf.range(batch, dtype="int64"),
    }


def default_output_kind(loss: Loss) -> str:
    """The output kind of a trial: `logits` if the loss accepts them."""
    return "logits" if "logits" in loss.output_kinds or not loss.on_logits else loss.output_kinds[0]


def make_labels(output_kind: str, outputs: Tensor) -> Tensor:
    """Labels for outputs (batch, ..., classes): the class of the largest logit, or ones for outputs above 0."""
    return tf.argmax(outputs, axis=-1) if output_kind == "logits" else tf.cast(outputs > 0, "float32")


def map_tensors(value: Tensor | list[Tensor], change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to a tensor, or to each tensor of a list."""
    return [change(item) for item in value] if isinstance(value, list) else change(value)


def list_tensors(value: Tensor | list[Tensor]) -> list[Tensor]:
    """A tensor or a list of tensors, as a list."""
    return value if isinstance(value, list) else [value]


@contextmanager
def freeze_batch_norm(parts: Parts) -> Iterator[None]:
    """Let batch normalization in the parts use its moving statistics: those of a batch would mix the examples."""
    layers = [item for item in tf.nest.flatten(dict(parts.trained)) if isinstance(item, keras.layers.Layer)]
    before = [layer.trainable for layer in layers]
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, trainable in zip(layers, before, strict=True):
            layer.trainable = trainable


def _describe_shapes(student: Sequence[_Shape], teacher: Sequence[_Shape], batch: int) -> Given:
    normalizations = tuple(
        (np.linspace(0.5, 1.5, shape[-1], dtype="float32"), np.linspace(-0.5, 0.5, shape[-1], dtype="float32"))
        for shape in teacher
    )
    return Given(
        tuple(student), tuple(teacher), examples=EXAMPLE_COUNT, batch=batch, normalizations=normalizations
    )


@contextmanager
def _use_float_type(name: str) -> Iterator[None]:
    """Build layers in a float type; in float32 for half precision."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    dtype = name if name == "float64" else "float32"
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
