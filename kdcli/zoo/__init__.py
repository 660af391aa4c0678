"""Models by name; their input shape and number of classes follow the data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdcli.spec import ModelSource
from kdcli.zoo.application import Application
from kdcli.zoo.clone import Clone
from kdcli.zoo.cnn import Cnn
from kdcli.zoo.file import File
from kdcli.zoo.mlp import Mlp
from kdcli.zoo.mobile import Mobile
from kdcli.zoo.resnet import Resnet

ZooModel = Annotated[Cnn | Mlp | Resnet | Mobile | Application | Clone, Field(discriminator="name")]
AnyModel = Annotated[ZooModel | File, Field(discriminator="kind")]


def has_weights(source: ModelSource) -> bool:
    """Whether a model comes with weights that mean something, rather than with what a seed draws."""
    return isinstance(source, File) or (isinstance(source, Application) and source.weights != "none")


__all__ = ["AnyModel", "Application", "Clone", "Cnn", "File", "Mlp", "Mobile", "Resnet", "ZooModel", "has_weights"]
