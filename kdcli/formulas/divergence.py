"""How far the student's distribution is from the teacher's: divergence and cross-entropy of softmaxes."""

from __future__ import annotations

from typing import Any

from kdcli.lazy import ops


def divergence(student: Any, teacher: Any, *, axis: int = -1) -> Any:
    """KL(softmax(teacher) ‖ softmax(student)): Σ q · log(q / p) over an axis; never below 0.

    Args:
        student, teacher: logits of one shape, divided by their temperature.
        axis: of the distribution, which the result has no more.
    """
    log_student, log_teacher = (ops.log_softmax(logits, axis=axis) for logits in (student, teacher))
    chances, apart = ops.exp(log_teacher), log_teacher - log_student
    # Σ (p − q) is 0. Added to each term it takes out what cancels between the terms, which is most of a small
    # divergence; where p and q are close it is q · expm1(−apart), without a difference of two like numbers.
    near = ops.abs(apart) < 1.0
    little = ops.where(near, apart, ops.zeros_like(apart))
    close = chances * (little + ops.expm1(-little))
    return ops.sum(ops.where(near, close, chances * apart + (ops.exp(log_student) - chances)), axis=axis)


def cross_entropy(student: Any, teacher: Any) -> Any:
    """−Σ q · log p over the last axis, p and q the softmax of the student's and the teacher's logits."""
    return -ops.sum(ops.softmax(teacher, axis=-1) * ops.log_softmax(student, axis=-1), axis=-1)
