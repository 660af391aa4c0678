"""What a model file tells of itself: screened, opened, and taken apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.errors import KdError, ModelError
from kdcli.evaluation.footprint import count_file_bytes, count_flops, count_optimizer_bytes, count_weight_bytes
from kdcli.events import OnEvent
from kdcli.extras import MissingExtra
from kdcli.models.files.format import SAVED_MODEL
from kdcli.models.files.open import open_screened_file
from kdcli.models.files.screened_copy import ScreenedFile, admit, copy_and_screen, require_signature
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.taps import find_layers
from kdcli.models.network import AmbiguousOutput, Network, UnusableModel
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.runtimes.file_tensor import FileTensor
from kdcli.models.runtimes.network import RunnerNetwork
from kdcli.models.saved_model.network import SavedModelNetwork
from kdcli.models.saved_model.signatures import SeveralSignatures, choose_signature
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.runs.inspection_results import InspectedLayer, InspectedTensor, Inspection
from kdcli.screening.saved_model.facts import SavedModelFacts, describe_saved_model
from kdcli.setup.open_models import apply_run_settings, choice_of
from kdcli.setup.request import Request


def inspect_file(
    model: Path, file: Path, request: Request, *, threads: int | None, on_event: OnEvent
) -> Inspection:
    """Screen and open a model file; what is refused or does not open is told, not raised.

    Args:
        model: what the user named: the file, or the run that it is in.
        file: the model file or SavedModel.
        asked: for `student`'s choices and for what the file may do.
        threads: of a file that runs in a process of its own.
        on_event: warned of what is opened although it was refused.
    """
    section = apply_run_settings(model, request.recipe.student)
    choice = choice_of(section)
    with copy_and_screen(file, trust=request.trust, signature=choice.signature) as screened:
        told = _told(screened, choice.signature)
        try:
            admit(screened, choice.signature, on_event=on_event)
            require_signature(screened, choice.signature)
            try:
                network, outputs = open_screened_file(screened, part=choice, threads=threads).network, None
            except AmbiguousOutput as several:
                outputs = several.names
                one = replace(choice, output=outputs[0])
                network = open_screened_file(screened, part=one, threads=threads).network
        except (UnusableModel, SeveralSignatures) as unfit:
            way = f"; {unfit.hint}" if unfit.hint else ""
            rule = "unfit" if isinstance(unfit, UnusableModel) else "several-signatures"
            return replace(told, findings=(*told.findings, f"{rule}: {unfit.message}{way}"))
        except ModelError as refused:
            rule = "extra" if isinstance(refused, MissingExtra) else "unreadable"
            known = () if screened.verdict.refused else (f"{rule}: {refused.message}",)
            # What is only not installed here may be safe.
            safe = told.safe and isinstance(refused, MissingExtra)
            return replace(told, safe=safe, findings=(*told.findings, *known), refused=refused)
    try:
        looked = describe_network(told, _at_own_size(model, network), several=outputs)
        notes, spare = _notes(network, outputs), count_optimizer_bytes(told.path)
        if spare:
            notes.append(f"optimizer-state: {spare} of the file's {told.bytes} bytes; they are not in `bytes`")
        return replace(looked, bytes=told.bytes - spare, findings=(*told.findings, *notes))
    finally:
        network.close()


def _told(screened: ScreenedFile, signature: str | None) -> Inspection:
    """What is known before anything is opened."""
    told = Inspection(
        path=screened.path,
        format=screened.format,
        sha256=screened.sha256,
        inputs=(),
        outputs=(),
        bytes=count_file_bytes(screened.path),
        safe=screened.verdict.safe,
        findings=tuple(str(finding) for finding in screened.verdict.findings),
    )
    facts = describe_saved_model(screened.copied) if screened.format == SAVED_MODEL else None
    return told if facts is None else _said(told, facts, signature)


def _said(told: Inspection, facts: SavedModelFacts, wanted: str | None) -> Inspection:
    """What a SavedModel says of its signatures, and of the tensors of the one that is meant."""
    names = tuple(signature.name for signature in facts.signatures)
    try:
        chosen = choose_signature(names, wanted)
    except KdError:
        return replace(told, signatures=names)
    meant = facts.signatures[names.index(chosen)]
    inputs, outputs = (
        tuple(InspectedTensor(one.name, one.shape, one.dtype) for one in side)
        for side in (meant.inputs, meant.outputs)
    )
    return replace(told, inputs=inputs, outputs=outputs, signature=chosen, signatures=names)


def _notes(network: Any, several: Sequence[str] | None) -> list[str]:
    """What its reader should know, which is no reason to refuse it."""
    notes = [f"several-outputs: --output NAME chooses one of {', '.join(several)}"] if several else []
    if isinstance(network, SavedModelNetwork) and network.decoded_images and network.inputs[0].dtype == "string":
        tensor = network.decoded_images
        notes.append(f"encoded-pictures: it decodes them; --set student.input.tensor={tensor} starts behind that")
    return notes


def describe_network(inspection: Inspection, network: Any, *, several: Sequence[str] | None = None) -> Inspection:
    """What an opened network tells, beside what was known before.

    Args:
        several: the names of all outputs, where one of them was opened for a look.
    """
    parameters = network.parameters
    alone = not isinstance(network, KerasNetwork | SavedModelNetwork)
    return replace(
        inspection,
        inputs=_inputs(network),
        outputs=_outputs(network, several),
        output_kind=network.saved_kind if not alone else None,
        parameters=parameters,
        export_bytes=None if parameters is None else count_weight_bytes(parameters),
        flops=count_flops(network) if network.preprocessing and not alone else None,
        taps=None
        if alone
        else tuple(InspectedTensor(name, (None, *shape)) for name, shape in network.taps.items()),
        layers=_layers(network),
        signature=getattr(network, "signature", None),
        signatures=getattr(network, "signatures", None),
    )


def _inputs(network: Network) -> tuple[InspectedTensor, ...]:
    if isinstance(network, RunnerNetwork):
        return tuple(_tensor(one, network) for one in network.runner.inputs)
    batch = getattr(network, "batch", None)
    return tuple(InspectedTensor(spec.name, (batch, *spec.shape), spec.dtype) for spec in network.inputs)


def _tensor(one: FileTensor, network: RunnerNetwork) -> InspectedTensor:
    """As the file holds it, with its only batch size."""
    shape = (network.runner.batch, *(None if side < 0 else side for side in one.shape))
    return InspectedTensor(one.name, shape, one.dtype, None if one.scale is None else (one.scale, one.zero_point))


def _outputs(network: Network, several: Sequence[str] | None) -> tuple[InspectedTensor, ...]:
    """The one that was opened; where none was chosen, all."""
    names = [one.name for one in network.all_outputs if several or one.name == network.output_name]
    if isinstance(network, RunnerNetwork):
        return tuple(_tensor(one, network) for one in network.runner.outputs if one.name in names)
    return tuple(
        InspectedTensor(one.name, (None, *one.shape), one.dtype)
        for one in network.all_outputs
        if one.name in names
    )


def _layers(network: Any) -> tuple[InspectedLayer, ...]:
    if not isinstance(network, KerasNetwork):
        return ()
    layers = find_layers(network.model)
    # A layer that holds others counts what is in them: only the innermost are shown with their weights.
    innermost = [path for path in layers if not any(other.startswith(f"{path}/") for other in layers)]
    return tuple(
        InspectedLayer(path, type(layers[path]).__name__, _weights_in(layers[path])) for path in innermost
    )


def _weights_in(layer: Any) -> int:
    # Keras counts no layer without a `build` of its own, such as one that looks words up.
    return sum(math.prod(variable.shape) for variable in layer.weights)


def _at_own_size(given: Path, network: Any) -> Any:
    """At its own input size; a run also knows how its model's output was understood, and the size of pictures."""
    own = find_run_recipe(given)
    section = getattr(read_run_recipe(own), find_run_role(given)) if own else None
    if section is not None and section.output_kind != "auto":
        network = network.with_output_kinds(section.output_kind, output_kind=network.output_kind)
    if any(spec.dtype == "string" for spec in network.inputs):
        return network
    own_size: dict[str, Preprocessing] = {}
    for spec in network.inputs:
        shape = spec.shape
        if section is not None and section.input.resize != "auto":
            shape = (*section.input.resize, *shape[2:])
        known = tuple(side for side in shape if side is not None)
        if len(known) < len(shape):
            return network
        own_size[spec.name] = Preprocessing(known, spec.dtype, spec.shape, spec.dtype, scale="raw")
    return network.with_preprocessing(own_size)
