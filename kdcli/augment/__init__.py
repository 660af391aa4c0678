"""Augmentations as pure functions of (seed, view, example): one file for each kind."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SerializeAsAny

from kdcli.augment.brightness import Brightness
from kdcli.augment.contrast import Contrast
from kdcli.augment.crop import Crop
from kdcli.augment.cutmix import Cutmix
from kdcli.augment.cutout import Cutout
from kdcli.augment.flip import Flip
from kdcli.augment.mixing import Mixing
from kdcli.augment.mixup import Mixup
from kdcli.augment.rotate import Rotate
from kdcli.augment.shift import Shift
from kdcli.custom_kinds import OrCustom
from kdcli.spec import Augment

AnyAugment = Annotated[
    Flip | Shift | Crop | Rotate | Brightness | Contrast | Cutout | Mixup | Cutmix,
    Field(discriminator="kind"),
    OrCustom(Augment),
    SerializeAsAny(),
]

__all__ = [
    "AnyAugment",
    "Brightness",
    "Contrast",
    "Crop",
    "Cutmix",
    "Cutout",
    "Flip",
    "Mixing",
    "Mixup",
    "Rotate",
    "Shift",
]
