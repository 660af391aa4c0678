"""What a budget buys: fewer candidates first, then fewer examples, then a refusal with the time that is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdcli.compression.schedule import Costs, Length, count_survivors, list_rungs, plan_schedule
from kdcli.errors import UsageError

NAMES = [f"c{number}" for number in range(9)]
COSTS = Costs(steps=dict.fromkeys(NAMES, 0.01), build=2.0, teacher=0.0, evaluation=0.0, finish=20.0)
LENGTH = Length(examples=6400, held_out=1000, validation=500, batch=64, epochs=20, augmented=False)


def plan(budget, *, costs=COSTS, length=LENGTH):
    return plan_schedule(NAMES, costs, length, budget=budget)


def test_a_large_budget_trains_every_candidate_for_the_wanted_epochs():
    schedule = plan(3600)
    assert schedule.candidates == tuple(NAMES)
    assert (schedule.epochs, schedule.steps, schedule.examples, schedule.findings) == (20, 2000, None, ())
    assert schedule.rungs == (125, 500, 2000)
    # 9 candidates to step 125, 3 to step 500, 1 to step 2,000, each with 10% more and 2 s to build.
    assert schedule.seconds["pilots"] == pytest.approx(9 * (1.25 * 1.1 + 2) + 3 * (3.75 * 1.1 + 2), abs=0.1)
    assert schedule.seconds["training"] == pytest.approx(15 * 1.1 + 2, abs=0.1)
    assert schedule.seconds["total"] == pytest.approx(sum(list(schedule.seconds.values())[:-1]), abs=0.2)


@pytest.mark.parametrize("budget", [45, 60, 80, 120, 300])
def test_the_estimate_stays_within_the_budget(budget):
    schedule = plan(budget)
    assert schedule.seconds["total"] <= budget
    # One more epoch for the same candidates would not fit, or is not requested.
    names, wanted = schedule.candidates, schedule.epochs + 1
    longer = plan_schedule(names, COSTS, replace(LENGTH, epochs=wanted), budget=10_000).seconds["total"]
    assert schedule.epochs == 20 or longer > budget


def test_fewer_candidates_are_trained_before_fewer_examples_are_used():
    schedule = plan(45)
    assert 1 <= len(schedule.candidates) < 9
    assert schedule.examples is None
    assert schedule.epochs >= 8
    assert "the budget is too small for 9 candidates" in schedule.findings[0]


def test_one_candidate_has_no_pilots():
    schedule = plan(34)
    assert schedule.candidates == ("c0",)
    assert schedule.rungs == (schedule.steps,)
    assert schedule.seconds["pilots"] == 0


def test_fewer_examples_are_used_if_two_epochs_do_not_fit():
    slow = replace(COSTS, steps=dict.fromkeys(NAMES, 0.5))
    schedule = plan(60, costs=slow)
    assert schedule.candidates == ("c0",)
    assert 500 <= schedule.examples < 6400
    assert schedule.epochs >= 2
    assert schedule.seconds["total"] <= 60


def test_a_budget_without_one_epoch_is_refused_with_the_time_that_is_needed():
    slow = replace(COSTS, steps=dict.fromkeys(NAMES, 30.0))
    with pytest.raises(
        UsageError, match=r"1\.0 minutes are left for training, too few for one epoch of 500 examples"
    ) as caught:
        plan(60, costs=slow)
    minutes = int(caught.value.hint.removeprefix("--budget ").removesuffix("m"))
    assert plan(60 * minutes, costs=slow).epochs >= 1
    with pytest.raises(UsageError):
        plan(60 * minutes / 2, costs=slow)


def test_the_teacher_gets_as_many_views_as_a_third_of_the_budget_buys():
    slow = replace(COSTS, teacher=0.01)
    augmented = replace(LENGTH, augmented=True)
    # A view takes 64 s.
    assert plan(3600, costs=slow, length=augmented).views == 8
    assert plan(600, costs=slow, length=augmented).views == 3
    assert plan(300, costs=slow, length=augmented).views == 1
    assert plan(300, costs=COSTS, length=augmented).views == 8
    assert plan(3600, costs=slow).views == 1


def test_a_larger_student_and_repeats_are_part_of_the_estimate():
    base = plan(3600)
    in_steps = plan(3600, costs=replace(COSTS, larger={"c1": 0.01}))
    # Two more epochs of 100 steps for the larger student of one candidate.
    assert in_steps.seconds["pilots"] - base.seconds["pilots"] == pytest.approx(2 * 1.1 + 2, abs=0.2)
    repeated = plan(3600, length=replace(LENGTH, repeats=3))
    assert repeated.seconds["training"] - base.seconds["training"] == pytest.approx(2 * (20 * 1.1 + 2), abs=0.2)


def test_seconds_that_are_spent_already_count():
    assert plan_schedule(NAMES, COSTS, LENGTH, budget=160, spent=100).epochs == plan(60).epochs


def test_a_single_augmented_view_is_said():
    slow = replace(COSTS, teacher=0.01)
    schedule = plan(300, costs=slow, length=replace(LENGTH, augmented=True))
    assert any("students train without augmentation" in text for text in schedule.findings)


def test_rungs_and_survivors():
    assert [count_survivors(count) for count in (12, 9, 4, 3, 2, 1)] == [4, 3, 2, 1, 1, 1]
    assert list_rungs(1600, 12) == (100, 400, 1600)
    assert list_rungs(1600, 3) == (400, 1600)
    assert list_rungs(1600, 1) == (1600,)
    assert list_rungs(2, 12) == (1, 2)
