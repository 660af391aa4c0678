"""A SavedModel's main graph and functions, indexed: who calls whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kdcli.screening.saved_model.proto import quote_name, source

# The name of the main graph among the bodies.
MAIN_GRAPH = ""
# Longer chains of calls are written by nobody.
_DEEP = 200
# TensorFlow may run one function in place of another that says the same here.
_VERSION_OF = "api_implements"
# Longer texts name no function.
_LONG = 1000


@dataclass(frozen=True)
class Body:
    """The main graph, or a function of the library.

    Args:
        name: the function's; `MAIN` for the main graph.
        nodes: by name.
        arguments: the names of a function's arguments, those it captures last.
        calls: by node, the functions that it can call; a node that calls none has no entry.
        attached: the functions that are named beside: gradients, other versions of the same function.
    """

    name: str
    nodes: dict[str, Any]
    arguments: tuple[str, ...] = ()
    calls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    attached: tuple[str, ...] = ()

    @property
    def called(self) -> Iterator[str]:
        """Every function that something in this body can call, once for each place."""
        for names in self.calls.values():
            yield from names
        yield from self.attached

    def __str__(self) -> str:
        return f"function {quote_name(self.name)}" if self.name else "the main graph"


@dataclass(frozen=True)
class Program:
    """All bodies of a SavedModel.

    Args:
        graph: the main graph.
        functions: the library, by name.
        faults: what is wrong with them, in sentences.
    """

    graph: Body
    functions: dict[str, Body]
    faults: tuple[str, ...]

    @property
    def bodies(self) -> Iterator[Body]:
        """The main graph, then every function."""
        yield self.graph
        yield from self.functions.values()

    def reached(self, names: Iterable[str]) -> set[str]:
        """All functions that some functions can call, themselves included."""
        waiting, seen = list(names), set()
        while waiting:
            name = waiting.pop()
            if name in self.functions and name not in seen:
                seen.add(name)
                waiting.extend(self.functions[name].called)
        return seen

    def upstream(self, fetches: Iterable[str], *, feeds: Iterable[str] = ()) -> set[str]:
        """The nodes of the main graph that run for some tensors, when others are fed.

        Args:
            fetches: names of tensors or nodes.
            feeds: names of tensors; what they come from does not run.
        """
        fed = {source(name) for name in feeds}
        waiting, seen = [source(name) for name in fetches], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name in fed or name not in self.graph.nodes:
                continue
            seen.add(name)
            waiting.extend(source(one) for one in self.graph.nodes[name].input)
        return seen


def index_program(graph_def: Any) -> Program:
    """Index a `GraphDef` message with its library."""
    library = graph_def.library
    named = _Named.in_library(library)
    graph = _body(MAIN_GRAPH, graph_def.node, (), named)
    functions, faults = {}, [*_twice(graph, graph_def.node)]
    counts = Counter(function.signature.name for function in library.function)
    faults.extend(
        f"{count} functions are called {quote_name(name)}" for name, count in counts.items() if count > 1
    )
    for function in library.function:
        name = function.signature.name
        body = _body(name, function.node_def, (one.name for one in function.signature.input_arg), named)
        functions[name] = replace(body, attached=tuple(sorted({*body.attached, *named.beside(function)} - {name})))
        faults.extend(_twice(body, function.node_def))
    return Program(graph, functions, tuple(faults))


def call_order(program: Program) -> list[str]:
    """All functions, those that are called before those that call them.

    Raises:
        ValueError: a function comes back to itself, or functions call each other too deep.
    """
    callees = {name: _callees(program, name) for name in program.functions}
    try:
        order = list(TopologicalSorter(callees).static_order())
    except CycleError as error:
        raise ValueError(f"function {quote_name(error.args[1][0])} calls itself") from None
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[one] for one in callees[name]), default=0)
    deepest = max(depth.values(), default=0)
    if deepest > _DEEP:
        raise ValueError(f"functions call each other {deepest} deep (at most {_DEEP})")
    return order


def _callees(program: Program, name: str) -> set[str]:
    # Attached functions are alternatives, not calls: a gradient may well call what it is the gradient of.
    called = {one for names in program.functions[name].calls.values() for one in names}
    return called & program.functions.keys()


@dataclass(frozen=True)
class _Named:
    """What names stand for: functions, gradients of functions and operations, versions of the same function."""

    functions: frozenset[str]
    gradients: dict[str, set[str]]
    versions: dict[bytes, set[str]]

    @classmethod
    def in_library(cls, library: Any) -> _Named:
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
        return cls(functions, gradients, versions)

    def beside(self, function: Any) -> set[str]:
        """What may run in place of a function or for its gradient."""
        versions = (
            self.versions.get(function.attr[_VERSION_OF].s, set()) if _VERSION_OF in function.attr else set()
        )
        return self.gradients.get(function.signature.name, set()) | self.in_texts(function.attr) | versions

    def in_texts(self, attributes: Any) -> set[str]:
        """All functions that attributes name in plain text, for themselves or for their gradient."""
        found: set[str] = set()
        for value in attributes.values():
            kind = value.WhichOneof("value")
            texts = (value.s,) if kind == "s" else value.list.s if kind == "list" else ()
            for text in texts:
                if len(text) <= _LONG:
                    name = text.decode("utf-8", "replace")
                    found |= self.gradients.get(name, set()) | ({name} & self.functions)
        return found


def _body(name: str, nodes: Iterable[Any], arguments: Iterable[str], named: _Named) -> Body:
    by_name: dict[str, Any] = {}
    calls: dict[str, tuple[str, ...]] = {}
    attached: set[str] = set()
    for node in nodes:
        by_name[node.name] = node
        called = _called(node.attr)
        if node.op in named.functions:
            called.add(node.op)
        if called:
            calls[node.name] = tuple(sorted(called))
        attached |= named.in_texts(node.attr)
    return Body(name, by_name, tuple(arguments), calls, tuple(sorted(attached)))


def _called(attributes: Any) -> set[str]:
    """All functions that attributes hold: alone, in lists, and inside of each other."""
    found: set[str] = set()
    for value in attributes.values():
        kind = value.WhichOneof("value")
        functions = (value.func,) if kind == "func" else value.list.func if kind == "list" else ()
        for function in functions:
            found.add(function.name)
            found |= _called(function.attr)
    return found


def _twice(body: Body, nodes: Iterable[Any]) -> Iterator[str]:
    counts = Counter((*(node.name for node in nodes), *body.arguments))
    yield from (
        f"{body} has {count} nodes called {quote_name(name)}" for name, count in counts.items() if count > 1
    )
