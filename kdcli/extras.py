"""Optional packages: which extra needs them, and a refusal before any work if they are missing."""

from __future__ import annotations

from importlib.util import find_spec

from kdcli.errors import ModelError

# The packages of each extra by import name; pip takes the same names with hyphens.
EXTRAS = {
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "legacy": ("tf_keras",),
    "micro": ("tflite_micro",),
}


class MissingExtra(ModelError):
    """A file needs a package that is not installed."""


def require_extra(extra: str, *, subject: str) -> None:
    """Check that the packages of an extra are installed.

    Args:
        extra: `litert`, `onnx`, `legacy` or `micro`.
        subject: what needs the packages; the message starts with it.

    Raises:
        MissingExtra: a package is missing; the hint is the command that installs it.
    """
    missing = [name.replace("_", "-") for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        # Package names, not `kdcli[...]`: pip may not know kdcli by that name.
        raise MissingExtra(
            f"{subject} needs {' and '.join(missing)}, which {verb} not installed",
            hint=f"pip install {' '.join(missing)}",
        )
