"""Optional packages: whether they are there, said before any work."""

from __future__ import annotations

from importlib.util import find_spec

from kdcli.errors import ModelError

# What each extra of the package brings, by the names under which it is imported.
EXTRAS = {"litert": ("ai_edge_litert",), "onnx": ("onnx", "onnxruntime", "tf2onnx"), "legacy": ("tf_keras",)}


class MissingExtra(ModelError):
    """A file that needs a package which is not installed."""


def require_extra(extra: str, *, what: str) -> None:
    """Refuse to go on without the packages of an extra.

    Args:
        extra: `litert`, `onnx` or `legacy`.
        what: needs it, for the message.

    Raises:
        MissingExtra: with the command that adds them.
    """
    missing = [package for package in EXTRAS[extra] if find_spec(package) is None]
    if missing:
        raise MissingExtra(
            f"{what} needs {' and '.join(missing)}, which is not installed", hint=f"pip install 'kdcli[{extra}]'"
        )
