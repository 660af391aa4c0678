"""Inspect a model file: screen it, open it, and list its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdcli.errors import KdError, ModelError
from kdcli.evaluation.footprint import count_file_bytes, count_flops, count_optimizer_bytes, count_weight_bytes
from kdcli.events import OnEvent
from kdcli.extras import MissingExtra
from kdcli.models.files.format import SAVED_MODEL
from kdcli.models.files.open import ModelPart, open_screened_file
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
    """Screen and open a model file; a refusal or a failure is reported in the result, not raised.

    Args:
        model: the file, or the run directory in which it is.
        file: the model file or SavedModel.
        request: the recipe's `student` section, and trust.
        threads: number of threads other runtimes use.
        on_event: receives a warning if a refused file is opened anyway.
    """
    part = choice_of(apply_run_settings(model, request.recipe.student))
    with copy_and_screen(file, trust=request.trust, signature=part.signature) as screened:
        inspection = _describe_file(screened, part.signature)
        try:
            admit(screened, part.signature, on_event=on_event)
            require_signature(screened, part.signature)
            network, several = _open_one_output(screened, part, threads=threads)
        except (UnusableModel, SeveralSignatures) as error:
            rule = "unfit" if isinstance(error, UnusableModel) else "several-signatures"
            hint = f"; {error.hint}" if error.hint else ""
            return replace(inspection, findings=(*inspection.findings, f"{rule}: {error.message}{hint}"))
        except ModelError as error:
            rule = "extra" if isinstance(error, MissingExtra) else "unreadable"
            found = () if screened.verdict.refused else (f"{rule}: {error.message}",)
            # A file whose runtime is not installed may still be safe.
            safe = inspection.safe and isinstance(error, MissingExtra)
            return replace(inspection, safe=safe, findings=(*inspection.findings, *found), refused=error)
    try:
        described = describe_network(inspection, _set_input_size(model, network), several=several)
        notes, optimizer_bytes = _list_notes(network, several), count_optimizer_bytes(inspection.path)
        if optimizer_bytes:
            notes.append(
                f"optimizer-state: {optimizer_bytes:,} of the file's {inspection.bytes:,} bytes, which `bytes` "
                "does not count"
            )
        size = inspection.bytes - optimizer_bytes
        return replace(described, bytes=size, findings=(*inspection.findings, *notes))
    finally:
        network.close()


def describe_network(
    inspection: Inspection, network: Network, *, several: Sequence[str] | None = None
) -> Inspection:
    """Add the parts of an opened network to an inspection.

    Args:
        inspection: what is known of the file.
        network: the opened network.
        several: the names of all outputs if there are several and none was chosen.
    """
    parameters = network.parameters
    has_graph = isinstance(network, KerasNetwork | SavedModelNetwork)
    taps = tuple(InspectedTensor(name, (None, *shape)) for name, shape in network.taps.items())
    return replace(
        inspection,
        inputs=_describe_inputs(network),
        outputs=_describe_outputs(network, several),
        output_kind=network.saved_kind if has_graph else None,
        parameters=parameters,
        export_bytes=None if parameters is None else count_weight_bytes(parameters),
        flops=count_flops(network) if network.preprocessing and has_graph else None,
        taps=taps if has_graph else None,
        layers=_describe_layers(network),
        signature=getattr(network, "signature", None),
        signatures=getattr(network, "signatures", None),
    )


def _describe_file(screened: ScreenedFile, signature: str | None) -> Inspection:
    """What is known of a file before it is opened."""
    inspection = Inspection(
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
    return inspection if facts is None else _add_signatures(inspection, facts, signature)


def _add_signatures(inspection: Inspection, facts: SavedModelFacts, option: str | None) -> Inspection:
    """Add the signatures of a SavedModel, and the tensors of the chosen one."""
    names = tuple(signature.name for signature in facts.signatures)
    try:
        chosen = choose_signature(names, option)
    except KdError:
        return replace(inspection, signatures=names)
    signature = facts.signatures[names.index(chosen)]
    inputs, outputs = (
        tuple(InspectedTensor(one.name, one.shape, one.dtype) for one in side)
        for side in (signature.inputs, signature.outputs)
    )
    return replace(inspection, inputs=inputs, outputs=outputs, signature=chosen, signatures=names)


def _open_one_output(
    screened: ScreenedFile, part: ModelPart, *, threads: int | None
) -> tuple[Network, Sequence[str] | None]:
    """The network, with its first output if there are several, and in that case the names of all."""
    try:
        return open_screened_file(screened, part=part, threads=threads).network, None
    except AmbiguousOutput as error:
        first = replace(part, output=error.names[0])
        return open_screened_file(screened, part=first, threads=threads).network, error.names


def _list_notes(network: Network, several: Sequence[str] | None) -> list[str]:
    """Findings that do not make a file unsafe."""
    notes = [f"several-outputs: --output NAME chooses one of {', '.join(several)}"] if several else []
    if isinstance(network, SavedModelNetwork) and network.decoded_images and network.inputs[0].dtype == "string":
        setting = f"--set student.input.tensor={network.decoded_images}"
        notes.append(f"encoded-images: the model decodes image files; {setting} starts after decoding")
    return notes


def _describe_inputs(network: Network) -> tuple[InspectedTensor, ...]:
    if isinstance(network, RunnerNetwork):
        return tuple(_describe_tensor(one, network) for one in network.runner.inputs)
    return tuple(InspectedTensor(spec.name, (network.batch, *spec.shape), spec.dtype) for spec in network.inputs)


def _describe_tensor(one: FileTensor, network: RunnerNetwork) -> InspectedTensor:
    """A tensor of a file, with the file's fixed batch size."""
    shape = (network.runner.batch, *(None if side < 0 else side for side in one.shape))
    return InspectedTensor(one.name, shape, one.dtype, None if one.scale is None else (one.scale, one.zero_point))


def _describe_outputs(network: Network, several: Sequence[str] | None) -> tuple[InspectedTensor, ...]:
    """The chosen output, or all if none was chosen."""
    names = [one.name for one in network.all_outputs if several or one.name == network.output_name]
    if isinstance(network, RunnerNetwork):
        return tuple(_describe_tensor(one, network) for one in network.runner.outputs if one.name in names)
    return tuple(
        InspectedTensor(one.name, (None, *one.shape), one.dtype)
        for one in network.all_outputs
        if one.name in names
    )


def _describe_layers(network: Network) -> tuple[InspectedLayer, ...]:
    if not isinstance(network, KerasNetwork):
        return ()
    layers = find_layers(network.model)
    # The weights of a nested model belong to its layers, which are listed too.
    innermost = [path for path in layers if not any(other.startswith(f"{path}/") for other in layers)]
    # `count_params` fails for layers without `build`, such as lookup layers.
    return tuple(
        InspectedLayer(
            path, type(layers[path]).__name__, sum(math.prod(weight.shape) for weight in layers[path].weights)
        )
        for path in innermost
    )


def _set_input_size(model: Path, network: Network) -> Network:
    """The network with preprocessing at its own input size, or at the image size and output kind of its run."""
    recipe = find_run_recipe(model)
    section = getattr(read_run_recipe(recipe), find_run_role(model)) if recipe else None
    if section is not None and section.output_kind != "auto":
        network = network.with_output_kinds(section.output_kind, output_kind=network.output_kind)
    if any(spec.dtype == "string" for spec in network.inputs):
        return network
    preprocessing: dict[str, Preprocessing] = {}
    for spec in network.inputs:
        shape = spec.shape
        if section is not None and section.input.resize != "auto":
            shape = (*section.input.resize, *shape[2:])
        known = tuple(side for side in shape if side is not None)
        if len(known) < len(shape):
            return network
        preprocessing[spec.name] = Preprocessing(known, spec.dtype, spec.shape, spec.dtype, scale="raw")
    return network.with_preprocessing(preprocessing)
