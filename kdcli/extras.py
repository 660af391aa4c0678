"""Optional packages: whether they are there, said before any work."""

from __future__ import annotations

from importlib.util import find_spec

from kdcli.errors import ModelError

# What each extra of the package brings, by the names under which it is imported; pip takes them with hyphens.
EXTRAS = {"litert": ("ai_edge_litert",), "onnx": ("onnx", "onnxruntime", "tf2onnx"), "legacy": ("tf_keras",)}


class MissingExtra(ModelError):
    """A file that needs a package which is not installed."""


def require_extra(extra: str, *, subject: str) -> None:
    """Refuse to go on without the packages of an extra.

    Args:
        extra: `litert`, `onnx` or `legacy`.
        subject: needs it, for the message.

    Raises:
        MissingExtra: with the command that adds them.
    """
    missing = [name.replace("_", "-") for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        # The packages themselves: `kdcli[...]` works only where pip knows kdcli by that name.
        raise MissingExtra(
            f"{subject} needs {' and '.join(missing)}, which {verb} not installed",
            hint=f"pip install {' '.join(missing)}",
        )
