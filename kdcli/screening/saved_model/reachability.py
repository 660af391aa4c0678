"""Which functions and nodes of a SavedModel can run: from loading, and from the chosen signature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

from kdcli.screening.saved_model.objects import Objects, Root
from kdcli.screening.saved_model.program import Program
from kdcli.screening.saved_model.proto import parse_message, tensor_names
from kdcli.screening.verdict import quote

_DEFAULT_SIGNATURE = "serving_default"
# Entries in the list of signatures that are not signatures.
_INIT = "__saved_model_init_op"
_INTERNAL = (_INIT, "__saved_model_train_op")
# TensorFlow 1 collections of operations that loading runs, some only if another collection is missing.
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op", "table_initializer", "resources", "local_resources")
_LOCAL_VARIABLES = "local_variables"


@dataclass(frozen=True)
class Roots:
    """What starts functions and nodes of a model.

    Args:
        loading: run by `tf.saved_model.load`.
        restoring: run by it to read the variables of a TensorFlow 1 model.
        signature: run by a call of the chosen signature, or of all signatures if the choice is ambiguous.
        saving: not run by kd: what writes the variables, and what reads them in other programs.
    """

    _: KW_ONLY
    loading: tuple[Root, ...]
    restoring: tuple[Root, ...]
    signature: tuple[Root, ...]
    saving: tuple[Root, ...]


def signature_names(meta: Any) -> tuple[str, ...]:
    """The names of all signatures, in the object graph or in the list of signatures."""
    names = {*meta.signature_def, *Objects(meta.object_graph_def).signatures()}
    return tuple(sorted(name for name in names if name not in _INTERNAL))


def chosen_signatures(meta: Any, signature: str | None) -> tuple[str, ...]:
    """The signature that will run, or all of them if the choice is ambiguous.

    Args:
        meta: the `MetaGraphDef` message.
        signature: the requested signature; `serving_default`, or the only signature, if None.
    """
    names = signature_names(meta)
    name = _DEFAULT_SIGNATURE if signature is None else signature
    return (name,) if name in names else names


def find_roots(meta: Any, signature: str | None) -> Roots:
    """Find everything that loading a model or calling a signature starts.

    Args:
        meta: the `MetaGraphDef` message.
        signature: as in `chosen_signatures`.
    """
    objects = Objects(meta.object_graph_def)
    chosen = chosen_signatures(meta, signature)
    called = [root for name in chosen for root in objects.signatures().get(name, [])]
    for name in chosen:
        if name in meta.signature_def:
            called.append(_root(meta.signature_def[name], f"the signature {quote(name)} runs it"))
    saver = meta.saver_def
    saving = [Root("saving runs it", fetches=(saver.save_tensor_name,))] if saver.save_tensor_name else []
    restore: list[Root] = []
    if saver.restore_op_name:
        fetches, feeds = (saver.restore_op_name,), (saver.filename_tensor_name,)
        restore = [Root("loading runs it to restore variables", fetches=fetches, feeds=feeds)]
    if has_objects(meta):
        return Roots(
            loading=tuple(objects.loading_roots()),
            restoring=(),
            signature=tuple(called),
            saving=(*saving, *restore),
        )
    return Roots(
        loading=tuple(_flat_loading_roots(meta)),
        restoring=tuple(restore),
        signature=tuple(called),
        saving=tuple(saving),
    )


def has_objects(meta: Any) -> bool:
    """Whether a model has an object graph, which loading builds; TensorFlow 1 models have none."""
    return bool(meta.HasField("object_graph_def"))


def _flat_loading_roots(meta: Any) -> Iterator[Root]:
    """What loading a TensorFlow 1 model runs, except for restoring its variables."""
    feeds = tuple(name for name, _ in asset_tensors(meta))
    if _INIT in meta.signature_def:
        yield _root(meta.signature_def[_INIT], "loading runs it to initialize the model", feeds=feeds)
    for key in _INIT_COLLECTIONS:
        if key in meta.collection_def:
            names = tuple(meta.collection_def[key].node_list.value)
            yield Root(f"loading runs it ({key})", fetches=names, feeds=feeds)
    if _LOCAL_VARIABLES in meta.collection_def:
        for content in meta.collection_def[_LOCAL_VARIABLES].bytes_list.value:
            variable = parse_message("VariableDef", content)
            names = tuple(name for name in (variable.initializer_name, variable.initial_value_name) if name)
            yield Root(
                f"loading runs it to initialize {quote(variable.variable_name)}", fetches=names, feeds=feeds
            )


def _root(signature: Any, reason: str, *, feeds: tuple[str, ...] = ()) -> Root:
    fetches = tuple(name for one in signature.outputs.values() for name in tensor_names(one))
    inputs = tuple(name for one in signature.inputs.values() for name in tensor_names(one))
    return Root(reason, fetches=fetches, feeds=(*feeds, *inputs))


def asset_tensors(meta: Any) -> list[tuple[str, str]]:
    """The tensors that receive the path of an asset, each with the file name; as TensorFlow 1 stores them."""
    found = [(one.tensor_info.name, one.filename) for one in meta.asset_file_def]
    if "saved_model_assets" in meta.collection_def:
        values = meta.collection_def["saved_model_assets"].any_list.value
        assets = (parse_message("AssetFileDef", value.value) for value in values)
        found.extend((asset.tensor_info.name, asset.filename) for asset in assets)
    return found


@dataclass(frozen=True)
class Reachable:
    """The functions and nodes that can run from some roots.

    Args:
        functions: reason of the first root that reaches a function, by its name.
        nodes: the same for nodes of the main graph.
    """

    functions: dict[str, str]
    nodes: dict[str, str]

    def __or__(self, other: Reachable) -> Reachable:
        """The union of both; where both have a reason, the one of this object."""
        return Reachable({**other.functions, **self.functions}, {**other.nodes, **self.nodes})


def find_reachable(program: Program, roots: tuple[Root, ...]) -> Reachable:
    """Find all functions and nodes that can run from some roots."""
    functions: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for root in roots:
        upstream = program.find_upstream(root.fetches, feeds=root.feeds)
        starts = [name for node in upstream for name in program.graph.calls.get(node, ())]
        # Attached functions may run for any node of the main graph.
        starts.extend(program.graph.attached if upstream else ())
        starts.extend((root.function,) if root.function else ())
        for node in upstream:
            nodes.setdefault(node, root.reason)
        for name in program.find_reachable(starts):
            functions.setdefault(name, root.reason)
    return Reachable(functions, nodes)
