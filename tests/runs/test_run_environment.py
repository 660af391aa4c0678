"""Records of a run: hashes, versions and arguments, without secrets."""

from __future__ import annotations

import hashlib
import sys

import pytest

from kdcli.runs.run_environment import (
    collect_versions,
    describe_machine,
    hash_file,
    read_arguments,
    redact_document,
    redact_words,
)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--token", "abc123"], ["--token", "***"]),
        (["--token=abc123"], ["--token=***"]),
        (["--api-key", "abc123", "--out", "a"], ["--api-key", "***", "--out", "a"]),
        (["--set", "tracking.password=abc123"], ["--set", "tracking.password=***"]),
        (["--set", "client_secret=abc123=="], ["--set", "client_secret=***"]),
        (["--data", "https://me:abc123@host/x.npz"], ["--data", "https://***@host/x.npz"]),
        (["--set", "data.source=s3://key:abc123@bucket/x.npz"], ["--set", "data.source=s3://***@bucket/x.npz"]),
    ],
)
def test_secrets_on_the_command_line_are_hidden(words, shown):
    assert redact_words(words) == shown


def test_ordinary_words_are_not_changed():
    words = ["distill", "--teacher", "t.keras", "--set", "losses.soft_targets.temperature=4", "a@b.keras"]
    assert redact_words(words) == words


def test_recorded_arguments_contain_no_secrets(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kd", "distill", "--token", "abc123"])
    assert read_arguments() == ["distill", "--token", "***"]


def test_secrets_in_documents_are_hidden_at_any_depth():
    document = {"a": [{"token": "abc", "steps": 3}], "API_KEY": "def", "b": {"password": "ghi"}, "c": ("x", 1)}
    assert redact_document(document) == {
        "a": [{"token": "***", "steps": 3}],
        "API_KEY": "***",
        "b": {"password": "***"},
        "c": ["x", 1],
    }


def test_credentials_in_addresses_are_hidden_in_documents():
    hidden = redact_document({"source": {"path": "https://me:abc123@host/x.npz"}})
    assert "abc123" not in str(hidden)
    assert "host/x.npz" in str(hidden)


def test_versions_and_machine_are_recorded():
    found = collect_versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(found) >= {"kdcli", "tensorflow", "keras", "numpy"}
    assert all(found[name] for name in ("kdcli", "tensorflow", "keras", "numpy"))
    assert describe_machine()["cores"] >= 1


def test_the_hash_of_a_file_is_the_sha256_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
