"""Models by name; their input shape and number of classes follow the data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdcli.zoo.cnn import Cnn
from kdcli.zoo.file import File
from kdcli.zoo.mlp import Mlp

ZooModel = Annotated[Cnn | Mlp, Field(discriminator="name")]
AnyModel = Annotated[ZooModel | File, Field(discriminator="kind")]

__all__ = ["AnyModel", "Cnn", "File", "Mlp", "ZooModel"]
