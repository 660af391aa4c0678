"""The operations of a SavedModel: what those do that run, and which ones merely stand there."""

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
from kdcli.screening.saved_model.proto import quote_name, source
from kdcli.screening.saved_model.reachable import Reached
from kdcli.screening.verdict import Finding

_PRINTS = (b"", b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)")
# Names that TensorFlow has without showing them to Python.
_HIDDEN = ("_", "Xla", "TPU", "Tpu", "Risc", "DTensor", "TRT")
# What folding takes for known, whatever it is computed from.
_KNOWN_WHILE_FOLDING = ("Shape", "ShapeN", "Rank", "Size")
_FOREIGN = "export the model without it, or from its own framework to .tflite or .onnx"


def check_reached(program: Program, reached: Reached, *, tables: bool) -> Iterator[Finding]:
    """What is refused of everything that runs, one finding for each operation.

    Args:
        tables: whether lookup tables may be used.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for body, node, reason in _running(program, reached):
        missing = [name for name in body.calls.get(node.name, ()) if name not in program.functions]
        if missing:
            yield Finding("function", f"{_place(body, node)} calls {quote_name(missing[0])}, which is not there")
        if node.op in program.functions or _harmless(node) or node.op in (TABLE_OPERATIONS if tables else ()):
            continue
        found[node.op].append(f"{reason} ({_place(body, node)})")
    used = [name for name in found if name in TABLE_OPERATIONS]
    if used:
        message = f"lookup tables are filled or asked ({', '.join(used)}): {found[used[0]][0]}"
        hint = "--allow-tables opens a model that fills its tables from its own files"
        yield Finding("table", message, hint=hint)
    for name, places in found.items():
        if name not in TABLE_OPERATIONS:
            more = f", and {len(places) - 1} more" if len(places) > 1 else ""
            yield Finding("operation", f"{_shown(name)} {describe_effect(name)}; {places[0]}{more}")


def check_restoring(program: Program, reached: Reached, *, prefix: str) -> Iterator[Finding]:
    """What is refused of what reads the variables of a model of TensorFlow 1.

    Args:
        prefix: the tensor that is given the path of the variables; nothing else may name the file.
    """
    for body, node, reason in _running(program, reached):
        if node.op in RESTORE_OPERATIONS:
            if body.name or _origin(body, node.input[0] if node.input else "") != source(prefix):
                message = (
                    f"{node.op} reads files other than the model's variables; {reason} ({_place(body, node)})"
                )
                yield Finding("operation", message)
        elif node.op not in program.functions and not _harmless(node):
            yield Finding(
                "operation", f"{_shown(node.op)} {describe_effect(node.op)}; {reason} ({_place(body, node)})"
            )


def check_everywhere(program: Program) -> Iterator[Finding]:
    """What is refused although nothing calls it: loading builds every function, and that runs some of them."""
    known = _known()
    for name in program.functions:
        if name in known:
            yield Finding("function", f"a function takes the place of the operation {quote_name(name)}")
    unknown: dict[str, str] = {}
    for body in program.bodies:
        for node in body.nodes.values():
            op = node.op
            if op in DEBUG_OPERATIONS or (op in FOLDED_FILE_OPERATIONS and _folded(body, node)):
                message = f"{op} {describe_effect(op)}; loading runs it to find out shapes ({_place(body, node)})"
                yield Finding("operation", message)
            if op not in known and op not in program.functions and not op.startswith(_HIDDEN):
                unknown.setdefault(op, _place(body, node))
    for op, place in unknown.items():
        message = (
            f"{quote_name(op)} is no operation of TensorFlow {tf.__version__}, which cannot load it ({place})"
        )
        yield Finding("custom-operation", message, hint=_FOREIGN)


def list_unused(program: Program, running: tuple[Reached, ...]) -> Iterator[Finding]:
    """What would be refused if something ran it; one finding for each operation, none of them refused.

    Args:
        running: all that runs, and what writes and reads the variables.
    """
    functions = {name for reached in running for name in reached.functions}
    nodes = {name for reached in running for name in reached.nodes}
    counts: dict[str, int] = defaultdict(int)
    for body in program.bodies:
        if body.name in functions:
            continue
        for node in body.nodes.values():
            aside = not body.name and node.name in nodes
            if (
                not aside
                and node.op not in program.functions
                and node.op not in TABLE_OPERATIONS
                and not _harmless(node)
            ):
                counts[node.op] += 1
    for name, count in sorted(counts.items()):
        times = "once" if count == 1 else f"{count} times"
        message = (
            f"{_shown(name)} {describe_effect(name)}; it stands there {times}, and nothing that is opened runs it"
        )
        yield Finding("unused-operation", message, refused=False, hint="")


def _running(program: Program, reached: Reached) -> Iterator[tuple[Body, Any, str]]:
    for name, reason in reached.nodes.items():
        yield program.graph, program.graph.nodes[name], reason
    for name, reason in reached.functions.items():
        body = program.functions[name]
        for node in body.nodes.values():
            yield body, node, reason


def _harmless(node: Any) -> bool:
    if node.op == "PrintV2":
        # Any other stream is a file.
        return "output_stream" not in node.attr or node.attr["output_stream"].s in _PRINTS
    return node.op in ALLOWED_OPERATIONS


def _origin(body: Body, tensor: str) -> str:
    """The node that a tensor comes from, through nodes that pass it on; its own one in a circle."""
    seen: set[str] = set()
    name = source(tensor)
    while name in body.nodes and body.nodes[name].op == "Identity" and body.nodes[name].input and name not in seen:
        seen.add(name)
        name = source(body.nodes[name].input[0])
    return name


def _folded(body: Body, node: Any) -> bool:
    """Whether a node's inputs are known without any argument, so that TensorFlow may run it while loading."""
    waiting, seen = [source(name) for name in node.input], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in body.nodes or body.nodes[name].op == "Placeholder":
            return False
        if body.nodes[name].op not in _KNOWN_WHILE_FOLDING:
            waiting.extend(source(one) for one in body.nodes[name].input)
    return True


def _known() -> frozenset[str]:
    return (
        ALLOWED_OPERATIONS
        | TABLE_OPERATIONS
        | RESTORE_OPERATIONS
        | FOLDED_FILE_OPERATIONS
        | {name for name in dir(tf.raw_ops) if not name.startswith("_")}
    )


def _place(body: Body, node: Any) -> str:
    return f"node {quote_name(node.name)} of {body}"


def _shown(operation: str) -> str:
    return (
        operation
        if operation.isidentifier() and operation.isascii() and len(operation) < 80
        else quote_name(operation)
    )
