"""Lookup tables of a SavedModel that are filled from files: whether the file is one of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdcli.screening.saved_model.allowed_operations import FILE_TABLE_OPERATIONS
from kdcli.screening.saved_model.objects import Objects, Root
from kdcli.screening.saved_model.program import MAIN_GRAPH, Body, Program
from kdcli.screening.saved_model.proto import quote_name, source
from kdcli.screening.saved_model.reachable import Reached
from kdcli.screening.verdict import Finding

# Their n-th input is the n-th argument of the function that they call.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class FileNames:
    """Finds out where the names of files come from.

    Args:
        program: all functions.
        objects: what functions capture.
        roots: what starts.
        reached: what runs.
        assets: nodes of the main graph that are given the path of an asset; none where nobody gives it.
    """

    program: Program
    objects: Objects
    roots: tuple[Root, ...]
    reached: Reached
    assets: frozenset[str] = frozenset()

    def check(self) -> Iterator[Finding]:
        """A finding for each table that may be filled from a file outside of the model."""
        for body in self._bodies():
            for node in body.nodes.values():
                runs = body.name or node.name in self.reached.nodes
                if (
                    node.op in FILE_TABLE_OPERATIONS
                    and runs
                    and not self._is_asset(body, (*node.input, "", "")[1])
                ):
                    message = (
                        f"node {quote_name(node.name)} of {body} fills a table from a file that is not proven "
                    )
                    message += "to be"
                    yield Finding("table", f"{message} one of the model's own assets")

    def _bodies(self) -> Iterator[Body]:
        yield self.program.graph
        yield from (self.program.functions[name] for name in self.reached.functions)

    def _is_asset(self, body: Body, tensor: str, seen: frozenset[tuple[str, str]] = frozenset()) -> bool:
        name = source(tensor)
        if tensor.startswith("^") or (body.name, name) in seen:
            return False
        seen |= {(body.name, name)}
        if body.name == MAIN_GRAPH and name in self.assets:
            return True
        if name in body.arguments:
            return self._is_given_asset(body, body.arguments.index(name), seen)
        node = body.nodes.get(name)
        return node is not None and node.op == "Identity" and self._is_asset(body, (*node.input, "")[0], seen)

    def _is_given_asset(self, body: Body, place: int, seen: frozenset[tuple[str, str]]) -> bool:
        """Whether everybody who runs a function gives it an asset as an argument."""
        given: list[bool] = []
        if any(root.function == body.name for root in self.roots):
            captured = self.objects.captured(body.name)
            number = place - (len(body.arguments) - len(captured))
            given.append(number >= 0 and captured[number].WhichOneof("kind") == "asset")
        for caller in self._bodies():
            if body.name in caller.attached:
                return False
            for node_name, names in caller.calls.items():
                if body.name not in names or (caller.name == MAIN_GRAPH and node_name not in self.reached.nodes):
                    continue
                node = caller.nodes[node_name]
                inputs = [name for name in node.input if not name.startswith("^")]
                plain = node.op in _CALLS or node.op == body.name
                given.append(plain and place < len(inputs) and self._is_asset(caller, inputs[place], seen))
        return bool(given) and all(given)
