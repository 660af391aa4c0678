"""Models on other machines."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import platformdirs
import pytest

from kdcli.errors import ModelError
from kdcli.models.formats import model_file
from kdcli.models.remote import _hugging_face, fetched, is_remote
from kdcli.screening.verdict import NO_TRUST, Trust

ALLOWED = Trust(remote=True)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *details):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The address of a folder that a server on this machine shows, and the folder."""
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
def test_a_path_to_another_machine_is_refused_unless_it_is_allowed(path):
    for given in (Path(path), path):
        assert is_remote(given)
    with pytest.raises(ModelError, match="lies on another machine") as failure:
        fetched(Path(path), trust=NO_TRUST)
    assert failure.value.exit_code == 4 and "--allow-remote" in failure.value.hint
    assert path in failure.value.message


@pytest.mark.parametrize("path", ["m.keras", "/a/b.keras", "./http/m.keras", "C:/m.keras"])
def test_other_paths_are_this_machine(path):
    assert not is_remote(path)
    assert fetched(Path(path), trust=NO_TRUST) == Path(path)


def test_an_allowed_file_is_fetched_once_and_is_a_model_file_like_any_other(served):
    address, folder = served
    (folder / "m.keras").write_bytes(b"model")
    path = model_file(Path(f"{address}/m.keras"), trust=ALLOWED)
    assert (path.name, path.read_bytes()) == ("m.keras", b"model")
    (folder / "m.keras").unlink()
    assert model_file(Path(f"{address}/m.keras"), trust=ALLOWED) == path


def test_what_is_not_there_leaves_nothing_behind(served, tmp_path):
    address, _ = served
    with pytest.raises(ModelError, match="cannot be fetched: HTTP Error 404"):
        fetched(Path(f"{address}/none.keras"), trust=ALLOWED)
    assert [entry for entry in (tmp_path / "cache").rglob("*") if entry.is_file()] == []


def test_offline_nothing_is_fetched(served, monkeypatch):
    monkeypatch.setenv("KD_OFFLINE", "1")
    with pytest.raises(ModelError, match="KD_OFFLINE is set"):
        fetched(Path(f"{served[0]}/m.keras"), trust=ALLOWED)


def test_a_repository_is_asked_for_one_file():
    assert _hugging_face("owner/name/sub/m.keras").endswith("/owner/name/resolve/main/sub/m.keras")
    for short in ("owner/name", "owner"):
        with pytest.raises(ModelError, match="names no file"):
            _hugging_face(short)
