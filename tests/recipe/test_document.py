"""The YAML subset of recipes: scalars, faults and their positions."""

from __future__ import annotations

import math
import shlex
import time

import pytest

from kdcli.errors import RecipeError
from kdcli.recipe.document import (
    MAX_CHARACTERS,
    MAX_NESTING,
    format_set_option,
    join_path,
    parse_scalar,
    read_document,
)


def list_faults(text):
    """(setting, message, line, column) of every fault, whether collected or raised."""
    try:
        faults = read_document(text, "r.yaml").faults
    except RecipeError as error:
        faults = error.faults
    return [(fault.setting, fault.message, fault.line, fault.column) for fault in faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-12", -12),
        ("+7", 7),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    read = parse_scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "word",
    ["on", "off", "yes", "no", "y", "1_000", "0o9", "0b11", "12:30", "2026-01-01", "1e", "e3", ".", "inf", "nan"],
)
def test_special_words_of_yaml_1_1_are_plain_words(word):
    assert parse_scalar(word) == word
    assert read_document(f"a: {word}\n", "r.yaml").values == {"a": word}


def test_nan_is_a_number_that_specs_refuse():
    assert math.isnan(parse_scalar(".nan"))


def test_quoted_scalars_are_words():
    read = read_document("a: '1e-3'\nb: \"true\"\nc: '~'\nd: |\n  5\n", "r.yaml")
    assert read.values == {"a": "1e-3", "b": "true", "c": "~", "d": "5\n"}


def test_an_extremely_long_integer_is_read_as_a_word():
    assert isinstance(parse_scalar("9" * 5000), str)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_document_is_an_empty_recipe(text):
    read = read_document(text, "r.yaml")
    assert read.values == {}
    assert read.faults == []


@pytest.mark.parametrize("text", ["- 1\n", "5\n", "words\n", "[]\n", "0\n", "false\n", "''\n"])
def test_anything_but_a_mapping_is_refused(text):
    with pytest.raises(RecipeError, match=r"r\.yaml:1:1 +a recipe must be a mapping of sections, got "):
        read_document(text, "r.yaml")


def test_every_value_has_its_line_and_column():
    read = read_document("data:\n  source: digits\nlosses:\n  - kind: labels\n    weight: 2\n", "r.yaml")
    assert read.key_positions[("data", "source")] == (2, 3)
    assert read.value_positions[("data", "source")] == (2, 11)
    assert read.key_positions[("losses", 0)] == (4, 5)
    assert read.key_positions[("losses", 0, "weight")] == (5, 5)
    assert read.value_positions[("losses", 0, "weight")] == (5, 13)


def test_windows_line_endings_and_a_byte_order_mark_do_not_change_positions():
    read = read_document("\ufeffa: 1\r\nb:\r\n  c: 2\r\n", "r.yaml")
    assert read.values == {"a": 1, "b": {"c": 2}}
    assert read.key_positions[("b", "c")] == (3, 3)
    assert len(read.lines) == 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3\n", ("a", "the key 'a' appears twice", 3, 1)),
        ("t:\n  e: 1\n  e: 2\n", ("t.e", "the key 'e' appears twice", 3, 3)),
        ("a: {b: 1, b: 2}\n", ("a.b", "the key 'b' appears twice", 1, 11)),
        ("a: &x 1\n", ("a", "anchors (&) are not allowed", 1, 4)),
        ("a: &x {b: 1}\n", ("a", "anchors (&) are not allowed", 1, 4)),
        ("&x a: 1\n", ("a", "anchors (&) are not allowed", 1, 1)),
        ("a: *x\n", ("a", "aliases (*) are not allowed; write the value out", 1, 4)),
        ("a:\n  - 1\n  - *x\n", ("a.1", "aliases (*) are not allowed; write the value out", 3, 5)),
        ("<<: *x\n", ("<<", "aliases (*) are not allowed; write the value out", 1, 5)),
        ("a: !!int '3'\n", ("a", "tags (!) are not allowed", 1, 4)),
        ("a: !!python/object/apply:os.getcwd []\n", ("a", "tags (!) are not allowed", 1, 4)),
        ("a: !own {b: 1}\n", ("a", "tags (!) are not allowed", 1, 4)),
        ("!!str a: 1\n", ("a", "tags (!) are not allowed", 1, 1)),
        ("? [1, 2]\n: 3\n", ("", "a key must be a word", 1, 3)),
        ("a: 1\n---\nb: 2\n", ("", "a second YAML document; a recipe is a single document", 2, 1)),
    ],
)
def test_ambiguous_yaml_is_a_fault_with_its_position(text, fault):
    assert list_faults(text) == [fault]


def test_the_first_of_two_equal_keys_is_used_and_parsing_continues():
    read = read_document("a: 1\na: 2\nb: 3\nb: 4\n", "r.yaml")
    assert read.values == {"a": 1, "b": 3}
    assert [fault.line for fault in read.faults] == [2, 4]


def test_a_second_document_does_not_replace_the_first():
    assert read_document("a: 1\n---\nb: 2\n", "r.yaml").values == {"a": 1}


def test_nested_aliases_are_never_expanded():
    lines = ["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    read = read_document("\n".join(lines), "r.yaml")
    assert read.values["a59"] == [None, None]
    assert len(read.faults) == 60 + 2 * 59


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1, 2\n", (2, 1), "expected ',' or ']'"),
        ("a: 1\n b: 2\n", (2, 3), "mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", (2, 1), "cannot start any token"),
        ("a: 'open\n", (2, 1), "unexpected end of stream"),
        ("a: 1\n...\nb: 2\n", (3, 1), "expected '<document start>'"),
        ("a: @b\n", (1, 4), "cannot start any token"),
        ("%YAML 3.0\n---\na: 1\n", (1, 1), "incompatible YAML document"),
    ],
)
def test_invalid_yaml_reports_its_position(text, place, words):
    with pytest.raises(RecipeError) as caught:
        read_document(text, "r.yaml")
    (fault,) = caught.value.faults
    assert (fault.line, fault.column) == place
    assert fault.message.startswith("not YAML: ")
    assert words in fault.message
    assert caught.value.location == f"r.yaml:{place[0]}:{place[1]}"
    assert caught.value.exit_code == 2


def test_characters_that_yaml_forbids_are_refused():
    with pytest.raises(RecipeError, match="not YAML: unacceptable character #x0000"):
        read_document("a: \x00\n", "r.yaml")


def test_nesting_past_the_limit_is_a_fault():
    fine = MAX_NESTING - 1
    assert list_faults("a: " + "[" * fine + "]" * fine) == []
    ((setting, message, line, column),) = list_faults("a: " + "[" * MAX_NESTING + "]" * MAX_NESTING)
    assert message == f"nested more than {MAX_NESTING} levels deep"
    assert (line, column) == (1, 4 + fine)
    assert setting.startswith("a.0.0")


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "{? ", "[{a: ", "{a: "])
def test_extreme_nesting_is_a_fault(opening):
    messages = [message for _, message, _, _ in list_faults(opening * 3_000)]
    assert f"nested more than {MAX_NESTING} levels deep" in messages


def test_parsing_stops_where_the_nesting_is_too_deep():
    # Continuing would take the YAML scanner minutes: its time grows with the square of the depth.
    start = time.process_time()
    ((_, message, line, column), *_) = list_faults("[" * 100_000)
    assert (message, line, column) == (f"nested more than {MAX_NESTING} levels deep", 1, MAX_NESTING + 1)
    assert time.process_time() - start < 10


def test_a_recipe_has_a_maximum_size():
    with pytest.raises(
        RecipeError, match=f"has {MAX_CHARACTERS + 1:,} characters; at most {MAX_CHARACTERS:,} are allowed"
    ):
        read_document("#" * (MAX_CHARACTERS + 1), "r.yaml")
    assert read_document("#" * MAX_CHARACTERS, "r.yaml").values == {}


def test_a_fault_contains_its_line():
    (fault,) = read_document("x: 1\n  # comment\nx: 2  # again\n", "r.yaml").faults
    assert fault.excerpt == "x: 2  # again"


def test_paths_are_written_with_dots():
    assert join_path(("losses", 1, "weight")) == "losses.1.weight"


@pytest.mark.parametrize(
    "value",
    [
        "price",
        "sale price",
        "D/x y/Küche",
        "",
        "1",
        "1e3",
        "true",
        "null",
        "a: b",
        "a, b",
        "it's",
        '"q"',
        "#a",
        "-",
        " a ",
        "a ",
        12,
        [224, 224],
        ["a", "1"],
        {"train": "D/x", "test": "2020"},
    ],
)
def test_a_formatted_setting_is_read_back_unchanged(value):
    option, setting = shlex.split(format_set_option("data.value", value))
    path, _, text = setting.partition("=")
    assert (option, path) == ("--set", "data.value")
    assert read_document(f"value: {text}\n", "--set").values["value"] == value
