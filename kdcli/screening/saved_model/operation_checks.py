"""Rules for the operations of a SavedModel: those that run, and those that are only present."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from kdcli.lazy import tf
from kdcli.screening.saved_model.allowed_operations import (
    ALLOWED_OPERATIONS,
    DEBUG_OPERATIONS,
    FOLDED_FILE_OPERATIONS,
    RESTORE_OPERATIONS,
    TABLE_OPERATIONS,
    describe_effect,
)
from kdcli.screening.saved_model.program import Body, Program
from kdcli.screening.saved_model.proto import source_name
from kdcli.screening.saved_model.reachability import Reachable
from kdcli.screening.verdict import Finding, quote

_PRINT_STREAMS = (b"", b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)")
# Prefixes of operations that TensorFlow has but does not expose to Python.
_HIDDEN_PREFIXES = ("_", "Xla", "TPU", "Tpu", "Risc", "DTensor", "TRT")
# Operations whose output constant folding may know for any input.
_SHAPE_OPERATIONS = ("Shape", "ShapeN", "Rank", "Size")
_EXPORT_HINT = "export the model without it, or from its own framework to .tflite or .onnx"


def check_reachable(program: Program, reachable: Reachable, *, tables: bool) -> Iterator[Finding]:
    """Refuse operations that run and do more than compute; one finding for each operation.

    Args:
        program: the graphs of the model.
        reachable: everything that runs.
        tables: whether lookup tables are allowed.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for body, node, reason in _running_nodes(program, reachable):
        missing = [name for name in body.calls.get(node.name, ()) if name not in program.functions]
        if missing:
            message = f"{body.describe(node)} calls {quote(missing[0])}, which does not exist"
            yield Finding("function", message)
        if node.op in program.functions or _is_harmless(node) or node.op in (TABLE_OPERATIONS if tables else ()):
            continue
        found[node.op].append(f"{reason} ({body.describe(node)})")
    used = [name for name in found if name in TABLE_OPERATIONS]
    if used:
        message = f"the model fills or reads lookup tables ({', '.join(used)}): {found[used[0]][0]}"
        hint = "--allow-tables opens a model that fills its tables from its own files"
        yield Finding("table", message, hint=hint)
    for name, places in found.items():
        if name not in TABLE_OPERATIONS:
            more = f", and {len(places) - 1} more" if len(places) > 1 else ""
            yield Finding("operation", f"{_describe_operation(name)}; {places[0]}{more}")


def check_restoring(program: Program, reachable: Reachable, *, prefix: str) -> Iterator[Finding]:
    """Refuse harmful operations among those that read the variables of a TensorFlow 1 model.

    Args:
        program: the graphs of the model.
        reachable: everything that runs to read the variables.
        prefix: the tensor that receives the path of the variables; no other tensor may name the file.
    """
    for body, node, reason in _running_nodes(program, reachable):
        if node.op in RESTORE_OPERATIONS:
            if body.name or _origin(body, node.input[0] if node.input else "") != source_name(prefix):
                effect = f"{node.op} reads files other than the model's variables"
                yield Finding("operation", f"{effect}; {reason} ({body.describe(node)})")
        elif node.op not in program.functions and not _is_harmless(node):
            message = f"{_describe_operation(node.op)}; {reason} ({body.describe(node)})"
            yield Finding("operation", message)


def check_everywhere(program: Program) -> Iterator[Finding]:
    """Refuse operations in functions that nothing calls: loading builds every function, which may run some.

    Args:
        program: the graphs of the model.
    """
    known = _known_operations()
    for name in program.functions:
        if name in known:
            yield Finding("function", f"a function replaces the operation {quote(name)}")
    unknown: dict[str, str] = {}
    for body in program.bodies:
        for node in body.nodes.values():
            op = node.op
            if op in DEBUG_OPERATIONS or (op in FOLDED_FILE_OPERATIONS and _can_be_folded(body, node)):
                message = f"{op} {describe_effect(op)}; loading runs it to infer shapes"
                yield Finding("operation", f"{message} ({body.describe(node)})")
            if op not in known and op not in program.functions and not op.startswith(_HIDDEN_PREFIXES):
                unknown.setdefault(op, body.describe(node))
    for op, place in unknown.items():
        message = f"{quote(op)} is not an operation of TensorFlow {tf.__version__}, which cannot load it ({place})"
        yield Finding("custom-operation", message, hint=_EXPORT_HINT)


def list_unused(program: Program, used: tuple[Reachable, ...]) -> Iterator[Finding]:
    """List operations that would be refused if they ran; one finding for each operation, none of them refused.

    Args:
        program: the graphs of the model.
        used: everything that runs, and what writes and reads the variables.
    """
    functions = {name for reachable in used for name in reachable.functions}
    nodes = {name for reachable in used for name in reachable.nodes}
    counts: dict[str, int] = defaultdict(int)
    for body in program.bodies:
        if body.name in functions:
            continue
        for node in body.nodes.values():
            if not body.name and node.name in nodes:
                continue
            if node.op not in program.functions and node.op not in TABLE_OPERATIONS and not _is_harmless(node):
                counts[node.op] += 1
    for name, count in sorted(counts.items()):
        times = "once" if count == 1 else f"{count} times"
        message = f"{_describe_operation(name)}; it appears {times}, but nothing that kd opens runs it"
        yield Finding("unused-operation", message, refused=False, hint="")


def _running_nodes(program: Program, reachable: Reachable) -> Iterator[tuple[Body, Any, str]]:
    for name, reason in reachable.nodes.items():
        yield program.graph, program.graph.nodes[name], reason
    for name, reason in reachable.functions.items():
        body = program.functions[name]
        for node in body.nodes.values():
            yield body, node, reason


def _is_harmless(node: Any) -> bool:
    if node.op == "PrintV2":
        # Every other stream is a file.
        return "output_stream" not in node.attr or node.attr["output_stream"].s in _PRINT_STREAMS
    return node.op in ALLOWED_OPERATIONS


def _origin(body: Body, tensor: str) -> str:
    """The node that a tensor comes from, behind identity nodes; a node of the cycle if they form one."""
    seen: set[str] = set()
    name = source_name(tensor)
    while name in body.nodes and body.nodes[name].op == "Identity" and body.nodes[name].input and name not in seen:
        seen.add(name)
        name = source_name(body.nodes[name].input[0])
    return name


def _can_be_folded(body: Body, node: Any) -> bool:
    """Whether a node's inputs depend on no argument, so that TensorFlow may run it while loading."""
    waiting, seen = [source_name(name) for name in node.input], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in body.nodes or body.nodes[name].op == "Placeholder":
            return False
        if body.nodes[name].op not in _SHAPE_OPERATIONS:
            waiting.extend(source_name(one) for one in body.nodes[name].input)
    return True


def _known_operations() -> frozenset[str]:
    listed = ALLOWED_OPERATIONS | TABLE_OPERATIONS | RESTORE_OPERATIONS | FOLDED_FILE_OPERATIONS
    return listed | {name for name in dir(tf.raw_ops) if not name.startswith("_")}


def _describe_operation(name: str) -> str:
    """The name of a refused operation and what it does."""
    plain = name.isidentifier() and name.isascii() and len(name) < 80
    return f"{name if plain else quote(name)} {describe_effect(name)}"
