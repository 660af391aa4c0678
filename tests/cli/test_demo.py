"""kd demo: refusals and the final table."""

from __future__ import annotations

import pytest


def test_a_folder_in_use_is_refused_before_any_work(kd, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    ran = kd("demo", "--out", "full")
    assert ran.code == 2
    assert ran.err.splitlines() == ["error: --out full is not empty", "hint: choose another --out"]


def test_a_missing_extra_is_named_before_any_work(kd, monkeypatch, tmp_path):
    monkeypatch.setattr("kdcli.extras.find_spec", lambda name: None)
    ran = kd("demo", "--out", "new")
    assert ran.code == 4
    assert "pip install ai-edge-litert" in ran.err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_story_ends_in_a_file_that_meets_its_target(kd, tmp_path):
    ran = kd("demo", "--out", "story", "--json")
    assert ran.code == 0
    assert ran.document["schema"] == "kd.demo/1"
    document = ran.document["compress"]
    assert document["met"]
    picked = tmp_path / document["picked"]["path"]
    assert picked == tmp_path / "story" / "small" / "model.tflite"
    assert picked.stat().st_size == document["picked"]["bytes"] <= 20_000
    assert document["teacher"]["value"] >= 0.98
    assert document["picked"]["drop"]["value"] <= 0.03
    assert set(ran.document["seconds"]) == {"teacher", "compress", "total"}
