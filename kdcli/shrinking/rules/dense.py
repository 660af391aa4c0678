"""Dense layers, einsum products and embeddings."""

from __future__ import annotations

from kdcli.shrinking.channels import Axes, Call, CountKept
from kdcli.shrinking.rules.elementwise import apply_activation
from kdcli.shrinking.slots import Vector


def multiply(call: Call) -> list[Axes]:
    """Dense: the kernel is (inputs, units); axes in front of the last one pass through."""
    layer, traced = call.layer, call.input
    vector = call.make(layer.units)
    call.read(layer, layer.kernel, 0, traced.axes[-1])
    call.bind(layer.kernel, 1, vector, "makes")
    call.bind(layer.bias if layer.use_bias else None, 0, vector, "follows")
    call.edit_count("units", vector)
    return [(*traced.axes[:-1], apply_activation(call, vector))]


def embed(call: Call) -> list[Axes]:
    """Embedding: the table is (tokens, outputs)."""
    layer, traced = call.layer, call.input
    vector = call.make(layer.output_dim)
    call.bind(layer.embeddings, 1, vector, "makes")
    call.edit_count("output_dim", vector)
    return [(*traced.axes, vector)]


def contract(call: Call) -> list[Axes]:
    """EinsumDense: each letter of the equation is read, made, or passed through by the kernel."""
    layer, traced = call.layer, call.input
    equation = layer.equation.replace(" ", "")
    if "." in equation:
        call.give_up("has an equation with an ellipsis")
        return []
    given, output = equation.split("->")
    letters, kernel = given.split(",")
    found: dict[str, Vector] = dict(zip(letters, traced.axes, strict=True))
    for axis, letter in enumerate(kernel):
        if letter in letters and letter in output:
            call.bind(layer.kernel, axis, found[letter], "follows")
        elif letter in letters:
            is_last = letter == letters[-1]
            if is_last:
                call.read(layer, layer.kernel, axis, found[letter])
            else:
                call.bind(layer.kernel, axis, found[letter], "reads")
        else:
            found[letter] = call.make(int(layer.kernel.shape[axis]), part=letter)
            call.bind(layer.kernel, axis, found[letter], "makes")
    for letter in set(letters) - set(kernel) - set(output):
        call.fix(found[letter], f"{call.name} sums over it")
    axes = [found[letter] for letter in output]
    if layer.bias is not None:
        for axis in range(1, len(layer.bias.shape) + 1):
            if layer.bias.shape[-axis] > 1:
                call.bind(layer.bias, -axis, axes[-axis], "follows")
    # The setting leaves out the batch axis, and may leave a side open.
    declared = layer.get_config()["output_shape"]
    sides = [declared] if isinstance(declared, int) else list(declared)

    def compute(count: CountKept) -> list[int | None]:
        parts = zip(sides, axes[-len(sides) :], strict=True)
        return [side if side is None or vector is None else count(vector) for side, vector in parts]

    call.edit("output_shape", compute)
    return [tuple(apply_activation(call, vector) for vector in axes)]


DENSE_LAYERS = {"Dense": multiply, "Embedding": embed, "EinsumDense": contract}
