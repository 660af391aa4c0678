"""Groups of options that commands share, the wrapper that shows them to Typer, and parsers of their values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from kdcli.cli import options as o
from kdcli.errors import UsageError

if TYPE_CHECKING:
    from kdcli.cli.console import Output
    from kdcli.screening.verdict import Trust
    from kdcli.setup.request import RecipeOptions, RunOptions


@dataclass(frozen=True, kw_only=True)
class RecipeGroup:
    """Options for the recipe, the data and the trust in model files."""

    set_: o.Set = None
    data: o.Data = None
    limit: o.LimitOption = None
    batch_size: o.BatchSizeOption = None
    threads: o.Threads = None
    code: o.Code = None
    trust_model: o.TrustModel = False
    allow_tables: o.AllowTables = False
    allow_remote: o.AllowRemote = False

    @property
    def trust(self) -> Trust:
        """Permissions for model files."""
        from kdcli.screening.verdict import Trust

        return Trust(self.trust_model, self.allow_tables, self.allow_remote)

    def number_of_examples(self) -> int | float | None:
        """The value of `--limit`: a count, a fraction, or None."""
        return parse_limit(self.limit)

    def to_options(self, output: Output) -> RecipeOptions:
        """Keyword arguments for the Python API, with events shown on `output`."""
        return {
            "settings": self.set_ or (),
            "data": self.data,
            "batch_size": self.batch_size,
            "trust": self.trust,
            "code": self.code or (),
            "threads": self.threads,
            "on_event": output.on_event,
        }


@dataclass(frozen=True, kw_only=True)
class PartGroup:
    """Options that select a signature or an output of a model."""

    signature: o.Signature = None
    output_name: o.OutputName = None

    def to_options(self) -> RecipeOptions:
        """Keyword arguments for the Python API."""
        return {"signature": self.signature, "output": self.output_name}


@dataclass(frozen=True, kw_only=True)
class OutputGroup:
    """Options for printing."""

    json: o.Json = False
    quiet: o.Quiet = False
    verbose: o.Verbose = False
    no_color: o.NoColor = False

    def open(self) -> Output:
        """Create the output of the command."""
        from kdcli.cli.console import Output

        return Output(json_=self.json, quiet=self.quiet, verbose=self.verbose, no_color=self.no_color)


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Options for the run directory and the training."""

    out: o.Out = None
    resume: o.Resume = False
    overwrite: o.Overwrite = False
    seed: o.SeedOption = None
    epochs: o.Epochs = None
    devices: o.Devices = None
    dry_run: o.DryRun = False
    max_time: o.MaxTime = None
    no_preflight: o.NoPreflight = False
    cache_limit: o.CacheLimit = None

    def to_options(self, recipe: RecipeGroup, output: Output, stop: Callable[[], int | None]) -> RunOptions:
        """Keyword arguments for a function of the Python API that trains."""
        return {
            **recipe.to_options(output),
            "limit": recipe.number_of_examples(),
            "out": self.out,
            "resume": self.resume,
            "overwrite": self.overwrite,
            "seed": self.seed,
            "epochs": self.epochs,
            "devices": self.devices,
            "dry_run": self.dry_run,
            "preflight": not self.no_preflight,
            "cache_limit": parse_bytes(self.cache_limit),
            "stop": stop,
        }


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each group among the parameters of a command by the options of the group, as Typer needs them."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name not in groups]
    # Help lists what is special to a command before what it shares with others.
    parameters = [
        *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in own),
        *(parameter for group in groups.values() for parameter in _list_parameters(group)),
    ]

    def flat(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field.name: options.pop(field.name) for field in fields(group)})
        command(**options)

    flat.__doc__ = command.__doc__
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat


@cache
def _list_parameters(group: Any) -> tuple[inspect.Parameter, ...]:
    """The options of a group. Several commands share it, and resolving its hints takes most of their start."""
    hints = get_type_hints(group, include_extras=True)
    return tuple(
        inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name]
        )
        for one in fields(group)
    )


def parse_limit(text: str | None) -> int | float | None:
    """Read `--limit`: `500` is a count, `0.1` a fraction."""
    if text is None:
        return None
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise UsageError(
            f"--limit must be a count such as 500 or a fraction such as 0.1, got {text!r}", hint="--limit 500"
        ) from None


def parse_time(text: str | None, *, option: str = "--max-time") -> float | None:
    """Read `--max-time` or `--budget` (`90s`, `30m`, `2h` or plain seconds), in seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or float(match[1]) == 0:
        raise UsageError(f"{option} must be a time such as 90s, 30m or 2h, got {text!r}", hint=f"{option} 30m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_bytes(text: str | None) -> int | None:
    """Read `--cache-limit` (`500MB`, `20GB` or plain bytes), in bytes; 1 MB is 10^6 bytes."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kKMGT]?)B?", text)
    if not match:
        raise UsageError(
            f"--cache-limit must be a size such as 500MB or 20GB, got {text!r}", hint="--cache-limit 20GB"
        )
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
