"""A loss with inputs made for it, from what its kind says of itself: what the contract is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.lazy import keras, tf
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Loss, Parts
from kdcli.models.variables import preserve_values

Size = tuple[int, ...]

# Features without the batch axis, the shallowest first, by their number of axes.
SHAPES: dict[int, tuple[Size, ...]] = {
    3: ((8, 8, 6), (4, 4, 6)),
    2: ((5, 6), (5, 6)),
    1: ((6,), (6,)),
}
ROLES = ("student", "teacher")
CLASSES = 5
EXAMPLE_COUNT = 24


@dataclass(frozen=True)
class Trial:
    """A loss, its inputs, and the parts that it owns.

    Args:
        loss: what is tried.
        given: `student`, `teacher`, `labels` and `index`; features are lists, as in a run.
        parts: built for these shapes; every call leaves them as they were.
        built: how many variables the parts had before the first call.
    """

    loss: Loss
    given: Mapping[str, Any]
    parts: Parts = NO_PARTS
    built: int = 0

    @property
    def batch(self) -> int:
        """How many examples there are."""
        return int(self.given["index"].shape[0])

    def with_changes(self, loss: Loss | None = None, **changes: Any) -> Trial:
        """The same with other inputs, or with another loss of the kind."""
        return replace(self, loss=loss or self.loss, given={**self.given, **changes})

    def rows(self, begin: int, end: int) -> Trial:
        """A part of the batch."""
        cut = {name: map_tensors(value, lambda whole: whole[begin:end]) for name, value in self.given.items()}
        return replace(self, given=cut)

    def call(self, given: Mapping[str, Any]) -> Any:
        """What the loss gives for some inputs; its parts may change."""
        return self.loss(**{"output_kind": default_output_kind(self.loss), **given}, parts=self.parts)

    def value(self) -> Any:
        """What the loss gives."""
        with preserve_values(self.parts.variables):
            return self.call(self.given)

    def gradients(self, *of: str, weights: Any = None) -> tuple[Any, list[Any]]:
        """The value, and its gradient for each tensor of one or more sides; None where there is none.

        Args:
            of: `student` (the default), `teacher`, `parts` for what learns with the student.
            weights: (batch,), of the values.
        """
        watched = []
        for side in of or ("student",):
            if side == "parts":
                watched += [variable.value for variable in self.parts.trainable_variables]
            else:
                watched += list_tensors(self.given[side])
        with preserve_values(self.parts.variables), tf.GradientTape() as tape:
            tape.watch(watched)
            value = self.call(self.given)
            scaled = value if weights is None else value * tf.cast(weights, value.dtype)
        return value, tape.gradient(scaled, watched)


def make_trial(
    loss: Loss,
    *,
    batch: int | None = None,
    middle: Size = (),
    student: Sequence[Size] | None = None,
    teacher: Sequence[Size] | None = None,
    dtype: str = "float32",
) -> Trial:
    """A trial of a loss on random inputs.

    Args:
        loss: of any kind.
        batch: examples; 8, or twice what the kind needs at least.
        middle: axes of logits between the batch and the classes.
        student, teacher: shapes of features without the batch axis; by default what the kind's `axes` come first.
        dtype: of the inputs, and of the layers that the loss builds.
    """
    batch = batch or max(8, 2 * loss.least_batch)
    if not loss.on_logits:
        assert isinstance(loss, FeatureLoss)
        student = student or default_shapes(loss)
        teacher = teacher or student
    else:
        student = teacher = [(*middle, max(CLASSES, loss.least_classes))]
    with _float_type(dtype):
        parts = loss.build(_given(student, teacher, batch)) if loss.has_parts else NO_PARTS
    given = draw_inputs(loss, student, teacher, batch=batch, dtype=dtype)
    trial = Trial(loss, given, parts, len(parts.variables))
    if parts.kept:
        # A first call may set itself up from its batch; what holds afterwards is tried.
        trial.call(trial.given)
    return trial


def default_shapes(loss: FeatureLoss, axes: int | None = None) -> tuple[Size, ...]:
    """Feature shapes that a kind with these axes takes, at least as many as it needs."""
    number = max(loss.least_pairs, 2 if loss.pairing == "several" else 1)
    shapes = SHAPES[axes or loss.axes[0]]
    return tuple(shapes[min(place, len(shapes) - 1)] for place in range(number))


def draw_inputs(
    loss: Loss,
    student: Sequence[Size],
    teacher: Sequence[Size],
    *,
    batch: int,
    dtype: str = "float32",
    size: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Normally distributed inputs of a standard deviation, labels as the usual head has them, example indices."""
    random = np.random.default_rng(seed)

    def draw(shape: Size) -> Any:
        return tf.cast(size * random.normal(size=(batch, *shape)), dtype)

    ours, theirs = [draw(shape) for shape in student], [draw(shape) for shape in teacher]
    labels = tf.constant(random.integers(0, CLASSES, batch))
    if loss.on_logits:
        labels = make_labels(default_output_kind(loss), draw(student[0]))
    return {
        "student": ours[0] if loss.on_logits else ours,
        "teacher": theirs[0] if loss.on_logits else theirs,
        "labels": labels,
        "index": tf.range(batch, dtype="int64"),
    }


def default_output_kind(loss: Loss) -> str:
    """The kind of outputs that the loss is tried with: logits where it takes them."""
    return "logits" if "logits" in loss.output_kinds or not loss.on_logits else loss.output_kinds[0]


def make_labels(output_kind: str, outputs: Any) -> Any:
    """Labels for outputs (batch, ..., classes): the largest as a class, or those above 0 as ones."""
    return tf.argmax(outputs, axis=-1) if output_kind == "logits" else tf.cast(outputs > 0, "float32")


def map_tensors(value: Any, change: Callable[[Any], Any]) -> Any:
    """A tensor, or each of a list of them, changed."""
    return [change(item) for item in value] if isinstance(value, list) else change(value)


def list_tensors(value: Any) -> list[Any]:
    """A tensor, or a list of them, as a list."""
    return value if isinstance(value, list) else [value]


@contextmanager
def freeze_batch_norm(parts: Parts) -> Iterator[None]:
    """Batch normalisation in the parts uses what it has learned, not the batch, which would mix the examples."""
    layers = [item for item in tf.nest.flatten(dict(parts.trained)) if isinstance(item, keras.layers.Layer)]
    before = [layer.trainable for layer in layers]
    for layer in layers:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, trainable in zip(layers, before, strict=True):
            layer.trainable = trainable


def _given(student: Sequence[Size], teacher: Sequence[Size], batch: int) -> Given:
    normalizations = tuple(
        (np.linspace(0.5, 1.5, shape[-1], dtype="float32"), np.linspace(-0.5, 0.5, shape[-1], dtype="float32"))
        for shape in teacher
    )
    return Given(
        tuple(student), tuple(teacher), examples=EXAMPLE_COUNT, batch=batch, normalizations=normalizations
    )


@contextmanager
def _float_type(name: str) -> Iterator[None]:
    """Layers made inside compute in a float type, half precision excepted."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    wide = name if name == "float64" else "float32"
    keras.config.set_floatx(wide)
    keras.config.set_dtype_policy(wide)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
