"""The environment of kd, as `kd doctor` reports it: versions, devices, memory, caches, extras."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Extra:
    """An extra of kd.

    Args:
        name: name in the metadata of the package.
        packages: installed versions of the packages that it needs; None for a missing package.
        command: command that installs the missing packages; None if none is missing.
    """

    name: str
    packages: dict[str, str | None]
    command: str | None


@dataclass(frozen=True)
class Cache:
    """A folder of cached files.

    Args:
        name: what the folder contains.
        path: path of the folder, even if it does not exist yet.
        bytes: size of its contents; None if it does not exist.
        variable: environment variable that sets the path.
    """

    name: str
    path: str
    bytes: int | None
    variable: str


@dataclass(frozen=True)
class EnvironmentReport:
    """The result of `kd doctor`."""

    versions: dict[str, str | None]
    system: dict[str, Any]
    devices: tuple[dict[str, Any], ...]
    threads: int | None
    cores: dict[str, int | None]
    memory_bytes: dict[str, int]
    caches: tuple[Cache, ...]
    offline: bool
    extras: tuple[Extra, ...]
    findings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """`kd.doctor/1`."""
        return {"schema": "kd.doctor/1", **asdict(self)}
