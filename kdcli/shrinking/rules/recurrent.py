"""Recurrent layers, and the wrappers that run layers over time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kdcli.shrinking.channels import Axes, Call, Traced, join_vectors
from kdcli.shrinking.rules.elementwise import is_elementwise
from kdcli.shrinking.slots import Vector

_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def recur(call: Call) -> list[Axes]:
    """LSTM, GRU, SimpleRNN: a unit has a column in each gate, and a row in the recurrent kernel."""
    if call.layer.stateful:
        call.give_up("keeps its state between batches")
        return []
    units = _bind_units(call, call.layer, part="")
    call.edit_count("units", units)
    return _give_outputs(call, call.layer, units)


def _bind_units(call: Call, layer: Any, *, part: str) -> Vector:
    """Bind the weights of a recurrent layer; return the slots of its units."""
    cell, traced = layer.cell, call.input
    units, gates = call.make(layer.units, part=part), _GATES[type(layer).__name__]
    for activation in (layer.activation, getattr(layer, "recurrent_activation", None)):
        if not is_elementwise(activation):
            call.fix(units, f"{call.name} has an activation that is not elementwise")
    for axis, vector in enumerate(traced.axes[:-1]):
        call.fix(vector, f"{call.name} runs along axis {axis}")
    call.read(layer, cell.kernel, 0, traced.axes[-1])
    columns = None if units is None else np.tile(units, gates)
    call.bind(cell.kernel, 1, columns, "makes")
    call.bind(cell.recurrent_kernel, 0, units, "reads")
    call.bind(cell.recurrent_kernel, 1, columns, "makes")
    call.bind(cell.bias if layer.use_bias else None, -1, columns, "follows")
    for state in call.inputs[1:]:
        call.unite(units, state.axes[-1])
    return units


def _give_outputs(call: Call, layer: Any, units: Vector) -> list[Axes]:
    output: Axes = (None, None, units) if layer.return_sequences else (None, units)
    states = 2 if type(layer).__name__ == "LSTM" else 1
    return [output, *[(None, units)] * (states if layer.return_state else 0)]


def recur_both_ways(call: Call) -> list[Axes]:
    """Bidirectional: both directions keep the same units, since one configuration may describe both."""
    wrapper = call.layer
    forward, backward = wrapper.forward_layer, wrapper.backward_layer
    if type(forward).__name__ not in _GATES or len(call.inputs) > 1 or forward.return_state or forward.stateful:
        call.give_up(f"wraps {type(forward).__name__} in an unsupported way")
        return []
    ahead, back = _bind_units(call, forward, part="forward"), _bind_units(call, backward, part="backward")
    call.unite(ahead, back)
    call.edit_count(("layer", "config", "units"), ahead)
    if "backward_layer" in wrapper.get_config():
        call.edit_count(("backward_layer", "config", "units"), back)
    if wrapper.merge_mode is None:
        return [*_give_outputs(call, forward, ahead), *_give_outputs(call, backward, back)]
    merged = ahead
    if wrapper.merge_mode == "concat":
        merged = join_vectors([(ahead, forward.units), (back, backward.units)])
    return _give_outputs(call, forward, merged)


def distribute(call: Call) -> list[Axes]:
    """TimeDistributed: the rule of the inner layer, for each step."""
    from kdcli.shrinking.rules import find_rule

    traced, inner = call.input, call.layer.layer
    rule = find_rule(inner)
    if rule is None or len(call.inputs) > 1:
        call.give_up(f"wraps {type(inner).__name__}, which is not supported")
        return []
    call.fix(traced.axes[1], f"{call.name} runs along it")
    step = Traced((traced.shape[0], *traced.shape[2:]), (traced.axes[0], *traced.axes[2:]))
    shape = (call.shape[0], *call.shape[2:]) if call.shape else ()
    before, readers = set(call.channels.edits), len(call.channels.readers)
    outputs = rule(replace(call, layer=inner, args=(step,), kwargs={}, shape=shape))
    for path, keys in set(call.channels.edits) - before:
        if path == call.path:
            call.channels.edits[path, ("layer", "config", *keys)] = call.channels.edits.pop((path, keys))
    # The inner layer sees one step at a time; the wrapper sees all of them.
    call.channels.readers[readers:] = [
        replace(reader, layer=call.layer) for reader in call.channels.readers[readers:]
    ]
    return [(axes[0], None, *axes[1:]) for axes in outputs]


RECURRENT_LAYERS = {
    **dict.fromkeys(_GATES, recur),
    "Bidirectional": recur_both_ways,
    "TimeDistributed": distribute,
}
