"""kd doctor: options, and the report in lines."""

from __future__ import annotations

from typing import Any

from kdcli.cli import options as o


def command(json: o.Json = False, no_color: o.NoColor = False) -> None:
    """Show versions, devices, caches and missing extras."""
    from kdcli.cli.console import Output
    from kdcli.commands.doctor import doctor

    found = doctor()
    output = Output(json_=json, no_color=no_color)
    document = found.to_json()
    output.result(document, human=_format_report(document))


# Packages of an extra that are listed; of more, only the number is shown.
_MAX_LISTED = 4


def _describe_packages(found: dict[str, str | None]) -> str:
    if len(found) > _MAX_LISTED:
        return f"{sum(version is not None for version in found.values())} of {len(found)} packages"
    return ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())


def _format_report(document: dict[str, Any]) -> list[str]:
    cores, memory = document["cores"], document["memory_bytes"]
    lines = [f"{name:18} {found or 'not installed'}" for name, found in document["versions"].items()]
    lines.append(f"{'system':18} {document['system']['system']}")
    lines.append(
        f"{'cores':18} {cores['usable']} usable, {cores['logical']} logical, {cores['physical'] or '?'} physical; "
        f"TensorFlow uses {document['threads'] or '?'} threads"
    )
    lines.append(f"{'memory':18} {memory['available']:,} bytes available of {memory['total']:,}")
    for device in document["devices"]:
        lines.append(f"{'device':18} {device['name']}" + (f" ({device['model']})" if device["model"] else ""))
    for cache in document["caches"]:
        size = "not created yet" if cache["bytes"] is None else f"{cache['bytes']:,} bytes"
        lines.append(f"{'cache':18} {cache['name']}: {cache['path']}, {size} (set {cache['variable']} to move it)")
    allowed = "no downloads: KD_OFFLINE is set" if document["offline"] else "downloads allowed"
    lines.append(f"{'network':18} {allowed}")
    for extra in document["extras"]:
        packages = _describe_packages(extra["packages"])
        command = f": {extra['command']}" if extra["command"] else ""
        lines.append(f"{'extra ' + extra['name']:18} {packages}{command}")
    return [*lines, *(f"{'finding':18} {finding}" for finding in document["findings"])]
