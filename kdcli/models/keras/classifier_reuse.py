"""Classifier reuse: a student whose feature map goes through its teacher's classifier, as one Keras model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from kdcli.errors import ModelError
from kdcli.lazy import keras
from kdcli.models.keras.network import KerasNetwork
from kdcli.tensors import KerasModel, Shape, Tensor

# Names of layers in the combined model: the projected map, and the teacher's classifier.
PROJECTED, CLASSIFIER = "projected_to_teacher", "teacher_classifier"


def graft_classifier(
    student: KerasNetwork, teacher: KerasNetwork, projector: Sequence[Any], *, student_tap: str, teacher_tap: str
) -> tuple[KerasNetwork, str]:
    """Combine the student up to a tap, a projector, and a frozen copy of the teacher's layers after its tap.

    A larger map is averaged to the size of the teacher's; a smaller one is repeated, which preserves its mean. The
    combined model shares the student's layers.

    Args:
        student: a model whose layers are known as a graph.
        teacher: a model whose layers are known as a graph.
        projector: built layers from the student's channels to the teacher's.
        student_tap: name of the student's feature map.
        teacher_tap: name of the teacher's feature map.

    Returns:
        The combined network, and the name of its tap of the projected map.

    Raises:
        ModelError: a subclassed model, a tap inside a nested model, or map sizes that do not divide evenly.
    """
    trunk = _cut_student(student, student_tap)
    size, teacher_size = student.taps[student_tap][:2], teacher.taps[teacher_tap][:2]
    flow = trunk.output
    larger = all(a is not None and b is not None and a >= b for a, b in zip(size, teacher_size, strict=True))
    if size != teacher_size and larger:
        factor = _divide(size, teacher_size, student_tap, teacher_tap)
        flow = keras.layers.AveragePooling2D(factor, name=_make_unique("averaged_to_teacher", trunk))(flow)
    projected = _make_unique(PROJECTED, trunk)
    flow = keras.Sequential([keras.Input(flow.shape[1:]), *projector], name=projected)(flow)
    if tuple(flow.shape[1:3]) != teacher_size:
        factor = _divide(teacher_size, tuple(flow.shape[1:3]), student_tap, teacher_tap)
        flow = keras.layers.UpSampling2D(factor, name=_make_unique("repeated_to_teacher", trunk))(flow)
    output = _copy_classifier(teacher, teacher_tap, name=_make_unique(CLASSIFIER, trunk))(flow)
    model = keras.Model(trunk.input, output, name=student.model.name)
    network = KerasNetwork(model, name=student.name).with_outputs_like(teacher)
    return network.with_preprocessing(student.preprocessing), projected


def _copy_classifier(teacher: KerasNetwork, tap: str, *, name: str) -> KerasModel:
    """Copy and freeze what the teacher computes from a tap."""
    original = _cut_teacher(teacher, tap)
    copy = keras.models.clone_model(original, clone_function=_copy_layer)
    copy.set_weights(original.get_weights())
    classifier = keras.Model(copy.inputs[0], copy.outputs[0], name=name)
    classifier.trainable = False
    return classifier


def _copy_layer(layer: Any) -> Any:
    """Copy a layer without regularization, and so that it computes in training what it computes in inference."""
    kind = type(layer).__name__
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer, clone_function=_copy_layer)
    if "Dropout" in kind or "Noise" in kind or kind.startswith("Random"):
        return keras.layers.Identity(name=layer.name)
    settings = {name: value for name, value in layer.get_config().items() if not name.endswith("_regularizer")}
    return type(layer).from_config(settings)


def _make_unique(name: str, model: KerasModel) -> str:
    """Add a number to a name that the model already uses, because the student was combined before."""
    taken = {layer.name for layer in model.layers}
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def _cut_student(student: KerasNetwork, tap: str) -> KerasModel:
    """The student's own layers up to a tap."""
    model, tensor = student.model, _find_tensor(student, tap, role="student")
    # The layers of a sequential model may belong to other graphs too, so a new graph is built.
    if not isinstance(model, keras.Sequential):
        return keras.Model(model.input, tensor, name="student_trunk")
    flow = inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype)
    for layer in model.layers[: _find_position(model, tap) + 1]:
        flow = layer(flow)
    return keras.Model(inputs, flow, name="student_trunk")


def _cut_teacher(teacher: KerasNetwork, tap: str) -> KerasModel:
    """The teacher's own layers after a tap."""
    model, tensor = teacher.model, _find_tensor(teacher, tap, role="teacher")
    if not isinstance(model, keras.Sequential):
        return keras.Model(tensor, model.outputs[teacher.output_index])
    return keras.Sequential([keras.Input(teacher.taps[tap]), *model.layers[_find_position(model, tap) + 1 :]])


def _find_position(model: KerasModel, tap: str) -> int:
    return next(number for number, layer in enumerate(model.layers) if layer.name == tap)


def _find_tensor(network: KerasNetwork, tap: str, *, role: str) -> Tensor:
    """Find the symbolic tensor of a tap.

    Raises:
        ModelError: the model has no such tensor.
    """
    model = network.model
    try:
        return model.get_layer(tap).output
    except (ValueError, AttributeError):
        raise ModelError(
            f"classifier_reuse needs the {role} ({network.name}) as a graph of layers, but {tap!r} is not one of "
            "its own layers: the model is subclassed, or the layer is in a nested model",
            hint=f"--set losses.classifier_reuse.{role}_layer=NAME, a layer of the outer functional model",
        ) from None


def _divide(size: Shape, divisor: Shape, student_tap: str, teacher_tap: str) -> tuple[int, int]:
    """Divide one map size by another.

    Raises:
        ModelError: a remainder.
    """
    sides = [(a, b) for a, b in zip(size, divisor, strict=True) if a is not None and b is not None]
    if len(sides) < 2 or any(a % b for a, b in sides):
        raise ModelError(
            f"losses.classifier_reuse: maps of {size} and {divisor} ({student_tap}, {teacher_tap}): "
            "neither divides the other",
            hint="choose layers whose map sizes divide evenly",
        )
    (a, b), (c, d) = sides
    return a // b, c // d
