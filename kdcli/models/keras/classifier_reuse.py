"""A student that goes on into its teacher's own classifier, as one Keras model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.models.keras.network import KerasNetwork

# Names in the grown student: the projected map, and the teacher's layers behind it.
PROJECTED, CLASSIFIER = "projected_to_teacher", "teacher_classifier"


def graft_classifier(
    student: KerasNetwork, teacher: KerasNetwork, projector: Sequence[Any], *, student_tap: str, teacher_tap: str
) -> tuple[KerasNetwork, str]:
    """The student up to a map, a projector to the teacher's map, and what the teacher computes from it, frozen.

    A larger map is averaged down to the teacher's; a smaller one reaches the teacher's layers by repetition, which
    leaves its mean as it is. The student's layers are shared, the teacher's are copied.

    Args:
        student, teacher: models whose layers are known as a graph.
        projector: built layers from the student's channels to the teacher's.
        ours, theirs: taps that are maps, on both sides.

    Returns:
        The network, and its tap of the projected map.

    Raises:
        ModelError: a subclassed model, a tap inside a nested model, or sizes that do not divide.
    """
    mapped = _until(student, student_tap)
    size, wanted = student.taps[student_tap][:2], teacher.taps[teacher_tap][:2]
    flow = mapped.output
    larger = all(a is not None and b is not None and a >= b for a, b in zip(size, wanted, strict=True))
    if size != wanted and larger:
        factor = _factor(size, wanted, student_tap, teacher_tap)
        flow = keras.layers.AveragePooling2D(factor, name=_unused("averaged_to_teacher", mapped))(flow)
    projected = _unused(PROJECTED, mapped)
    flow = keras.Sequential([keras.Input(flow.shape[1:]), *projector], name=projected)(flow)
    if tuple(flow.shape[1:3]) != wanted:
        factor = _factor(wanted, tuple(flow.shape[1:3]), student_tap, teacher_tap)
        flow = keras.layers.UpSampling2D(factor, name=_unused("repeated_to_teacher", mapped))(flow)
    output = _classifier(teacher, teacher_tap, name=_unused(CLASSIFIER, mapped))(flow)
    model = keras.Model(mapped.input, output, name=student.model.name)
    network = KerasNetwork(model, name=student.name).with_outputs_like(teacher)
    return network.with_preprocessing(student.preprocessing), projected


def _classifier(teacher: KerasNetwork, tap: str, *, name: str) -> Any:
    """A frozen copy of what the teacher computes from a tap."""
    inside = _behind(teacher, tap)
    copy = keras.models.clone_model(inside, clone_function=_answering)
    copy.set_weights(inside.get_weights())
    head = keras.Model(copy.inputs[0], copy.outputs[0], name=name)
    head.trainable = False
    return head


def _answering(layer: Any) -> Any:
    """A copy of a layer that answers while the student trains as it does otherwise, and asks nothing of it."""
    kind = type(layer).__name__
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer, clone_function=_answering)
    if "Dropout" in kind or "Noise" in kind or kind.startswith("Random"):
        return keras.layers.Identity(name=layer.name)
    settings = {name: value for name, value in layer.get_config().items() if not name.endswith("_regularizer")}
    return type(layer).from_config(settings)


def _unused(name: str, model: Any) -> str:
    """The name, or one with a number where the model has a layer of it: a student that has grown before."""
    taken = {layer.name for layer in model.layers}
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def _until(student: KerasNetwork, tap: str) -> Any:
    """The student up to a tap, of its own layers."""
    model, tensor = student.model, _tensor(student, tap, role="student")
    # The layers of a sequential model may have been called before, for another graph: one of its own is laid.
    if not isinstance(model, keras.Sequential):
        return keras.Model(model.input, tensor, name="student_trunk")
    flow = inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    for layer in model.layers[: _place(model, tap) + 1]:
        flow = layer(flow)
    return keras.Model(inputs, flow, name="student_trunk")


def _behind(teacher: KerasNetwork, tap: str) -> Any:
    """What the teacher computes from a tap, of its own layers."""
    model, tensor = teacher.model, _tensor(teacher, tap, role="teacher")
    if not isinstance(model, keras.Sequential):
        return keras.Model(tensor, model.outputs[teacher.output_index])
    return keras.Sequential([keras.Input(teacher.taps[tap]), *model.layers[_place(model, tap) + 1 :]])


def _place(model: Any, tap: str) -> int:
    return next(number for number, layer in enumerate(model.layers) if layer.name == tap)


def _tensor(network: KerasNetwork, tap: str, *, role: str) -> Any:
    """The symbolic tensor of a tap.

    Raises:
        ModelError: there is none.
    """
    model = network.model
    try:
        return model.get_layer(tap).output
    except (ValueError, AttributeError):
        raise ModelError(
            f"classifier_reuse needs the {role} ({network.name}) as a graph of layers, and {tap!r} is none of its "
            "own: it is subclassed, or the layer lies in a nested model",
            hint=f"--set losses.classifier_reuse.{role}_layer=NAME, a layer of the outer functional model",
        ) from None


def _factor(size: Any, wanted: Any, ours: str, theirs: str) -> tuple[int, int]:
    """How many times the smaller size goes into the larger.

    Raises:
        ModelError: not evenly.
    """
    if any(a % b for a, b in zip(size, wanted, strict=True)):
        raise ModelError(
            f"losses.classifier_reuse: maps of {size} and {wanted} ({ours}, {theirs}): neither divides the other",
            hint="name layers of sizes that do",
        )
    return size[0] // wanted[0], size[1] // wanted[1]
