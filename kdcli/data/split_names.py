"""What people call the splits, in the names of folders, files and arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLIT_NAMES = ("train", "validation", "test")
# Examples without classes, which some data sets carry beside the splits.
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
_NO_LABELS = dict.fromkeys(("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"), UNLABELLED)
# Words that say nothing: `training_set`, `seg_train`, `validation-data`, `TestImages`.
_FILLERS = "datasets?|data|sets?|images?|imgs?|pictures?|photos?|files?|folders?|splits?|seg"
_WORD = re.compile(rf"(?:{_FILLERS})*({'|'.join([*SPLIT_WORDS, *_NO_LABELS])})?(?:{_FILLERS})*")


def parse_split_name(name: str) -> tuple[str | None, str]:
    """The split that a name tells, None for none or several, and what else the name says."""
    found, rest = [], []
    for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])", name):
        match = _WORD.fullmatch(word.lower())
        if match and match[1]:
            found.append({**SPLIT_WORDS, **_NO_LABELS}[match[1]])
        elif not match:
            rest.append(word.lower())
    return (found[0] if len(found) == 1 else None), " ".join(rest)


def find_splits(names: Iterable[str]) -> dict[str, str]:
    """The names that tell a split and nothing else; or else those with a common rest, `train` among them."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        split, rest = parse_split_name(name)
        if split:
            groups.setdefault(rest, {})[name] = split
    alone = groups.pop("", {})
    pairs = (group for group in groups.values() if "train" in group.values() and len(set(group.values())) > 1)
    return alone or next(pairs, {})


def find_file_split(stem: str) -> str | None:
    """The split that the name of a file tells: by its first letters, or by a word in it."""
    first = next((split for word, split in SPLIT_WORDS.items() if stem.lower().startswith(word)), None)
    told, _ = parse_split_name(stem)
    return first or (told if told in SPLIT_NAMES else None)
