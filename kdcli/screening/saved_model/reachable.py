"""What of a SavedModel runs: what loading starts, and what the chosen signature starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdcli.screening.saved_model.objects import Objects, Root
from kdcli.screening.saved_model.program import Program
from kdcli.screening.saved_model.proto import parse_asset, parse_variable, quote_name, tensor_names

DEFAULT = "serving_default"
# Entries among the signatures that are none.
INIT = "__saved_model_init_op"
_INTERNAL = (INIT, "__saved_model_train_op")
# The collections of TensorFlow 1 whose operations loading runs, or runs when there is no better one.
_RUN_BY_LOADING = ("saved_model_main_op", "legacy_init_op", "table_initializer", "resources", "local_resources")
_LOCAL_VARIABLES = "local_variables"


@dataclass(frozen=True)
class Running:
    """What starts.

    Args:
        loading: by `tf.saved_model.load`.
        restoring: by it as well, to read the variables of a model of TensorFlow 1.
        signature: by a call of the chosen signature, or of all where the choice is not clear.
        saving: by nobody here: what writes the variables, and what reads them again in other programs.
    """

    loading: tuple[Root, ...]
    restoring: tuple[Root, ...]
    signature: tuple[Root, ...]
    saving: tuple[Root, ...]


def signature_names(meta: Any) -> tuple[str, ...]:
    """All signatures that a model says to have, in its object graph or beside it."""
    names = {*meta.signature_def, *Objects(meta.object_graph_def).signatures()}
    return tuple(sorted(name for name in names if name not in _INTERNAL))


def chosen_signatures(meta: Any, signature: str | None) -> tuple[str, ...]:
    """The signature that is to run, or all of them where that is not clear.

    Args:
        meta: the `MetaGraphDef` message.
        signature: the one asked for; `serving_default`, or the only one, when None.
    """
    names = signature_names(meta)
    for name in (signature, DEFAULT) if signature is None else (signature,):
        if name in names:
            return (name,)
    return names


def find_running(meta: Any, signature: str | None) -> Running:
    """Find where everything starts that a model runs.

    Args:
        meta: the `MetaGraphDef` message.
        signature: as in `chosen_signatures`.
    """
    objects = Objects(meta.object_graph_def)
    chosen = chosen_signatures(meta, signature)
    called = [root for name in chosen for root in objects.signatures().get(name, [])]
    for name in chosen:
        if name in meta.signature_def:
            called.append(_root(meta.signature_def[name], f"the signature {quote_name(name)} runs it"))
    saver = meta.saver_def
    saving = [Root("saving runs it", fetches=(saver.save_tensor_name,))] if saver.save_tensor_name else []
    restore: list[Root] = []
    if saver.restore_op_name:
        fetches, feeds = (saver.restore_op_name,), (saver.filename_tensor_name,)
        restore = [Root("loading runs it to restore variables", fetches=fetches, feeds=feeds)]
    if has_objects(meta):
        return Running(tuple(objects.run_by_loading()), (), tuple(called), (*saving, *restore))
    return Running(tuple(_started_by_first(meta)), tuple(restore), tuple(called), tuple(saving))


def has_objects(meta: Any) -> bool:
    """Whether a model has an object graph, which loading then builds; those of TensorFlow 1 have none."""
    return bool(meta.HasField("object_graph_def"))


def _started_by_first(meta: Any) -> Iterator[Root]:
    """What loading a model of TensorFlow 1 runs, beside restoring its variables."""
    feeds = tuple(name for name, _ in first_assets(meta))
    if INIT in meta.signature_def:
        yield _root(meta.signature_def[INIT], "loading runs it to initialise the model", feeds=feeds)
    for key in _RUN_BY_LOADING:
        if key in meta.collection_def:
            names = tuple(meta.collection_def[key].node_list.value)
            yield Root(f"loading runs it ({key})", fetches=names, feeds=feeds)
    if _LOCAL_VARIABLES in meta.collection_def:
        for content in meta.collection_def[_LOCAL_VARIABLES].bytes_list.value:
            variable = parse_variable(content)
            names = tuple(name for name in (variable.initializer_name, variable.initial_value_name) if name)
            yield Root(
                f"loading runs it to initialise {quote_name(variable.variable_name)}", fetches=names, feeds=feeds
            )


def _root(signature: Any, reason: str, *, feeds: tuple[str, ...] = ()) -> Root:
    fetches = tuple(name for one in signature.outputs.values() for name in tensor_names(one))
    given = tuple(name for one in signature.inputs.values() for name in tensor_names(one))
    return Root(reason, fetches=fetches, feeds=(*feeds, *given))


def first_assets(meta: Any) -> list[tuple[str, str]]:
    """The tensors that are given the path of an asset, with its file name, as TensorFlow 1 writes both."""
    found = [(one.tensor_info.name, one.filename) for one in meta.asset_file_def]
    if "saved_model_assets" in meta.collection_def:
        values = meta.collection_def["saved_model_assets"].any_list.value
        found.extend((one.tensor_info.name, one.filename) for one in map(parse_asset, (v.value for v in values)))
    return found


@dataclass(frozen=True)
class Reached:
    """What some roots reach.

    Args:
        functions: by name, the reason of the first root that reaches it.
        nodes: of the main graph, likewise.
    """

    functions: dict[str, str]
    nodes: dict[str, str]

    def __or__(self, other: Reached) -> Reached:
        """Both together; the own reason stands where both reach something."""
        return Reached({**other.functions, **self.functions}, {**other.nodes, **self.nodes})


def reach(program: Program, roots: tuple[Root, ...]) -> Reached:
    """Follow everything that some roots can run."""
    functions: dict[str, str] = {}
    nodes: dict[str, str] = {}
    for root in roots:
        upstream = program.upstream(root.fetches, feeds=root.feeds)
        starts = [name for node in upstream for name in program.graph.calls.get(node, ())]
        # Functions that are only named beside count for any node of the main graph.
        starts.extend(program.graph.attached if upstream else ())
        starts.extend((root.function,) if root.function else ())
        for node in upstream:
            nodes.setdefault(node, root.reason)
        for name in program.reached(starts):
            functions.setdefault(name, root.reason)
    return Reached(functions, nodes)
