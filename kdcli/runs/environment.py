"""Where kd runs: versions, devices, memory, caches, extras."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Extra:
    """An optional part of kd.

    Args:
        name: as the package's metadata has it.
        packages: what it needs, with the installed version or None.
        command: adds what is missing, however kd was installed; None when nothing is.
    """

    name: str
    packages: dict[str, str | None]
    command: str | None


@dataclass(frozen=True)
class Cache:
    """A folder of kept files.

    Args:
        name: what is in it.
        path: where it is, whether or not it is there yet.
        bytes: how much is in it; None when it is not there.
        variable: the environment variable that moves it.
    """

    name: str
    path: str
    bytes: int | None
    variable: str


@dataclass(frozen=True)
class EnvironmentReport:
    """What `kd doctor` found."""

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
