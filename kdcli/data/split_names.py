"""Common names of splits, recognized in the names of folders, files and arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLIT_NAMES = ("train", "validation", "test")
# Examples without classes, which some data sets contain in addition to the splits.
UNLABELLED = "unlabelled"
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
}
_UNLABELLED_WORDS = dict.fromkeys(
    ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"), UNLABELLED
)
# Words without meaning: `training_set`, `seg_train`, `validation-data`, `TestImages`.
_FILLERS = "datasets?|data|sets?|images?|imgs?|pictures?|photos?|files?|folders?|splits?|seg"
_WORD = re.compile(rf"(?:{_FILLERS})*({'|'.join([*SPLIT_WORDS, *_UNLABELLED_WORDS])})?(?:{_FILLERS})*")


def _parse_name(name: str) -> tuple[str | None, str]:
    """Parse a name into its split (None for no split or several) and the remaining words."""
    found, rest = [], []
    for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])", name):
        match = _WORD.fullmatch(word.lower())
        if match and match[1]:
            found.append({**SPLIT_WORDS, **_UNLABELLED_WORDS}[match[1]])
        elif not match:
            rest.append(word.lower())
    return (found[0] if len(found) == 1 else None), " ".join(rest)


def find_splits(names: Iterable[str]) -> dict[str, str]:
    """Find names that are splits: those without other words, else those that share the other words.

    Names with other words count only if `train` is among them.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        split, rest = _parse_name(name)
        if split:
            groups.setdefault(rest, {})[name] = split
    plain = groups.pop("", {})
    related = (group for group in groups.values() if "train" in group.values() and len(set(group.values())) > 1)
    return plain or next(related, {})


def find_file_split(stem: str) -> str | None:
    """Find the split in a file name: by its first letters, or by a word in it."""
    prefix = next((split for word, split in SPLIT_WORDS.items() if stem.lower().startswith(word)), None)
    split, _ = _parse_name(stem)
    return prefix or (split if split in SPLIT_NAMES else None)
