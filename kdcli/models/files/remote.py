"""Remote model files: downloaded to a local folder, then treated like any other file."""

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

# `Path` collapses double slashes: `http://x` becomes `http:/x`.
_REMOTE = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<rest>.+)$")
_TIMEOUT_SECONDS = 60.0
MAX_DOWNLOAD_BYTES = 20_000_000_000


def fetch_remote(path: Path, *, trust: Trust) -> Path:
    """Download a remote file, once per process; a local path is returned as it is.

    Args:
        path: a local path, `http://` or `https://`, `hf://owner/name/file`, or a scheme that TensorFlow reads,
            such as `gs://`.
        trust: whether downloads are allowed.

    Raises:
        ModelError: a download that is not allowed, or that failed.
    """
    match = _REMOTE.match(str(path))
    if match is None:
        return path
    scheme, rest = match["scheme"], match["rest"]
    url = f"{scheme}://{rest}"
    if not trust.remote:
        raise ModelError(f"{url}: is a remote path", hint="--allow-remote downloads and screens it")
    if os.environ.get("KD_OFFLINE"):
        raise ModelError(f"{url}: is a remote path, and KD_OFFLINE is set", hint="download the file yourself")
    return _download(url, scheme, rest)


@cache
def _download(url: str, scheme: str, rest: str) -> Path:
    """Download a file; cached because a command resolves the same path several times."""
    import platformdirs

    # One folder per address, because two models may have the same file name.
    folder = Path(platformdirs.user_cache_dir("kdcli")) / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
    name = Path(rest.split("?")[0]).name
    if name in ("", ".", ".."):
        raise ModelError(f"{url}: does not name a file", hint="give the address of a file")
    target = folder / name
    writer.make_folder(folder)
    try:
        if scheme in ("http", "https"):
            _download_http(url, target)
        elif scheme == "hf":
            _download_http(_hugging_face_url(rest), target)
        else:
            _copy_with_tensorflow(url, target)
    except (OSError, ValueError, HTTPException, tf.errors.OpError) as error:
        reason = summarize_error(error)
        raise ModelError(f"{url}: cannot be downloaded: {reason:.200}") from error
    return target


def _download_http(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        declared = int(response.headers.get("Content-Length") or -1)
        if declared > MAX_DOWNLOAD_BYTES:
            raise ValueError(f"the file has {declared:,} bytes (at most {MAX_DOWNLOAD_BYTES:,} are downloaded)")
        writer.write_stream(target, response, max_bytes=MAX_DOWNLOAD_BYTES)
    if declared >= 0 and target.stat().st_size != declared:
        target.unlink()
        raise ValueError("the connection closed before the end of the file")


def _copy_with_tensorflow(url: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if tf.io.gfile.isdir(url):
        for folder, _, files in tf.io.gfile.walk(url):
            placed = target / folder[len(url) :].strip("/")
            writer.make_folder(placed)
            for name in files:
                tf.io.gfile.copy(f"{folder.rstrip('/')}/{name}", str(placed / name), overwrite=True)
    else:
        tf.io.gfile.copy(url, str(target), overwrite=True)


def _hugging_face_url(rest: str) -> str:
    owner, name, *inside = [*rest.split("/"), ""][: max(2, rest.count("/") + 1)]
    if not inside:
        raise ModelError(
            f"hf://{rest}: does not name a file", hint="hf://OWNER/NAME/model.keras names a file of the repository"
        )
    return f"https://huggingface.co/{owner}/{name}/resolve/main/{'/'.join(inside)}"
