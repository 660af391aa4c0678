"""Types of the settings that several sources share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from kdcli.spec import Names

_Side = Annotated[int, Field(ge=1, le=8192)]
_Size = Annotated[tuple[_Side, _Side], Field(strict=False)]


def _classify(value: Any) -> str:
    return "word" if isinstance(value, str) else "list" if isinstance(value, list | tuple) else "number"


ImageSize = Annotated[
    Annotated[Literal["auto"], Tag("word")] | Annotated[_Size, Tag("list")], Discriminator(_classify)
]
Channels = Literal["auto", 1, 3]
Bits = Annotated[int, Field(ge=8, le=16)]
ColumnNames = Annotated[Annotated[str, Tag("word")] | Annotated[Names, Tag("list")], Discriminator(_classify)]
