"""The object graph of a SavedModel: what loading builds from it, and which functions loading runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

from kdcli.lazy import tf
from kdcli.screening.verdict import quote

# A function that a file sets under one of these names replaces a method that TensorFlow calls.
_METHOD_PREFIXES = ("_self_", "__")
_MORE_METHODS = frozenset({"_should_act_as_resource_variable", "resource_handle"})
# The concrete functions of a function, which nothing calls by this name.
_TRACE = re.compile(r"trace_\d+")
_OPTIMIZER = "optimizer"
_LISTS = ("trackable_list_wrapper", "trackable_tuple_wrapper")


@dataclass(frozen=True)
class Root:
    """A function, or tensors of the main graph, that something runs.

    Args:
        reason: what runs it, as a clause: "loading runs it as ...".
        function: name of the function; None for tensors.
        fetches: names of the tensors that are computed.
        feeds: names of the tensors that are fed.
    """

    reason: str
    function: str | None = None
    _: KW_ONLY
    fetches: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objects:
    """The objects that loading builds; they refer to each other by number.

    Args:
        graph: the `SavedObjectGraph` message.
    """

    graph: Any

    def functions(self, number: int, *, seen: frozenset[int] = frozenset()) -> Iterator[str]:
        """The functions that run when the object of that number is called."""
        node = self.graph.nodes[number]
        kind = node.WhichOneof("kind")
        if kind == "function":
            yield from node.function.concrete_functions
        elif kind == "bare_concrete_function":
            yield node.bare_concrete_function.concrete_function_name
        if number not in seen:
            for child in node.children:
                if child.local_name == "__call__":
                    yield from self.functions(child.node_id, seen=seen | {number})

    def captures(self, function: str) -> list[Any]:
        """The objects that a function captures; their values are its last arguments."""
        if function not in self.graph.concrete_functions:
            return []
        return [self.graph.nodes[number] for number in self.graph.concrete_functions[function].bound_inputs]

    def loading_roots(self) -> Iterator[Root]:
        """Every function that `tf.saved_model.load` calls.

        Loading sets each child as an attribute of its parent, and TensorFlow then calls attributes: `_initialize`
        and `_create_resource` of a resource, functions that save and restore, and any internal method that a child
        of the same name replaces.
        """
        methods = _tensorflow_methods()
        for node in self.graph.nodes:
            kind = node.WhichOneof("kind")
            # For other kinds of objects it is not known which attributes TensorFlow calls.
            any_name = kind not in ("user_object", "resource") or node.user_object.identifier == _OPTIMIZER
            for child in (*node.children, *node.dependencies):
                name = child.local_name
                if name == "__call__" or (kind == "function" and _TRACE.fullmatch(name)):
                    continue
                if any_name or name in methods or name.startswith(_METHOD_PREFIXES):
                    for function in self.functions(child.node_id):
                        yield Root(f"loading runs it as {quote(name)}", function)
            for name, saveable in node.saveable_objects.items():
                for number in (saveable.save_function, saveable.restore_function):
                    for function in self.functions(number):
                        yield Root(f"loading runs it to restore {quote(name)}", function)

    def signatures(self) -> dict[str, list[Root]]:
        """What each signature of the loaded object runs, by the name of the signature."""
        found: dict[str, list[Root]] = {}
        if not self.graph.nodes:
            return found
        for child in self.graph.nodes[0].children:
            if child.local_name == "signatures":
                for entry in self.graph.nodes[child.node_id].children:
                    roots = found.setdefault(entry.local_name, [])
                    reason = f"the signature {quote(entry.local_name)} runs it"
                    roots.extend(Root(reason, function) for function in self.functions(entry.node_id))
        return found

    def asset_numbers(self) -> list[int]:
        """The positions in the list of asset files that objects refer to."""
        nodes = self.graph.nodes
        return [node.asset.asset_file_def_index for node in nodes if node.WhichOneof("kind") == "asset"]

    def faults(self) -> Iterator[str]:
        """The faults of the object graph, as messages."""
        for number in self._references():
            if not 0 <= number < len(self.graph.nodes):
                yield f"an object refers to object {number} of {len(self.graph.nodes)}"
                return
        for node in self.graph.nodes:
            if node.registered_saver:
                yield f"an object has a custom saver {quote(node.registered_saver)}"
            if node.user_object.identifier in _LISTS:
                yield from _list_faults(node)

    def _references(self) -> Iterator[int]:
        """Every object number that occurs in the object graph."""
        for node in self.graph.nodes:
            yield from (child.node_id for child in (*node.children, *node.dependencies))
            for slot in node.slot_variables:
                yield from (slot.original_variable_node_id, slot.slot_variable_node_id)
            for saveable in node.saveable_objects.values():
                yield from (saveable.save_function, saveable.restore_function)
        for function in self.graph.concrete_functions.values():
            yield from function.bound_inputs

    def variables(self) -> Iterator[Any]:
        """Every `SavedVariable` that loading allocates, including one for each slot of an optimizer."""
        nodes = self.graph.nodes
        for node in nodes:
            if node.WhichOneof("kind") == "variable":
                yield node.variable
            for slot in node.slot_variables:
                original = nodes[slot.original_variable_node_id]
                if original.WhichOneof("kind") == "variable":
                    yield original.variable


def _list_faults(node: Any) -> Iterator[str]:
    # Loading creates a list as long as its largest index.
    most = 1000 + 10 * len(node.children)
    for child in node.children:
        try:
            index = abs(int(child.local_name))
        except ValueError:
            continue
        if index > most:
            yield f"a list of {len(node.children)} objects has an entry at index {quote(child.local_name)}"


def _tensorflow_methods() -> frozenset[str]:
    """The names of internal attributes of the classes that loading creates."""
    classes = (tf.Module, tf.saved_model.experimental.TrackableResource, tf.train.Checkpoint)
    return _MORE_METHODS | {name for one in classes for name in dir(one) if name.startswith("_")} - {"__call__"}
