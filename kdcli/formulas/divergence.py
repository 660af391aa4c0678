"""Divergence and cross-entropy between the softmax distributions of student and teacher."""

from __future__ import annotations

from kdcli.lazy import ops
from kdcli.tensors import Tensor


def divergence(student: Tensor, teacher: Tensor, *, axis: int = -1) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)): Σ q · log(q / p) over an axis; never below 0.

    Args:
        student, teacher: logits of equal shape, already divided by the temperature.
        axis: axis of the distribution, which the result does not have.
    """
    log_student, log_teacher = (ops.log_softmax(logits, axis=axis) for logits in (student, teacher))
    chances, apart = ops.exp(log_teacher), log_teacher - log_student
    # Σ (p − q) is 0. Added to each term, it removes what cancels between the terms, which is most of a small
    # divergence. Where p and q are close, the term is q · expm1(−apart), without a difference of similar numbers.
    near = ops.abs(apart) < 1.0
    little = ops.where(near, apart, ops.zeros_like(apart))
    close = chances * (little + ops.expm1(-little))
    return ops.sum(ops.where(near, close, chances * apart + (ops.exp(log_student) - chances)), axis=axis)


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """−Σ q · log p over the last axis, with p and q the softmax of the student's and the teacher's logits."""
    return -ops.sum(ops.softmax(teacher, axis=-1) * ops.log_softmax(student, axis=-1), axis=-1)
