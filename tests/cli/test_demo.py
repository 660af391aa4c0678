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
def test_the_story_ends_in_one_table_with_files_that_ship(kd, tmp_path):
    ran = kd("demo", "--out", "story", "--json")
    assert ran.code == 0
    document = ran.document
    assert document["schema"] == "kd.demo/1"
    models = {model["name"]: model for model in document["models"]}
    assert len(models) == 5
    assert models["teacher"]["accuracy"] >= 0.98
    assert models["student distilled, mean of 3"]["smaller"] >= 10
    assert models["student_int8.tflite, seed 0"]["smaller"] >= 50
    assert document["comparison"]["verdict"] in ("better", "worse", "inconclusive")
    for model in models.values():
        assert (tmp_path / model["path"]).exists()
    assert set(document["seconds"]) == {"teacher", "distill", "compare", "export", "total"}
