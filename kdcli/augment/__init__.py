"""Augmentations: pure functions of (seed, view, example), one file each."""

from __future__ import annotations

from kdcli.augment.shift import Shift

AnyAugment = Shift

__all__ = ["AnyAugment", "Shift"]
