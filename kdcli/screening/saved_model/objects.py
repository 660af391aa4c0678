"""The object graph of a SavedModel: what loading builds from it, and which functions loading runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdcli.lazy import tf
from kdcli.screening.saved_model.proto import quote_name

# Set on an object of TensorFlow, a function under one of these names is called as if it were TensorFlow's own.
_SELF = ("_self_", "__")
_ALSO_OWN = frozenset({"_should_act_as_resource_variable", "resource_handle"})
# What a function is traced to stands beside it, for nobody to call.
_TRACE = re.compile(r"trace_\d+")
_OPTIMIZER = "optimizer"
_LISTS = ("trackable_list_wrapper", "trackable_tuple_wrapper")


@dataclass(frozen=True)
class Root:
    """A function or tensors that something runs.

    Args:
        reason: who runs it, in words: "loading runs it as ...".
        function: its name, or None for tensors of the main graph.
        fetches: the names of those tensors.
        feeds: the names of tensors that are given.
    """

    reason: str
    function: str | None = None
    fetches: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Objects:
    """The objects that loading builds, by their number.

    Args:
        graph: the `SavedObjectGraph` message.
    """

    graph: Any

    def functions(self, number: int, *, seen: frozenset[int] = frozenset()) -> Iterator[str]:
        """The functions that run when an object is called."""
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

    def captured(self, function: str) -> list[Any]:
        """The objects whose values a function captures, as its last arguments."""
        if function not in self.graph.concrete_functions:
            return []
        return [self.graph.nodes[number] for number in self.graph.concrete_functions[function].bound_inputs]

    def run_by_loading(self) -> Iterator[Root]:
        """Every function that `tf.saved_model.load` calls.

        Loading sets each child as an attribute of its parent, and TensorFlow then calls attributes: `_initialize`
        and `_create_resource` of a resource, save and restore functions, but also any method of its own that a
        child's name has replaced.
        """
        own = _own_names()
        for node in self.graph.nodes:
            kind = node.WhichOneof("kind")
            anything = kind not in ("user_object", "resource") or node.user_object.identifier == _OPTIMIZER
            for child in (*node.children, *node.dependencies):
                name = child.local_name
                if name == "__call__" or (kind == "function" and _TRACE.fullmatch(name)):
                    continue
                if anything or name in own or name.startswith(_SELF):
                    for function in self.functions(child.node_id):
                        yield Root(f"loading runs it as {quote_name(name)}", function)
            for name, saveable in node.saveable_objects.items():
                for number in (saveable.save_function, saveable.restore_function):
                    for function in self.functions(number):
                        yield Root(f"loading runs it to restore {quote_name(name)}", function)

    def signatures(self) -> dict[str, list[Root]]:
        """What each signature of the loaded object runs."""
        found: dict[str, list[Root]] = {}
        if not self.graph.nodes:
            return found
        for child in self.graph.nodes[0].children:
            if child.local_name == "signatures":
                for entry in self.graph.nodes[child.node_id].children:
                    roots = found.setdefault(entry.local_name, [])
                    reason = f"the signature {quote_name(entry.local_name)} runs it"
                    roots.extend(Root(reason, function) for function in self.functions(entry.node_id))
        return found

    def asset_numbers(self) -> list[int]:
        """The numbers of the assets, in the list of asset files, that objects stand for."""
        nodes = self.graph.nodes
        return [node.asset.asset_file_def_index for node in nodes if node.WhichOneof("kind") == "asset"]

    def faults(self) -> Iterator[str]:
        """What is wrong with the objects themselves, in sentences."""
        for number in self._numbers():
            if not 0 <= number < len(self.graph.nodes):
                yield f"object {number} of {len(self.graph.nodes)} is asked for"
                return
        for node in self.graph.nodes:
            if node.registered_saver:
                yield f"an object brings its own saver {quote_name(node.registered_saver)}"
            if node.user_object.identifier in _LISTS:
                yield from _list_faults(node)

    def _numbers(self) -> Iterator[int]:
        """Every number by which an object is asked for."""
        for node in self.graph.nodes:
            yield from (child.node_id for child in (*node.children, *node.dependencies))
            for slot in node.slot_variables:
                yield from (slot.original_variable_node_id, slot.slot_variable_node_id)
            for saveable in node.saveable_objects.values():
                yield from (saveable.save_function, saveable.restore_function)
        for function in self.graph.concrete_functions.values():
            yield from function.bound_inputs

    def variables(self) -> Iterator[Any]:
        """Every `SavedVariable` that loading allocates, an optimizer's slots as often as they are asked for."""
        nodes = self.graph.nodes
        for node in nodes:
            if node.WhichOneof("kind") == "variable":
                yield node.variable
            for slot in node.slot_variables:
                original = nodes[slot.original_variable_node_id]
                if original.WhichOneof("kind") == "variable":
                    yield original.variable


def _list_faults(node: Any) -> Iterator[str]:
    # Loading makes a list as long as its largest index says.
    most = 1000 + 10 * len(node.children)
    for child in node.children:
        try:
            place = abs(int(child.local_name))
        except ValueError:
            continue
        if place > most:
            yield f"a list of {len(node.children)} objects has one at place {quote_name(child.local_name)}"


def _own_names() -> frozenset[str]:
    classes = (tf.Module, tf.saved_model.experimental.TrackableResource, tf.train.Checkpoint)
    return _ALSO_OWN | {name for one in classes for name in dir(one) if name.startswith("_")} - {"__call__"}
