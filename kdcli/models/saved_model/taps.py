"""Readable names for the inner tensors of a frozen graph.

A tap is the last tensor of a scope, for example of a layer or a block of layers. Its name is the scope's path
without function calls and the scope of the whole model (`conv2d`, `block/conv`). In a graph without scopes every
operation is a tap under its own name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.models.saved_model.trace import GraphTrace
from kdcli.tensors import Shape

# Scopes of function calls, and names of copies that TensorFlow adds: neither names a layer.
_CALL = re.compile(r"(Stateful)?PartitionedCall(_\d+)?|import(_\d+)?|Func")
_COPY = re.compile(r"(Identity|IdentityN|_)(_?\d+)?")
# Operations that move or select values.
_MOVING = frozenset(
    ("MaxPool", "MaxPoolV2", "MaxPool3D", "AvgPool", "AvgPool3D", "Reshape", "Squeeze", "ExpandDims", "Identity")
)
# The full names from the outermost scope to the operation; a function called twice has two paths.
_ScopePath = tuple[str, ...]


@dataclass(frozen=True)
class Tap:
    """An inner tensor.

    Args:
        tensor: full name of the tensor.
        shape: shape without the batch axis.
        secondary: whether automatic pairing skips it.
    """

    tensor: str
    shape: Shape
    secondary: bool


def find_taps(traced: GraphTrace, *, outputs: Iterable[str], exported: bool = False) -> dict[str, Tap]:
    """The taps by name, in the order of computation.

    Args:
        traced: the graph.
        outputs: names of the tensors that make the output; their taps are secondary.
        exported: whether `model.export` of Keras 3 wrote the graph.
    """
    operations = [op for op in traced.operations if not _is_copy(op)]
    paths = _find_paths(operations, traced)
    found: dict[str, list[_ScopePath]] = {}
    for scope, tensor in _find_ends(operations, paths, traced).items():
        found.setdefault(tensor, []).append(scope)
    # Of several scopes that end in the same tensor, the outermost names it.
    scopes = {tensor: min(candidates, key=len) for tensor, candidates in found.items()}
    order = {t.name: number for number, t in enumerate(t for op in operations for t in op.outputs)}
    tensors = sorted(scopes, key=order.__getitem__)
    ends = _find_sources(outputs, traced)
    moving = _find_moving(operations, paths, traced)
    own = set(paths.values())
    names = [(_join(scopes[tensor]), scopes[tensor] not in own) for tensor in tensors]
    taps = {}
    for name, tensor in zip(_number_duplicates(_name_as_keras(names, any_number=exported)), tensors, strict=True):
        shape = traced.shapes[tensor]
        moved = len(shape) > 1 and scopes[tensor] in moving
        taps[name] = Tap(tensor, shape, secondary=moved or tensor in ends)
    return taps


def _is_copy(op: Any) -> bool:
    name = _last_part(op.name)
    return op.type == "Placeholder" or (
        op.type in ("Identity", "IdentityN") and (_COPY.fullmatch(name) is not None or op.name.startswith("Func/"))
    )


def _find_paths(operations: Sequence[Any], traced: GraphTrace) -> dict[Any, _ScopePath]:
    """Each operation's path, without function calls and without the scopes that all operations share."""
    paths = {op: _split(op.name) for op in operations}
    scoped = [path for op, path in paths.items() if len(path) > 1 and _carries_batch(op, traced)]
    shared = 0
    while scoped and all(
        len(path) > shared + 1 and _last_part(path[shared]) == _last_part(scoped[0][shared]) for path in scoped
    ):
        shared += 1
    prefix = [_last_part(scope) for scope in scoped[0][:shared]] if scoped else []
    return {
        op: path[shared:] if [_last_part(scope) for scope in path[:shared]] == prefix else path
        for op, path in paths.items()
    }


def _split(name: str) -> _ScopePath:
    parts = name.split("/")
    return tuple("/".join(parts[: n + 1]) for n, part in enumerate(parts) if not _CALL.fullmatch(part))


def _last_part(scope: str) -> str:
    return scope.split("/")[-1]


def _join(path: _ScopePath) -> str:
    return "/".join(_last_part(scope) for scope in path)


def _find_ends(
    operations: Sequence[Any], paths: Mapping[Any, _ScopePath], traced: GraphTrace
) -> dict[_ScopePath, str]:
    """The last tensor of each scope that is used outside it; an operation without a scope is its own scope."""
    ends: dict[_ScopePath, str] = {}
    for op in operations:
        path = paths[op]
        for tensor in op.outputs:
            if tensor.name not in traced.shapes or not traced.shapes[tensor.name] or not tensor.dtype.is_floating:
                continue
            users = [paths.get(user, ()) for user in tensor.consumers()]
            if len(path) == 1:
                ends[path] = tensor.name
            for depth in range(1, len(path)):
                if not users or any(user[:depth] != path[:depth] for user in users):
                    ends[path[:depth]] = tensor.name
    return ends


def _find_moving(
    operations: Sequence[Any], paths: Mapping[Any, _ScopePath], traced: GraphTrace
) -> set[_ScopePath]:
    """The scopes, and the operations without one, that only move or select values."""
    moves: dict[_ScopePath, bool] = {}
    for op in operations:
        if _carries_batch(op, traced):
            for depth in range(1, len(paths[op]) + 1):
                scope = paths[op][:depth]
                moves[scope] = moves.get(scope, True) and op.type in _MOVING
    return {scope for scope, only in moves.items() if only}


def _carries_batch(op: Any, traced: GraphTrace) -> bool:
    return any(tensor.name in traced.shapes and tensor.dtype.is_floating for tensor in op.outputs)


def _find_sources(names: Iterable[str], traced: GraphTrace) -> set[str]:
    """The tensors, and the tensors that they are copies of."""
    found = set()
    for name in names:
        tensor = traced.tensor(name)
        while tensor is not None:
            found.add(tensor.name)
            tensor = tensor.op.inputs[0] if tensor.op.type == "Identity" else None
    return found


def _name_as_keras(names: Sequence[tuple[str, bool]], *, any_number: bool) -> list[str]:
    """The names that the layers have in Keras; `model.export` of Keras 3 adds a number to every layer's scope.

    Args:
        names: each name, and whether it is a scope rather than an operation.
        any_number: whether Keras 3 exported the graph; otherwise only a 1 at every scope is removed.
    """
    number = re.compile(r"_\d+$" if any_number else "_1$")
    scopes = [name for name, is_scope in names if is_scope]
    if not all(number.search(part) for name in scopes for part in name.split("/")):
        return [name for name, _ in names]
    plain = ["/".join(number.sub("", part) for part in name.split("/")) for name in scopes]
    if len(set(plain)) < len(set(scopes)):
        return [name for name, _ in names]
    short = dict(zip(scopes, plain, strict=True))
    return [short[name] if is_scope else name for name, is_scope in names]


def _number_duplicates(names: Sequence[str]) -> list[str]:
    """The names, with `:0`, `:1`, ... added to duplicates, as for a layer that is called several times."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        numbered.append(name if counts[name] == 1 else f"{name}:{seen[name]}")
        seen[name] += 1
    return numbered
