"""The installation: TensorFlow's devices, versions, extras, caches."""

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
from kdcli.runs.doctor_report import Cache, Extra
from kdcli.runs.run_environment import collect_versions

_PACKAGE = "kdcli"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_AND_EXTRAS = re.compile(r"^[\w.-]+(?:\[[^\]]+\])?")
_OF_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def find_devices() -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """TensorFlow's devices, and findings; a TensorFlow that cannot be loaded is a finding, not a bug of kd."""
    try:
        found = tf.config.list_physical_devices()
        details = [tf.config.experimental.get_device_details(device) for device in found]
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return (), (f"TensorFlow cannot be loaded: {reason[0]:.300}",)
    return tuple(
        {"name": device.name.removeprefix("/physical_device:"), "model": detail.get("device_name")}
        for device, detail in zip(found, details, strict=True)
    ), ()


def find_extras() -> tuple[Extra, ...]:
    """The extras of kd, read from the metadata of the installed package, with what is missing."""
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
    name = _parse_name(requirement)
    found = {name: _find_version(name)}
    inside = re.match(r"[^;<>=!~ ]*\[([^\]]+)\]", requirement)
    for extra in inside[1].split(",") if inside and found[name] else ():
        found |= {
            _parse_name(text): _find_version(_parse_name(text)) for text in _requirements(name, extra.strip())
        }
    return found


def _requirements(package: str, extra: str | None) -> list[str]:
    """The requirements of an extra, or of the package itself when None, that apply to this machine."""
    # Keras requires it too.
    from packaging.markers import Marker

    found = []
    for text in requires(package) or ():
        _, _, marker = text.partition(";")
        match = _OF_EXTRA.search(marker)
        applies = not marker or Marker(marker).evaluate({"extra": extra or ""})
        if (match[1] if match else None) == extra and applies:
            found.append(text)
    return found


def find_versions() -> dict[str, str | None]:
    """The versions that a run records, and those of kd's other requirements."""
    found = collect_versions()
    # Names are compared in lower case: `PyYAML` and `pyyaml` are the same package.
    known = {name.lower() for name in found}
    names = [_parse_name(text) for text in _requirements(_PACKAGE, None)]
    return found | {name: _find_version(name) for name in names if name.lower() not in known}


def _parse_name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return match[0] if match else requirement


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_caches() -> tuple[Cache, ...]:
    """The cache folders of kd and Keras, with their sizes in bytes."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    folders = {
        "data sets": (home / "datasets", "KERAS_HOME"),
        "published weights": (home / "models", "KERAS_HOME"),
        "teacher outputs": (find_cache_folder(), CACHE_VARIABLE),
    }
    return tuple(
        Cache(name, str(path), count_file_bytes(path) if path.is_dir() else None, variable)
        for name, (path, variable) in folders.items()
    )
