"""Built-in models, selected by name; the data determines their input shape and number of classes."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from kdcli.errors import UsageError, did_you_mean
from kdcli.spec import ModelSource
from kdcli.zoo.application import Application
from kdcli.zoo.clone import Clone
from kdcli.zoo.cnn import Cnn
from kdcli.zoo.file import File
from kdcli.zoo.mlp import Mlp
from kdcli.zoo.mobile import Mobile
from kdcli.zoo.resnet import Resnet
from kdcli.zoo.shrunk import Shrunk

ZooModel = Annotated[Cnn | Mlp | Resnet | Mobile | Application | Clone, Field(discriminator="name")]
AnyModel = Annotated[ZooModel | File, Field(discriminator="kind")]
StudentModel = Annotated[ZooModel | File | Shrunk, Field(discriminator="kind")]


def get_zoo_class(name: str) -> type[ModelSource]:
    """Find the class of a zoo model.

    Raises:
        UsageError: an unknown name.
    """
    members = {member.model_fields["name"].default: member for member in get_args(get_args(ZooModel)[0])}
    if name not in members:
        known = ", ".join(f"zoo:{one}" for one in members)
        raise UsageError(f"unknown zoo model {name!r}; {did_you_mean(name, members)}known: {known}")
    return members[name]


def has_trained_weights(source: ModelSource) -> bool:
    """Whether a model comes with trained weights rather than random ones."""
    return isinstance(source, File) or (isinstance(source, Application) and source.weights != "none")


__all__ = [
    "AnyModel",
    "Application",
    "Clone",
    "Cnn",
    "File",
    "Mlp",
    "Mobile",
    "Resnet",
    "Shrunk",
    "StudentModel",
    "ZooModel",
    "get_zoo_class",
    "has_trained_weights",
]
