"""Class names in a text file."""

from __future__ import annotations

import pytest

from kdcli.errors import DataError, UsageError
from kdcli.runs.class_names import read_class_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        # Teachable Machine and TF-Slim.
        ("0 Class 1\n1 Class 2\n", ("Class 1", "Class 2")),
        ("0:cat\n1:dog", ("cat", "dog")),
        ("1 dog\n0 cat\n", ("cat", "dog")),
        # These numbers are not labels.
        ("1 cent\n2 cent\n", ("1 cent", "2 cent")),
        ("0\n1\n2\n", ("0", "1", "2")),
        ("0 cat\ndog\n", ("0 cat", "dog")),
        ("crane\ncrane\n", ("crane", "crane")),
    ],
)
def test_class_names_are_read_with_and_without_numbers(tmp_path, text, names):
    path = tmp_path / "labels.txt"
    path.write_text(text, "utf-8")
    assert read_class_names(path, DataError) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"0:cat\n2:dog\n", "the numbers must be 0 to 1, each exactly once"),
        (b"0:cat\n0:dog\n", "the numbers must be 0 to 1, each exactly once"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_an_invalid_class_file_is_refused_with_the_setting(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_class_names(path, UsageError, setting="teacher.classes")
    assert caught.value.message.startswith(f"teacher.classes: {path}")
