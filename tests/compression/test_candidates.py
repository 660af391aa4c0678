"""The candidates of a search: which are made, and which are dropped without training."""

from __future__ import annotations

import pytest
from conftest import bar_reader, save_npz

import kdcli
from kdcli.compression import candidates, families
from kdcli.compression.candidates import Candidate, drop_dominated


def candidate(name, *, parameters, size, family="shrunk"):
    return Candidate(name=name, family=family, parameters=parameters, bytes=size)


def list_dropped(*found):
    return [one.name for one in drop_dominated(found) if not one.is_open]


def test_fewer_parameters_at_no_lower_cost_are_dominated():
    assert list_dropped(candidate("a", parameters=10, size=5), candidate("b", parameters=9, size=5)) == ["b"]
    assert list_dropped(candidate("a", parameters=10, size=5), candidate("b", parameters=9, size=4)) == []


def test_of_equal_candidates_the_first_stays():
    assert list_dropped(*(candidate(name, parameters=10, size=5) for name in "abc")) == ["b", "c"]


def test_an_architecture_of_its_own_is_not_compared():
    best = candidate("a", parameters=10, size=5)
    assert list_dropped(best, candidate("b", parameters=9, size=5, family="zoo")) == []
    assert list_dropped(best, candidate("b", parameters=9, size=5, family="blocks")) == ["b"]


def test_no_family_is_made_after_its_part_of_the_budget(tmp_path, monkeypatch):
    def refuse(self, name, subject):
        pytest.fail(f"{name} was made")

    monkeypatch.setattr(candidates, "_SEARCH_PART", 0.0)
    monkeypatch.setattr(families.ZooFamily, "__init__", refuse)
    data = save_npz(tmp_path / "data.npz", examples=120)
    found = kdcli.compress(bar_reader(), data=data, max_size_mb=0.1, epochs=1, dry_run=True)
    first, *others = found.to_json()["candidates"]
    assert first["status"] != "dropped"
    assert {one["reason"] for one in others} == {"the budget is too small to find its size"}
