"""What a loss kind needs and refuses, and how it is paired, as text from its class variables."""

from __future__ import annotations

from kdcli.loss import FEATURE_NAMES, FeatureLoss, Loss


def list_needs(member: type[Loss]) -> tuple[str, ...]:
    """List what a kind needs (labels, teacher, features, ...), each in one or two words."""
    inner = issubclass(member, FeatureLoss)
    conditions = {
        "labels": member.needs_labels,
        "teacher": member.needs_teacher,
        "features": inner,
        "projection": getattr(member, "projects", False),
        "own weights": member.build is not Loss.build,
        **dict.fromkeys(member.keeps, True),
        "normalization": getattr(member, "needs_normalization", False),
        "whole batch": member.whole_batch,
        "one device": member.one_device,
    }
    return tuple(name for name, holds in conditions.items() if holds)


def list_refusals(member: type[Loss]) -> tuple[str, ...]:
    """List the conditions under which a run with this loss is refused before training."""
    sentences = []
    if member.needs_labels:
        sentences.append("data without labels")
    if member.one_class:
        sentences.append("mixed labels, and labels of several classes at once")
    if member.least_classes > 1:
        sentences.append(f"fewer than {member.least_classes} classes")
    missing = [kind for kind in ("logits", "sigmoid", "values") if kind not in member.output_kinds]
    if missing and not issubclass(member, FeatureLoss):
        sentences.append(f"output kind{'s' * (len(missing) > 1)} {' and '.join(missing)}")
    if member.least_batch > 1:
        sentences.append(f"batches of fewer than {member.least_batch} examples")
    if not issubclass(member, FeatureLoss) and not member.leading_axes:
        sentences.append("outputs with axes between the batch and the classes")
    if issubclass(member, FeatureLoss):
        sentences.extend(_list_shape_refusals(member))
    if member.one_device:
        sentences.append("several devices")
    return tuple(sentences)


def _list_shape_refusals(member: type[FeatureLoss]) -> list[str]:
    sentences = []
    other = [name for axes, name in FEATURE_NAMES.items() if axes not in member.axes]
    if other:
        sentences.append(f"features that are {_join_words(other)}")
    if member.equal and not member.projects:
        sentences.append(f"features that differ in {' or '.join(member.equal)}")
    if member.least_pairs > 1:
        sentences.append(f"fewer than {member.least_pairs} pairs of layers")
    if member.needs_normalization:
        sentences.append("teacher layers without batch normalisation")
    return sentences


def _join_words(words: list[str]) -> str:
    """Join words as `a, b or c`."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def describe_pairing(member: type[Loss]) -> str:
    """Describe how layers are chosen when a recipe names none; empty for a loss on outputs."""
    if not issubclass(member, FeatureLoss):
        return ""
    kinds = (
        "attention scores"
        if member.attention_scores
        else _join_words([FEATURE_NAMES[axes] for axes in member.axes])
    )
    kinds += " from before an activation" if member.before_activation else ""
    if member.pairing == "last":
        chosen = f"the last of both networks before pooling ({kinds})"
    else:
        least = f", at least {member.least_pairs} pairs" if member.least_pairs > 1 else ""
        chosen = f"several, by depth and size ({kinds}){least}"
    if member.all_with_all:
        chosen += "; every student layer is compared with every teacher layer"
    if member.family:
        chosen += "; warns when the architectures differ"
    return chosen
