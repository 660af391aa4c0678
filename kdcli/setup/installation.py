"""What is installed and what computes: TensorFlow's devices, versions, extras, caches."""

from __future__ import annotations

import os
import re
import shlex
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from kdcli.cache.folder import CACHE_VARIABLE, find_cache_folder
from kdcli.evaluation.footprint import count_file_bytes
from kdcli.lazy import tf
from kdcli.runs.environment import Cache, Extra
from kdcli.runs.records import collect_versions

_PACKAGE = "kdcli"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_AND_EXTRAS = re.compile(r"^[\w.-]+(?:\[[^\]]+\])?")
_OF_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def find_devices() -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """What TensorFlow computes on; a TensorFlow that does not load is a finding, and no bug of ours."""
    try:
        found = tf.config.list_physical_devices()
        details = [tf.config.experimental.get_device_details(device) for device in found]
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return (), (f"TensorFlow does not load: {reason[0]:.300}",)
    return tuple(
        {"name": device.name.removeprefix("/physical_device:"), "model": detail.get("device_name")}
        for device, detail in zip(found, details, strict=True)
    ), ()


def find_extras() -> tuple[Extra, ...]:
    """Read from the installed package's own metadata, so that there is no second list of them."""
    extras = []
    for name in metadata(_PACKAGE).get_all("Provides-Extra") or ():
        packages: dict[str, str | None] = {}
        missing: list[str] = []
        for text in _requirements(_PACKAGE, name):
            found = _installed(text)
            packages |= found
            missing += [] if all(found.values()) else [shlex.quote(_NAME_AND_EXTRAS.findall(text)[0])]
        command = f"pip install {' '.join(missing)}" if missing else None
        extras.append(Extra(name, packages, command))
    return tuple(extras)


def _installed(requirement: str) -> dict[str, str | None]:
    """The package of a requirement and, for `tensorflow[and-cuda]`, those of its extras."""
    name = _name_of(requirement)
    found = {name: _version(name)}
    inside = re.match(r"[^;<>=!~ ]*\[([^\]]+)\]", requirement)
    for extra in inside[1].split(",") if inside and found[name] else ():
        found |= {_name_of(text): _version(_name_of(text)) for text in _requirements(name, extra.strip())}
    return found


def _requirements(package: str, extra: str | None) -> list[str]:
    """The requirements of an extra, or with None those of the package itself; other systems' are left out."""
    kept = []
    for text in requires(package) or ():
        _, _, marker = text.partition(";")
        wanted = _OF_EXTRA.search(marker)
        rest = _OF_EXTRA.sub("", marker).strip(" ()")
        if (wanted[1] if wanted else None) == extra and not rest:
            kept.append(text)
    return kept


def find_versions() -> dict[str, str | None]:
    """What a run records, and whatever else kd requires; `PyYAML` and `pyyaml` are one package."""
    found = collect_versions()
    known = {name.lower() for name in found}
    names = [_name_of(text) for text in _requirements(_PACKAGE, None)]
    return found | {name: _version(name) for name in names if name.lower() not in known}


def _name_of(requirement: str) -> str:
    match = _NAME.match(requirement)
    return match[0] if match else requirement


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_caches() -> tuple[Cache, ...]:
    """The folders where kd and Keras cache, with their sizes."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    folders = {
        "data sets": (home / "datasets", "KERAS_HOME"),
        "published weights": (home / "models", "KERAS_HOME"),
        "teachers' answers": (find_cache_folder(), CACHE_VARIABLE),
    }
    return tuple(
        Cache(name, str(path), count_file_bytes(path) if path.is_dir() else None, variable)
        for name, (path, variable) in folders.items()
    )
