"""Which formats a model can be exported to, known before it is trained."""

from __future__ import annotations

from importlib.util import find_spec

from kdcli.errors import ModelError
from kdcli.exports import EXPORT_FORMATS, Litert
from kdcli.exports.operations import CONVERTIBLE_OPERATIONS
from kdcli.models.inference import copy_network, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.network import Network
from kdcli.runs import writer
from kdcli.spec import ExportFormat

YES, ONE_AT_A_TIME, UNKNOWN = "yes", "one example at a time, not int8", "not known before it is exported"


def exportable_formats(network: Network) -> dict[str, str]:
    """Each format with `YES`, `ONE_AT_A_TIME`, `UNKNOWN` or the reason why not.

    A model of operations that every converter has is not converted for that; another one is, into scratch space.

    Args:
        network: behind its preparation; it stays as it is.
    """
    if not isinstance(network, KerasNetwork):
        # It is trained as a graph with variables, and frozen when it is exported.
        return {kind: YES if kind == "saved-model" else UNKNOWN for kind in EXPORT_FORMATS if kind != "keras"}
    known = dict.fromkeys(EXPORT_FORMATS, YES)
    if network.operations <= CONVERTIBLE_OPERATIONS or len(network.preprocessing) != 1:
        return known
    tried = prepare_for_export(copy_network(network), network.saved_kind)
    return {
        **known,
        **{kind: _tried(EXPORT_FORMATS[kind].model_validate({}), tried) for kind in ("litert", "onnx")},
    }


def _tried(chosen: ExportFormat, network: Network) -> str:
    if not isinstance(chosen, Litert) and find_spec("tf2onnx") is None:
        return UNKNOWN
    reason = ""
    with writer.scratch_folder(12 * (network.parameters or 0)) as folder:
        for batch in (None, 1):
            try:
                chosen.write(
                    make_served_model(network, include_preprocessing=True, batch=batch),
                    folder / chosen.file_name("model"),
                )
            except ModelError as error:
                reason = error.message.split(": ", 2)[-1]
            else:
                return YES if batch is None else ONE_AT_A_TIME
    return reason
