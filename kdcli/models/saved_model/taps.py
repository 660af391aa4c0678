"""Readable names for the inner tensors of a frozen graph.

A tap is the last tensor of a scope: of a layer, of a block of layers. Its name is the scope's path without the
calls of functions and the scope of the whole model (`conv2d`, `block/conv`). Operations of a graph without
scopes are taps by their own names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcli.models.saved_model.trace import GraphTrace, Shape

# Scopes of function calls, and copies that TensorFlow makes on its own: they name nothing.
_CALL = re.compile(r"(Stateful)?PartitionedCall(_\d+)?|import(_\d+)?|Func")
_COPY = re.compile(r"(Identity|IdentityN|_)(_?\d+)?")
# What moves values about, or takes one of several.
_MOVING = frozenset(
    ("MaxPool", "MaxPoolV2", "MaxPool3D", "AvgPool", "AvgPool3D", "Reshape", "Squeeze", "ExpandDims", "Identity")
)
# From the outermost scope to the operation itself, each by its full name: the same function called twice has two.
_ScopePath = tuple[str, ...]


@dataclass(frozen=True)
class Tap:
    """An inner tensor: full name, shape without the batch axis, whether automatic pairing passes it over."""

    tensor: str
    shape: Shape
    secondary: bool


def find_taps(traced: GraphTrace, *, outputs: Iterable[str], exported: bool = False) -> dict[str, Tap]:
    """The taps by name, in the order in which they are computed.

    Args:
        traced: the graph.
        outputs: what makes the output: such a tap is secondary.
        exported: whether `model.export` of Keras 3 wrote the graph.
    """
    operations = [op for op in traced.operations if not _is_copy(op)]
    paths = _paths(operations, traced)
    found: dict[str, list[_ScopePath]] = {}
    for scope, tensor in _ends(operations, paths, traced).items():
        found.setdefault(tensor, []).append(scope)
    # Of several scopes with the same end the outermost names it.
    named = {tensor: min(scopes, key=len) for tensor, scopes in found.items()}
    order = {t.name: number for number, t in enumerate(t for op in operations for t in op.outputs)}
    tensors = sorted(named, key=order.__getitem__)
    makes = _same_values(outputs, traced)
    moving = _moving(operations, paths, traced)
    taps = {}
    own = set(paths.values())
    named_scopes = [(_name(named[tensor]), named[tensor] not in own) for tensor in tensors]
    names = _as_in_keras(named_scopes, any_number=exported)
    for name, tensor in zip(_numbered(names), tensors, strict=True):
        shape = traced.shapes[tensor]
        moved = len(shape) > 1 and named[tensor] in moving
        taps[name] = Tap(tensor, shape, secondary=moved or tensor in makes)
    return taps


def _is_copy(op: Any) -> bool:
    named = op.name.split("/")[-1]
    return op.type == "Placeholder" or (
        op.type in ("Identity", "IdentityN")
        and (_COPY.fullmatch(named) is not None or op.name.startswith("Func/"))
    )


def _paths(operations: Sequence[Any], traced: GraphTrace) -> dict[Any, _ScopePath]:
    """Each operation's path without what names nothing and without the scope that all share."""
    paths = {op: _path(op.name) for op in operations}
    scoped = [path for op, path in paths.items() if len(path) > 1 and _carries(op, traced)]
    shared = 0
    while scoped and all(
        len(path) > shared + 1 and _last(path[shared]) == _last(scoped[0][shared]) for path in scoped
    ):
        shared += 1
    prefix = [_last(scope) for scope in scoped[0][:shared]] if scoped else []
    return {
        op: path[shared:] if [_last(s) for s in path[:shared]] == prefix else path for op, path in paths.items()
    }


def _path(name: str) -> _ScopePath:
    parts = name.split("/")
    return tuple("/".join(parts[: n + 1]) for n, part in enumerate(parts) if not _CALL.fullmatch(part))


def _last(scope: str) -> str:
    return scope.split("/")[-1]


def _name(path: _ScopePath) -> str:
    return "/".join(_last(scope) for scope in path)


def _ends(operations: Sequence[Any], paths: Mapping[Any, _ScopePath], traced: GraphTrace) -> dict[_ScopePath, str]:
    """Scope → the last tensor in it that is used outside of it; operations without a scope are their own."""
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


def _moving(operations: Sequence[Any], paths: Mapping[Any, _ScopePath], traced: GraphTrace) -> set[_ScopePath]:
    """Scopes, and operations without one, that compute nothing new from what they are given."""
    moves: dict[_ScopePath, bool] = {}
    for op in operations:
        if _carries(op, traced):
            for depth in range(1, len(paths[op]) + 1):
                scope = paths[op][:depth]
                moves[scope] = moves.get(scope, True) and op.type in _MOVING
    return {scope for scope, only in moves.items() if only}


def _carries(op: Any, traced: GraphTrace) -> bool:
    return any(tensor.name in traced.shapes and tensor.dtype.is_floating for tensor in op.outputs)


def _same_values(names: Iterable[str], traced: GraphTrace) -> set[str]:
    """The tensors, and what they are copies of."""
    found = set()
    for name in names:
        tensor = traced.tensor(name)
        while tensor is not None:
            found.add(tensor.name)
            tensor = tensor.op.inputs[0] if tensor.op.type == "Identity" else None
    return found


def _as_in_keras(names: Sequence[tuple[str, bool]], *, any_number: bool) -> list[str]:
    """Names as the layers have them: `model.export` of Keras 3 adds a number to the scope of every layer.

    Args:
        names: with whether each is a scope and no operation.
        any_number: whether that is known; else only a 1 at every scope is taken for it.
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


def _numbered(names: Sequence[str]) -> list[str]:
    """Names that occur several times get `:0`, `:1`, ..., as a layer that is called several times."""
    counts, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        numbered.append(name if counts[name] == 1 else f"{name}:{seen[name]}")
        seen[name] += 1
    return numbered
