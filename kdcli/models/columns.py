"""Which of a teacher's outputs belong to the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdcli.errors import UsageError, did_you_mean

SETTING = "teacher.classes"


def columns_for(
    classes: str | Sequence[str] | Sequence[int], *, outputs: int, class_names: Sequence[str]
) -> tuple[int, ...]:
    """The teacher's column for each class of the data, in the data's order.

    Args:
        classes: column numbers, one for each class of the data; or the names of all the teacher's outputs: a
            list, or a text file with one a line.
        outputs: how many the teacher has.
        class_names: of the data.

    Raises:
        UsageError: numbers that the teacher has not, names for another number of outputs, or a class without one.
    """
    if isinstance(classes, str):
        classes = _lines_of(Path(classes))
    if not all(isinstance(one, str) for one in classes):
        return _checked_numbers([int(one) for one in classes], outputs, len(class_names))
    names = [str(one) for one in classes]
    if len(names) != outputs:
        raise UsageError(
            f"{SETTING} names {len(names)} classes, the teacher has {outputs} outputs",
            hint=f"--set '{SETTING}=[3, 5]' gives a column number for each class of the data instead",
        )
    missing = [name for name in class_names if name not in names]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UsageError(
            f"{SETTING} has no class {missing[0]!r}{more}; {did_you_mean(missing[0], names)}".rstrip("; "),
            hint=f"--set '{SETTING}=[3, 5]' gives a column number for each class of the data instead",
        )
    twice = [name for name in class_names if names.count(name) > 1]
    if twice:
        raise UsageError(f"{SETTING} has {twice[0]!r} more than once", hint="give column numbers instead")
    return tuple(names.index(name) for name in class_names)


def _checked_numbers(numbers: list[int], outputs: int, wanted: int) -> tuple[int, ...]:
    if len(numbers) != wanted:
        raise UsageError(f"{SETTING} has {len(numbers)} column numbers, the data has {wanted} classes")
    outside = [number for number in numbers if not 0 <= number < outputs]
    if outside:
        raise UsageError(f"{SETTING}: column {outside[0]} does not exist, the teacher has {outputs} outputs")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{SETTING}: two classes of the data have the same column")
    return tuple(numbers)


def _lines_of(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"{SETTING}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{SETTING}: {path} is not UTF-8 text") from None
