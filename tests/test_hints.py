"""The assertion about hints sees what cannot be typed."""

from __future__ import annotations

import pytest
from hints import typed

from kdcli.cli.options import FOREIGN

DISTILL = ("distill", "--teacher", "t.keras")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (None, ()),
        ("kd inspect lists them", ()),
        ("kd recipes ls, or a path that contains / or ends in .yaml", ()),
        ("kd predict MODEL --data D --split train --out FILE.npz covers all of them", ()),
        ("kd reads .csv, .parquet; the teacher's file says which", ()),
        ("no layers are equal where kd looks: name them", ()),
        ("remove --threads", ("evaluate", "m.keras")),
        ("--set 'data.source={train: A.npz, test: B.npz}'", DISTILL),
        ("--set losses.hint.weight=2", ("distill", "--set", "losses=[{kind: hint}]", "--set", "train.epohs=2")),
        ("--set losses.mine.weight=2, and another --out", ()),
        ("--batch-size N", DISTILL),
        ("pip install 'tensorflow[and-cuda]' onnx", ()),
    ],
)
def test_a_hint_that_works_passes(hint, words):
    typed(hint, words)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        ("kd distil --teacher FILE", ()),
        ("kd recipes list", ()),
        ("kd predict MODEL --split train --out FILE.npz --no-such", ()),
        ("kd evaluate --latency", ()),
        ("kd export MODEL --fromat litert", ()),
        ("--split train", DISTILL),
        ("--batch-size many", DISTILL),
        ("--set train.epoch=3", DISTILL),
        ("--set train.epochs=many, or less data", ()),
        ("--set losses.soft_targets.temperatur=4", ()),
        ("--set losses.hint.wieght=2", ("distill", "--set", "losses=[{kind: hint}]")),
        ("--limit many", DISTILL),
        ("pip install", ()),
    ],
)
def test_a_hint_that_does_not_work_fails(hint, words):
    with pytest.raises(AssertionError):
        typed(hint, words)


@pytest.mark.parametrize("word", FOREIGN)
def test_every_word_from_elsewhere_leads_to_one_that_can_be_typed(word):
    typed(FOREIGN[word], DISTILL)
