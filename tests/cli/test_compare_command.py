"""kd compare on a command line: the document, the path, the tables, and the next command."""

from __future__ import annotations

import pytest
import yaml
from conftest import bar_reader, save_npz


@pytest.fixture
def files(tmp_path):
    """A teacher, a recipe and data, tiny."""
    bar_reader().save(tmp_path / "teacher.keras")
    recipe = {
        "data": {"source": str(save_npz(tmp_path / "data.npz"))},
        "student": {"model": {"kind": "zoo", "name": "cnn", "width": 2, "blocks": 1}},
        "losses": [{"kind": "labels", "weight": 0.5}, {"kind": "soft_targets", "weight": 0.5}],
        "train": {"epochs": 1, "batch_size": 16},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    return ["--teacher", "teacher.keras", "--recipe", "./small.yaml", "--repeats", "1"]


def test_the_document_the_path_and_the_tables(kd, files, tmp_path):
    ran = kd("compare", *files, "--out", "all", "--json")
    assert ran.code == 0
    document = ran.document
    assert document["schema"] == "kd.compare/1"
    assert [student["name"] for student in document["students"]] == ["scratch", "cnn/small"]
    assert document["picked"].startswith("all/cnn/")

    again = kd("compare", *files, "--out", "all", "--resume", "--no-latency")
    assert again.code == 0
    for number in (document["students"][1]["accuracy"]["mean"], document["teacher"]["accuracy"]):
        assert f"{number:.4f}" in again.out
    assert f"picked on validation: {document['picked']}" in again.out
    assert "next: kd export all/cnn/" in again.err
    assert "epoch" not in again.err

    quiet = kd("compare", *files, "--out", "all", "--resume", "--no-latency", "--quiet")
    assert (quiet.code, quiet.out.strip(), quiet.err) == (0, document["picked"], "")


def test_a_dry_run_prints_the_arms_and_the_plan(kd, files, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = kd("compare", *files, "--out", "dry", "--dry-run", "--json")
    assert ran.code == 0
    assert ran.document["schema"] == "kd.plan/1"
    assert [arm["runs"] for arm in ran.document["arms"]] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_stopped_comparison_prints_the_command_that_continues_it(kd, files):
    ran = kd("compare", *files, "--out", "stopped", "--max-time", "0.01s", "--set", "train.epochs=500")
    assert ran.code == 143
    assert "hint: kd compare" in ran.err
    assert "--out stopped" in ran.err and "--resume" in ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeats", "0"], "--repeats must be >= 1, got '0'"),
        (["--recipe", "nowhere"], "unknown recipe 'nowhere'"),
        (["--distilled", "nothing"], "nothing: not a finished run"),
        (["--student", "missing.keras"], "missing.keras: no such model file"),
        (["--resume"], "--resume needs --out with the comparison to continue"),
    ],
)
def test_bad_options_are_refused_with_one_message(kd, files, tmp_path, words, message):
    given = list(files)
    if words[0] == "--repeats":
        place = given.index("--repeats")
        del given[place : place + 2]
    ran = kd("compare", *given, *words)
    assert ran.code in (2, 4)
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "runs").exists()
