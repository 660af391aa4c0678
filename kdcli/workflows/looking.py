"""What a model file tells of itself: screened, opened, and taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.evaluation.footprint import file_bytes, flops, optimizer_bytes, weight_bytes
from kdcli.events import OnEvent
from kdcli.models.admission import ScreenedFile, admit, screened_copy
from kdcli.models.graph_network import GraphNetwork
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.network import Network, SeveralOutputs
from kdcli.models.opening import open_screened
from kdcli.models.preparation import Preparation
from kdcli.models.tapping import layers_by_path
from kdcli.recipe.reading import read_run
from kdcli.runs.directory import recipe_of_run, role_of_run
from kdcli.runs.inspected import Inspection, Layer, Tensor
from kdcli.workflows.asking import Asked
from kdcli.workflows.networks import as_recorded, choice_of


def look_into(given: Path, file: Path, asked: Asked, *, threads: int | None, on_event: OnEvent) -> Inspection:
    """Screen and open a model file; what is refused or does not open is told, not raised.

    Args:
        given: what the user named: the file, or the run that it is in.
        file: the model file or SavedModel.
        asked: for `student`'s choices and for what the file may do.
        threads: of a file that runs in a process of its own.
        on_event: warned of what is opened although it was refused.
    """
    section = as_recorded(given, asked.recipe.student)
    choice = choice_of(section)
    with screened_copy(file, trust=asked.trust, signature=choice.signature) as screened:
        told = _told(screened)
        try:
            admit(screened, choice.signature, on_event=on_event)
            try:
                network, outputs = open_screened(screened, choice=choice, threads=threads).network, None
            except SeveralOutputs as several:
                outputs = several.names
                one = replace(choice, output=outputs[0])
                network = open_screened(screened, choice=one, threads=threads).network
        except ModelError as refused:
            known = () if screened.verdict.refused else (f"unreadable: {refused.message}",)
            return replace(told, safe=False, findings=(*told.findings, *known), refused=refused)
    try:
        looked = described(told, _at_own_size(given, network), several=outputs)
        notes, spare = _notes(network, outputs), optimizer_bytes(told.path)
        if spare:
            notes.append(f"optimizer-state: {spare} of the file's {told.bytes} bytes; they are not in `bytes`")
        return replace(looked, bytes=told.bytes - spare, findings=(*told.findings, *notes))
    finally:
        network.close()


def _told(screened: ScreenedFile) -> Inspection:
    """What is known before anything is opened."""
    return Inspection(
        path=screened.path,
        format=screened.format,
        sha256=screened.sha256,
        inputs=(),
        outputs=(),
        bytes=file_bytes(screened.path),
        safe=screened.verdict.safe,
        findings=tuple(str(finding) for finding in screened.verdict.findings),
    )


def _notes(network: Any, several: Sequence[str] | None) -> list[str]:
    """What its reader should know, which is no reason to refuse it."""
    notes = [f"several-outputs: --output NAME chooses one of {', '.join(several)}"] if several else []
    if isinstance(network, GraphNetwork) and network.starts_from_bytes and network.inputs[0].dtype == "string":
        tensor = network.starts_from_bytes
        notes.append(f"encoded-pictures: it decodes them; --set student.input.tensor={tensor} starts behind that")
    return notes


def described(told: Inspection, network: Any, *, several: Sequence[str] | None = None) -> Inspection:
    """What an opened network tells, beside what was known before.

    Args:
        several: the names of all outputs, where one of them was opened for a look.
    """
    parameters = network.parameters
    alone = not isinstance(network, KerasNetwork | GraphNetwork)
    return replace(
        told,
        inputs=tuple(Tensor(spec.name, (None, *spec.shape), spec.dtype) for spec in network.inputs),
        outputs=_outputs(network, several),
        output_kind=network.output_kind if not alone else None,
        parameters=parameters,
        export_bytes=None if parameters is None else weight_bytes(parameters),
        flops=flops(network) if network.preparations and not alone else None,
        taps=None if alone else tuple(Tensor(name, (None, *shape)) for name, shape in network.taps.items()),
        layers=_layers(network),
        signature=getattr(network, "signature", None),
        signatures=getattr(network, "signatures", None),
    )


def _outputs(network: Network, several: Sequence[str] | None) -> tuple[Tensor, ...]:
    """The one that was opened; where none was chosen, all."""
    shown = [one for one in network.all_outputs if several or one.name == network.output_name]
    return tuple(Tensor(one.name, (None, *one.shape), one.dtype) for one in shown)


def _layers(network: Any) -> tuple[Layer, ...]:
    if not isinstance(network, KerasNetwork):
        return ()
    layers = layers_by_path(network.model)
    # A layer that holds others counts what is in them: only the innermost are shown with their weights.
    innermost = [path for path in layers if not any(other.startswith(f"{path}/") for other in layers)]
    return tuple(Layer(path, type(layers[path]).__name__, layers[path].count_params()) for path in innermost)


def _at_own_size(given: Path, network: Any) -> Any:
    """At its own input size; a run also knows how its model's output was understood, and the size of pictures."""
    own = recipe_of_run(given)
    section = getattr(read_run(own), role_of_run(given)) if own else None
    if section is not None and section.output_kind != "auto":
        network = network.understood(section.output_kind, head=network.head)
    if any(spec.dtype == "string" for spec in network.inputs):
        return network
    own_size: dict[str, Preparation] = {}
    for spec in network.inputs:
        shape = spec.shape
        if section is not None and section.input.resize != "auto":
            shape = (*section.input.resize, *shape[2:])
        known = tuple(side for side in shape if side is not None)
        if len(known) < len(shape):
            return network
        own_size[spec.name] = Preparation(known, spec.dtype, spec.shape, spec.dtype, scale="raw")
    return network.with_preparations(own_size)
