"""Optional packages: which extra needs them, and a refusal before any work if they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from kdcli.errors import ModelError

# Packages that write to the same modules as those of an extra.
_CONFLICTS = {"quantize": "ai_edge_quantizer"}
# The packages of each extra by import name; pip takes the same names with hyphens.
EXTRAS = {
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "legacy": ("tf_keras",),
    "micro": ("tflite_micro",),
    "quantize": ("litert_quantizer",),
}


class MissingExtra(ModelError):
    """A file needs a package that is not installed."""


def find_missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed, as pip names them."""
    return [name.replace("_", "-") for name in EXTRAS[extra] if find_spec(name) is None]


def require_extra(extra: str, *, subject: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: a key of `EXTRAS`.
        subject: what needs the packages; the message starts with it.

    Raises:
        MissingExtra: a package is missing; the hint is the command that installs it.
        ModelError: a package that excludes it is installed.
    """
    other = _CONFLICTS.get(extra)
    if other is not None and find_spec(other) is not None:
        name = other.replace("_", "-")
        raise ModelError(
            f"{subject}: {name} is installed, which excludes {EXTRAS[extra][0].replace('_', '-')}",
            hint=f"pip uninstall {name}",
        )
    missing = find_missing(extra)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        # Package names, not `kdcli[...]`: pip may not know kdcli by that name.
        raise MissingExtra(
            f"{subject} needs {' and '.join(missing)}, which {verb} not installed",
            hint=f"pip install {' '.join(missing)}",
        )
