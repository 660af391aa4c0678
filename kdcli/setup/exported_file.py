"""What kd wrote beside a file that it exported, where that file is opened again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from kdcli.events import Note, OnEvent
from kdcli.models.network import Network
from kdcli.models.preprocessing import PixelScale, scale_from_json
from kdcli.models.runtimes.network import RunnerNetwork
from kdcli.runs.export_results import INTERFACE_FILE
from kdcli.spec import OutputKind

# Bytes of an `input.json`; kd writes far less.
MOST_SAID = 1_000_000


def apply_exported_settings(
    path: Path, section: Any, network: Network, *, role: str, asked_for: bool, on_event: OnEvent
) -> Any:
    """A section with what kd wrote beside a file that it exported: what goes in, and what comes out.

    Args:
        path: of the file.
        section: of the recipe. A recipe may be that of the run that the file was made from, whose own model gives
            something else: what stands beside the file holds.
        network: the opened file.
        role: whose section it is.
        asked_for: whether somebody wrote the section for this file.
        on_event: told of a scale or an output kind that is not for it.
    """
    said = _said_beside(path)
    if said.get("output_kind"):
        if section.output_kind not in ("auto", said["output_kind"]):
            on_event(
                Note(
                    f"{path} gives {said['output_kind']}, as {INTERFACE_FILE} beside it says; {role}.output_kind "
                    f"{section.output_kind} is not for it"
                )
            )
        section = section.model_copy(update={"output_kind": said["output_kind"]})
    if said.get("prepare") == "inside" or (isinstance(network, RunnerNetwork) and network.takes_bytes):
        if section.input.scale not in ("auto", "raw") and asked_for:
            on_event(Note(f"{path} takes raw images: {role}.input.scale {section.input.scale} is not for it"))
        return _scaled(section, "raw")
    if section.input.scale == "auto" and (scale := scale_from_json(said.get("scale"))) is not None:
        return _scaled(section, scale)
    return section


def _scaled(section: Any, scale: PixelScale) -> Any:
    return section.model_copy(update={"input": section.input.model_copy(update={"scale": scale})})


def _said_beside(path: Path) -> dict[str, Any]:
    """What `input.json` beside an exported file says of it; empty where kd wrote none."""
    file = path.parent / INTERFACE_FILE
    try:
        if not file.is_file() or file.stat().st_size > MOST_SAID:
            return {}
        entry = json.loads(file.read_text("utf-8"))[path.name]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    known = isinstance(entry, dict) and entry.get("prepare") in ("inside", "outside")
    return entry if known and entry.get("output_kind") in (None, *get_args(OutputKind)) else {}
