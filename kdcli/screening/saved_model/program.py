"""The main graph and the functions of a SavedModel, indexed by what they call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kdcli.screening.saved_model.proto import source_name
from kdcli.screening.verdict import quote

# The name of the main graph among the bodies.
MAIN_GRAPH = ""
# Real models have much shorter chains of calls.
_MAX_CALL_DEPTH = 200
# TensorFlow may run one function instead of another with the same value of this attribute.
_VERSION_OF = "api_implements"
# A longer text is not the name of a function.
_MAX_NAME_BYTES = 1000


@dataclass(frozen=True)
class Body:
    """The main graph, or a function of the library.

    Args:
        name: name of the function; `MAIN_GRAPH` for the main graph.
        nodes: nodes by name.
        arguments: names of the function's arguments, captured values last.
        calls: names of the functions that a node can call, by node; nodes without calls have no entry.
        attached: names of functions that may run instead: gradients, other versions of the same function.
    """

    name: str
    nodes: dict[str, Any]
    _: KW_ONLY
    arguments: tuple[str, ...] = ()
    calls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attached: tuple[str, ...] = ()

    @property
    def callees(self) -> Iterator[str]:
        """Every function that this body can call or that is attached to it; once for each call."""
        for names in self.calls.values():
            yield from names
        yield from self.attached

    def describe(self, node: Any) -> str:
        """The name of a node and of this body, for messages."""
        return f"node {quote(node.name)} of {self}"

    def __str__(self) -> str:
        return f"function {quote(self.name)}" if self.name else "the main graph"


@dataclass(frozen=True)
class Program:
    """All bodies of a SavedModel.

    Args:
        graph: the main graph.
        functions: the functions of the library by name.
        faults: the faults of the graphs, as messages.
    """

    graph: Body
    functions: dict[str, Body]
    _: KW_ONLY
    faults: tuple[str, ...]

    @property
    def bodies(self) -> Iterator[Body]:
        """The main graph, then every function."""
        yield self.graph
        yield from self.functions.values()

    def find_reachable(self, names: Iterable[str]) -> set[str]:
        """All functions that the named functions can call, directly or not, including themselves."""
        waiting, seen = list(names), set()
        while waiting:
            name = waiting.pop()
            if name in self.functions and name not in seen:
                seen.add(name)
                waiting.extend(self.functions[name].callees)
        return seen

    def find_upstream(self, fetches: Iterable[str], *, feeds: Iterable[str] = ()) -> set[str]:
        """The names of the nodes of the main graph that run to compute some tensors.

        Args:
            fetches: names of the tensors or nodes to compute.
            feeds: names of the tensors that are fed; the nodes behind them do not run.
        """
        fed = {source_name(name) for name in feeds}
        waiting, seen = [source_name(name) for name in fetches], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name in fed or name not in self.graph.nodes:
                continue
            seen.add(name)
            waiting.extend(source_name(one) for one in self.graph.nodes[name].input)
        return seen


def index_program(graph_def: Any) -> Program:
    """Index a `GraphDef` message with its library."""
    library = graph_def.library
    names = _LibraryNames.read(library)
    graph = _body(MAIN_GRAPH, graph_def.node, (), names)
    functions, faults = {}, [*_duplicate_nodes(graph, graph_def.node)]
    counts = Counter(function.signature.name for function in library.function)
    faults.extend(f"{count} functions are named {quote(name)}" for name, count in counts.items() if count > 1)
    for function in library.function:
        name = function.signature.name
        body = _body(name, function.node_def, (one.name for one in function.signature.input_arg), names)
        attached = {*body.attached, *names.find_alternatives(function)} - {name}
        functions[name] = replace(body, attached=tuple(sorted(attached)))
        faults.extend(_duplicate_nodes(body, function.node_def))
    return Program(graph, functions, faults=tuple(faults))


def call_order(program: Program) -> list[str]:
    """The names of all functions, each after the functions that it calls.

    Raises:
        ValueError: a function calls itself, or the chain of calls is too long.
    """
    callees = {name: _callees(program, name) for name in program.functions}
    try:
        order = list(TopologicalSorter(callees).static_order())
    except CycleError as error:
        raise ValueError(f"function {quote(error.args[1][0])} calls itself") from None
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[one] for one in callees[name]), default=0)
    deepest = max(depth.values(), default=0)
    if deepest > _MAX_CALL_DEPTH:
        raise ValueError(f"functions call each other {deepest} levels deep (at most {_MAX_CALL_DEPTH})")
    return order


def _callees(program: Program, name: str) -> set[str]:
    # Attached functions are alternatives, not calls: a gradient may call the function that it belongs to.
    called = {one for names in program.functions[name].calls.values() for one in names}
    return called & program.functions.keys()


@dataclass(frozen=True)
class _LibraryNames:
    """What the names in a library refer to.

    Args:
        functions: names of all functions.
        gradients: gradient functions by the name of a function or operation.
        versions: interchangeable functions by the value of their attribute `api_implements`.
    """

    _: KW_ONLY
    functions: frozenset[str]
    gradients: dict[str, set[str]]
    versions: dict[bytes, set[str]]

    @classmethod
    def read(cls, library: Any) -> _LibraryNames:
        functions = frozenset(function.signature.name for function in library.function)
        gradients: dict[str, set[str]] = {}
        for gradient in library.gradient:
            gradients.setdefault(gradient.function_name, set()).add(gradient.gradient_func)
        for registered in library.registered_gradients:
            gradients.setdefault(registered.registered_op_type, set()).add(registered.gradient_func)
        versions: dict[bytes, set[str]] = {}
        for function in library.function:
            if _VERSION_OF in function.attr:
                versions.setdefault(function.attr[_VERSION_OF].s, set()).add(function.signature.name)
        return cls(functions=functions, gradients=gradients, versions=versions)

    def find_alternatives(self, function: Any) -> set[str]:
        """The functions that may run instead of a function or as its gradient."""
        found = self.gradients.get(function.signature.name, set()) | self.find_in_texts(function.attr)
        if _VERSION_OF in function.attr:
            found |= self.versions.get(function.attr[_VERSION_OF].s, set())
        return found

    def find_in_texts(self, attributes: Any) -> set[str]:
        """The functions whose name is a string among attributes, and the gradients of what such a string names."""
        found: set[str] = set()
        for value in attributes.values():
            kind = value.WhichOneof("value")
            texts = (value.s,) if kind == "s" else value.list.s if kind == "list" else ()
            for text in texts:
                if len(text) <= _MAX_NAME_BYTES:
                    name = text.decode("utf-8", "replace")
                    found |= self.gradients.get(name, set()) | ({name} & self.functions)
        return found


def _body(name: str, nodes: Iterable[Any], arguments: Iterable[str], names: _LibraryNames) -> Body:
    by_name: dict[str, Any] = {}
    calls: dict[str, tuple[str, ...]] = {}
    attached: set[str] = set()
    for node in nodes:
        by_name[node.name] = node
        called = _called_functions(node.attr)
        if node.op in names.functions:
            called.add(node.op)
        if called:
            calls[node.name] = tuple(sorted(called))
        attached |= names.find_in_texts(node.attr)
    return Body(name, by_name, arguments=tuple(arguments), calls=calls, attached=tuple(sorted(attached)))


def _called_functions(attributes: Any) -> set[str]:
    """All functions among attributes: single, in lists, and nested in each other."""
    found: set[str] = set()
    for value in attributes.values():
        kind = value.WhichOneof("value")
        functions = (value.func,) if kind == "func" else value.list.func if kind == "list" else ()
        for function in functions:
            found.add(function.name)
            found |= _called_functions(function.attr)
    return found


def _duplicate_nodes(body: Body, nodes: Iterable[Any]) -> Iterator[str]:
    counts = Counter((*(node.name for node in nodes), *body.arguments))
    yield from (f"{body} has {count} nodes named {quote(name)}" for name, count in counts.items() if count > 1)
