"""Models on other machines: fetched into a folder of this machine, then treated like every other file."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.request
from functools import cache
from http.client import HTTPException
from pathlib import Path

from kdcli.errors import ModelError, summarize_error
from kdcli.lazy import tf
from kdcli.runs import writer
from kdcli.screening.verdict import Trust

# Paths collapse double slashes: `http:/x` is what is left of `http://x`.
_REMOTE = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<rest>.+)$")
_SECONDS = 60.0
# Bytes that are fetched, and no more.
MAX_DOWNLOAD_BYTES = 20_000_000_000


def is_remote(path: str | Path) -> bool:
    """Whether a path names another machine."""
    return _REMOTE.match(str(path)) is not None


def fetch_remote(path: Path, *, trust: Trust) -> Path:
    """The local copy of a remote file, or the path itself.

    Args:
        path: `http://`, `https://`, `gs://` and other places that TensorFlow reads, or `hf://owner/name/file`.
        trust: whether anything may be fetched.

    Raises:
        ModelError: not allowed, or it cannot be had.
    """
    match = _REMOTE.match(str(path))
    if match is None:
        return path
    scheme, rest = match["scheme"], match["rest"]
    url = f"{scheme}://{rest}"
    if not trust.remote:
        raise ModelError(f"{url}: lies on another machine", hint="--allow-remote fetches it, then screens it")
    if os.environ.get("KD_OFFLINE"):
        raise ModelError(f"{url}: lies on another machine, and KD_OFFLINE is set", hint="fetch it yourself")
    return _download(url, scheme, rest)


@cache
def _download(url: str, scheme: str, rest: str) -> Path:
    """Once in a process: a command looks at a model's path several times."""
    import platformdirs

    # A name of its own for each address: two models of one name do not meet.
    folder = Path(platformdirs.user_cache_dir("kdcli")) / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
    name = Path(rest.split("?")[0]).name
    if name in ("", ".", ".."):
        raise ModelError(f"{url}: names no file", hint="give the address of a file")
    target = folder / name
    writer.make_folder(folder)
    try:
        if scheme in ("http", "https"):
            _over_http(url, target)
        elif scheme == "hf":
            _over_http(_hugging_face(rest), target)
        else:
            _through_tensorflow(url, target)
    except (OSError, ValueError, HTTPException, tf.errors.OpError) as error:
        reason = summarize_error(error)
        raise ModelError(f"{url}: cannot be fetched: {reason:.200}") from error
    return target


def _over_http(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
        declared = int(answer.headers.get("Content-Length") or -1)
        if declared > MAX_DOWNLOAD_BYTES:
            raise ValueError(f"it is {declared} bytes, {MAX_DOWNLOAD_BYTES} are the most")
        writer.write_stream(target, answer, max_bytes=MAX_DOWNLOAD_BYTES)
    if declared >= 0 and target.stat().st_size != declared:
        target.unlink()
        raise ValueError("it broke off before its end")


def _through_tensorflow(url: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if tf.io.gfile.isdir(url):
        for folder, _, files in tf.io.gfile.walk(url):
            placed = target / folder[len(url) :].strip("/")
            writer.make_folder(placed)
            for name in files:
                tf.io.gfile.copy(f"{folder.rstrip('/')}/{name}", str(placed / name), overwrite=True)
    else:
        tf.io.gfile.copy(url, str(target), overwrite=True)


def _hugging_face(rest: str) -> str:
    owner, name, *inside = [*rest.split("/"), ""][: max(2, rest.count("/") + 1)]
    if not inside:
        raise ModelError(
            f"hf://{rest}: names no file", hint="hf://OWNER/NAME/model.keras, a file of that repository"
        )
    return f"https://huggingface.co/{owner}/{name}/resolve/main/{'/'.join(inside)}"
