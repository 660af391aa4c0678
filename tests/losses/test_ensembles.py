"""Losses with an ensemble: against the published mean of logits and the reference mean of probabilities."""

from __future__ import annotations

from published import Case, mean

from kdcli.distillation.ensemble_mixture import Ensemble, MemberOutputs
from kdcli.losses import make


def voices(case, *, mix, weights=None):
    teachers = case.several("teacher")
    ensemble = Ensemble(tuple(weights or [1.0] * len(teachers)), (1.0,) * len(teachers), mix)
    return MemberOutputs(tuple(teachers), ensemble)


def test_soft_targets_of_the_mean_of_logits_agree_with_the_published_value(dtype):
    # TextBrewer does not multiply by T².
    case = Case("ensemble", 0, dtype, "ensemble")
    temperature = case.hyper("temperature")
    loss = make("soft_cross_entropy", temperature=temperature)
    teacher = voices(case, mix="logits").mix_for(loss, 0.0)
    factor = case.hyper("kd_loss_weight") / temperature**2
    case.check(lambda student: factor * mean(loss, student=student, teacher=teacher))


def test_logit_matching_of_the_mean_of_logits_agrees_with_the_published_value(dtype):
    # There both sides are divided by T first.
    case = Case("ensemble", 2, dtype, "ensemble")
    loss = make("logit_mse")
    teacher = voices(case, mix="logits").mix_for(loss, 0.0)
    factor = case.hyper("kd_loss_weight") / case.hyper("temperature") ** 2
    case.check(lambda student: factor * mean(loss, student=student, teacher=teacher))


def test_soft_targets_of_the_mean_of_probabilities_agree_with_the_reference(dtype):
    case = Case("ensemble", 4, dtype, "ensemble")
    loss = make("soft_targets", temperature=case.hyper("temperature"))
    teacher = voices(case, mix="probabilities").mix_for(loss, 0.0)
    case.check(lambda student: mean(loss, student=student, teacher=teacher))
