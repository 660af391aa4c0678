"""Export formats: one file of this folder for each."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from kdcli.exports.keras import Keras
from kdcli.exports.litert import Litert
from kdcli.exports.micro import Micro
from kdcli.exports.onnx import Onnx
from kdcli.exports.saved_model import SavedModel
from kdcli.exports.web import Web
from kdcli.spec import ExportFormat

AnyFormat = Annotated[Keras | SavedModel | Litert | Onnx | Micro | Web, Field(discriminator="kind")]

EXPORT_FORMATS: dict[str, type[ExportFormat]] = {
    member.model_fields["kind"].default: member for member in get_args(get_args(AnyFormat)[0])
}

__all__ = ["EXPORT_FORMATS", "AnyFormat", "Keras", "Litert", "Micro", "Onnx", "SavedModel", "Web"]
