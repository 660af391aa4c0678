"""Custom kinds in a comparison: they are loaded once, so that arms can share a baseline."""

from __future__ import annotations

import pytest
from conftest import bar_reader, save_npz

import kdcli
from kdcli.comparison.arms import make_arms
from kdcli.errors import RecipeError, UsageError

MINE = """
from typing import Literal
import numpy as np
import kdcli

class Noise(kdcli.Source):
    kind: Literal["noise"] = "noise"

    def load(self):
        from kdcli.data.named_arrays import splits_from_arrays
        images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 1), dtype=np.uint8)
        return splits_from_arrays({"x": images, "y": np.arange(12) % 3}, name="noise")

class Straight(kdcli.Loss):
    kind: Literal["straight"] = "straight"
    power: float = 1.0

    def __call__(self, *, student, teacher, **_):
        return student[:, 0] - teacher[:, 0]
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The sources of a comparison, with a recipe for each of two powers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, "utf-8")
    bar_reader().save(tmp_path / "t.keras")
    recipes = []
    for power in (1, 2):
        path = tmp_path / f"power{power}.yaml"
        path.write_text(
            f"requires: [mine.py]\ndata: {{source: {{kind: noise}}}}\n"
            f"student: {{model: {{kind: zoo, name: mlp}}}}\nlosses: [{{kind: straight, power: {power}}}]\n"
        )
        recipes.append(path)
    return {"teacher": "t.keras", "students": [], "recipes": recipes, "distilled": [], "repeats": 1}


def test_arms_with_the_same_custom_source_share_a_baseline(sources):
    arms = make_arms(**sources, options={"code": ["mine.py"]})
    assert [arm.name for arm in arms if arm.baseline is None] == ["scratch"]
    powers = [arm.request.recipe.losses[0].power for arm in arms if arm.baseline is not None]
    assert powers == [1.0, 2.0]
    assert {type(arm.request.recipe.data.source) for arm in arms} == {type(arms[0].request.recipe.data.source)}
    assert all([path.name for path in arm.request.code] == ["mine.py"] for arm in arms)


def test_a_recipe_names_the_file_that_it_requires(sources):
    with pytest.raises(RecipeError, match=r"the recipe requires mine\.py") as caught:
        make_arms(**sources, options={})
    assert caught.value.hint == "--code mine.py"


def test_finished_runs_are_not_continued_with_a_changed_file(sources, tmp_path):
    recipe = {
        "data": {"source": str(save_npz(tmp_path / "data.npz"))},
        "student": {"model": {"kind": "zoo", "name": "mlp", "width": 2}},
        "losses": [{"kind": "straight"}],
        "train": {"epochs": 1, "batch_size": 16},
    }
    options = {"teacher": "t.keras", "recipes": [recipe], "repeats": 1, "latency": False, "preflight": False}
    options |= {"code": ["mine.py"], "out": tmp_path / "compared"}
    first = kdcli.compare(**options).to_json()
    assert kdcli.compare(**options, resume=True).to_json()["students"] == first["students"]
    (tmp_path / "mine.py").write_text(MINE.replace("student[:, 0] -", "2 * student[:, 0] -"), "utf-8")
    with pytest.raises(UsageError, match=r"the code mine\.py has changed since"):
        kdcli.compare(**options, resume=True)
