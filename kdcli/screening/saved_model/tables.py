"""The rule for lookup tables that a SavedModel fills from files: the files must be its own assets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from kdcli.screening.saved_model.allowed_operations import FILE_TABLE_OPERATIONS
from kdcli.screening.saved_model.objects import Objects, Root
from kdcli.screening.saved_model.program import MAIN_GRAPH, Body, Program
from kdcli.screening.saved_model.proto import source_name
from kdcli.screening.saved_model.reachability import Reachable
from kdcli.screening.verdict import Finding

# Operations whose n-th input is the n-th argument of the function that they call.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class TableFiles:
    """Traces the file names of tables back to the assets of the model.

    Args:
        program: the graphs of the model.
        objects: the objects that functions capture.
        roots: what loading or the signature starts.
        reachable: everything that runs from the roots.
        assets: nodes of the main graph that receive the path of an asset.
    """

    program: Program
    objects: Objects
    _: KW_ONLY
    roots: tuple[Root, ...]
    reachable: Reachable
    assets: frozenset[str] = frozenset()

    def check(self) -> Iterator[Finding]:
        """Refuse each table that may be filled from a file outside the model."""
        for body in self._bodies():
            for node in body.nodes.values():
                if node.op not in FILE_TABLE_OPERATIONS:
                    continue
                runs = body.name or node.name in self.reachable.nodes
                if runs and not self._is_asset(body, (*node.input, "", "")[1]):
                    reason = "fills a table from a file that may not be one of the model's assets"
                    yield Finding("table", f"{body.describe(node)} {reason}")

    def _bodies(self) -> Iterator[Body]:
        yield self.program.graph
        yield from (self.program.functions[name] for name in self.reachable.functions)

    def _is_asset(self, body: Body, tensor: str, seen: frozenset[tuple[str, str]] = frozenset()) -> bool:
        name = source_name(tensor)
        if tensor.startswith("^") or (body.name, name) in seen:
            return False
        seen |= {(body.name, name)}
        if body.name == MAIN_GRAPH and name in self.assets:
            return True
        if name in body.arguments:
            return self._is_asset_argument(body, body.arguments.index(name), seen)
        node = body.nodes.get(name)
        return node is not None and node.op == "Identity" and self._is_asset(body, (*node.input, "")[0], seen)

    def _is_asset_argument(self, body: Body, position: int, seen: frozenset[tuple[str, str]]) -> bool:
        """Whether every caller of a function passes an asset as the argument at a position."""
        checks: list[bool] = []
        if any(root.function == body.name for root in self.roots):
            captures = self.objects.captures(body.name)
            number = position - (len(body.arguments) - len(captures))
            checks.append(number >= 0 and captures[number].WhichOneof("kind") == "asset")
        for caller in self._bodies():
            if body.name in caller.attached:
                return False
            for node_name, names in caller.calls.items():
                if body.name not in names or (caller.name == MAIN_GRAPH and node_name not in self.reachable.nodes):
                    continue
                node = caller.nodes[node_name]
                inputs = [name for name in node.input if not name.startswith("^")]
                plain = node.op in _CALLS or node.op == body.name
                checks.append(plain and position < len(inputs) and self._is_asset(caller, inputs[position], seen))
        return bool(checks) and all(checks)
