"""Multi-head attention: whole heads can be removed."""

from __future__ import annotations

from kdcli.shrinking.channels import Axes, Call, CountKept, Reader, Traced
from kdcli.shrinking.slots import Vector


def attend(call: Call) -> list[Axes]:
    """MultiHeadAttention: makes heads and an output width; reads the widths of query, key and value."""
    layer = call.layer
    names = ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")
    given = dict(zip(names, call.args, strict=False)) | dict(call.kwargs)
    query, value = given["query"], given["value"]
    key = given.get("key")
    key = value if key is None else key
    heads = call.make(layer.num_heads, part="heads", rounded=False)
    mask = given.get("attention_mask")
    if isinstance(mask, Traced) and len(mask.shape) == 4 and mask.shape[1] != 1:
        call.fix(heads, f"{call.name} has a mask for each head")
    sides = {layer.query_dense: query, layer.key_dense: key, layer.value_dense: value}
    for dense, traced in sides.items():
        for axis, vector in enumerate(traced.axes[:-1]):
            call.fix(vector, f"{call.name} attends along axis {axis}")
        call.read(dense, dense.kernel, 0, traced.axes[-1])
        call.bind(dense.kernel, 1, heads, "makes")
        call.bind(dense.bias, 0, heads, "follows")
    output = layer.output_dense
    call.bind(output.kernel, 0, heads, "reads")
    if heads is not None:
        call.channels.readers.append(Reader(output, 0, -2, heads))
    call.edit_count("num_heads", heads)
    return [_make_output(call, query.axes), (None, heads, None, None)]


def _make_output(call: Call, query: Axes) -> Axes:
    """The output has new channels, even if there are as many as in the query."""
    layer = call.layer
    kernel, rank = layer.output_dense.kernel, len(query)
    if len(kernel.shape) != 3:
        return (None,) * rank
    vector: Vector = call.make(int(kernel.shape[2]), part="output")
    call.bind(kernel, 2, vector, "makes")
    call.bind(layer.output_dense.bias, 0, vector, "follows")

    def compute(count: CountKept) -> list[int] | None:
        return layer.get_config()["output_shape"] if vector is None else [count(vector)]

    call.edit("output_shape", compute)
    return (None,) * (rank - 1) + (vector,)


ATTENTION_LAYERS = {"MultiHeadAttention": attend}
