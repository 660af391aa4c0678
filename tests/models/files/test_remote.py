"""Remote model files."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import platformdirs
import pytest

from kdcli.errors import ModelError
from kdcli.models.files import remote
from kdcli.models.files.format import resolve_model_file
from kdcli.models.files.remote import _hugging_face_url, fetch_remote
from kdcli.screening.verdict import NO_TRUST, Trust

ALLOWED = Trust(remote=True)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *details):
        pass

    def do_GET(self):
        if self.path == "/broken.keras":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        elif self.path == "/nonsense.keras":
            self.wfile.write(b"this is not a response\r\n\r\n")
        elif self.path == "/elsewhere.keras":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of a folder that a local server shows, and the folder."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.delenv("KD_OFFLINE", raising=False)
    folder = tmp_path / "there"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["http://a/m.keras", "https://a/m", "gs://b/m", "hf://o/n/m.keras", "s3://b/m"])
def test_a_remote_path_is_refused_unless_allowed(path):
    with pytest.raises(ModelError, match="is a remote path") as failure:
        fetch_remote(Path(path), trust=NO_TRUST)
    assert failure.value.exit_code == 4 and "--allow-remote" in failure.value.hint
    assert path in failure.value.message


@pytest.mark.parametrize("path", ["m.keras", "/a/b.keras", "./http/m.keras", "C:/m.keras"])
def test_other_paths_are_local(path):
    assert fetch_remote(Path(path), trust=NO_TRUST) == Path(path)


def test_an_allowed_file_is_downloaded_once(served):
    address, folder = served
    (folder / "m.keras").write_bytes(b"model")
    path = resolve_model_file(Path(f"{address}/m.keras"), trust=ALLOWED)
    assert (path.name, path.read_bytes()) == ("m.keras", b"model")
    (folder / "m.keras").unlink()
    assert resolve_model_file(Path(f"{address}/m.keras"), trust=ALLOWED) == path


def test_a_failed_download_leaves_no_file(served, tmp_path):
    address, _ = served
    with pytest.raises(ModelError, match="cannot be downloaded: HTTP Error 404"):
        fetch_remote(Path(f"{address}/none.keras"), trust=ALLOWED)
    assert [entry for entry in (tmp_path / "cache").rglob("*") if entry.is_file()] == []


def test_nothing_is_downloaded_offline(served, monkeypatch):
    monkeypatch.setenv("KD_OFFLINE", "1")
    with pytest.raises(ModelError, match="KD_OFFLINE is set"):
        fetch_remote(Path(f"{served[0]}/m.keras"), trust=ALLOWED)


def test_an_address_of_a_repository_names_one_file():
    assert _hugging_face_url("owner/name/sub/m.keras").endswith("/owner/name/resolve/main/sub/m.keras")
    for short in ("owner/name", "owner"):
        with pytest.raises(ModelError, match="does not name a file"):
            _hugging_face_url(short)


@pytest.mark.parametrize("name", ["broken.keras", "nonsense.keras", "elsewhere.keras", "a b.keras"])
def test_an_incomplete_download_is_refused(served, tmp_path, name):
    with pytest.raises(ModelError, match="cannot be downloaded"):
        fetch_remote(Path(f"{served[0]}/{name}"), trust=ALLOWED)
    assert [entry for entry in (tmp_path / "cache").rglob("*") if entry.is_file()] == []


@pytest.mark.parametrize("url", ["http://127.0.0.1/..", "file:///tmp/..", "http://127.0.0.1/a/?name"])
def test_an_address_without_a_file_deletes_nothing(served, tmp_path, url):
    kept = tmp_path / "cache" / "remote" / "kept"
    kept.mkdir(parents=True)
    with pytest.raises(ModelError):
        fetch_remote(Path(url), trust=ALLOWED)
    assert kept.is_dir()


def test_the_size_of_a_download_is_limited(served, monkeypatch):
    address, folder = served
    (folder / "large.keras").write_bytes(bytes(5000))
    monkeypatch.setattr(remote, "MAX_DOWNLOAD_BYTES", 4000)
    with pytest.raises(ModelError, match=r"5,000 bytes \(at most 4,000"):
        fetch_remote(Path(f"{address}/large.keras"), trust=ALLOWED)
