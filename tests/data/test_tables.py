"""CSV and Parquet tables."""

from __future__ import annotations

import shlex
import sys

import numpy as np
import pytest

from kdcli.data.tables import read_table
from kdcli.errors import DataError, ModelError
from kdcli.recipe.reader import read_recipe
from kdcli.sources import SplitSources, Table


def save(tmp_path, text, name="a.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding)
    return path


def read(path, *, label="label", weight=None, drop=()):
    return read_table(path, label=label, weight=weight, drop=drop)


def error(path, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert caught.value.exit_code == 3
    return caught.value


def refused(path, **options):
    return error(path, **options).message


def load_as_hinted(text, path):
    """Load the table with the `--set` in a text, together with `--data PATH`."""
    words = shlex.split(text)
    settings = [words[words.index("--set") + 1]]
    return read_recipe(
        {}, settings=settings, options={"data.source": ("--data", str(path))}
    ).recipe.data.source.load()


def test_numbers_and_labels_are_read(tmp_path):
    splits = read(save(tmp_path, "a,label,b\n1,0,-2.5\n 3 ,1,4e2\n"))
    train = splits.train
    np.testing.assert_array_equal(train.inputs["x"], [[1, -2.5], [3, 400]])
    assert (train.inputs["x"].dtype, train.labels.dtype) == (np.float32, np.int64)
    assert train.labels.tolist() == [0, 1]
    assert (splits.columns, splits.classes, train.weights, splits.test) == (("a", "b"), None, None, None)


def test_text_labels_become_classes_in_string_order(tmp_path):
    splits = read(save(tmp_path, 'a,kind\n1,dog\n2,"Cat, small"\n3,dog\n'), label="kind")
    assert splits.classes == ("Cat, small", "dog")
    assert splits.train.labels.tolist() == [1, 0, 1]


def test_labels_with_a_decimal_point_are_values(tmp_path):
    labels = read(save(tmp_path, "a,label\n1,0.5\n2,3\n")).train.labels
    assert (labels.dtype, labels.tolist()) == (np.float64, [0.5, 3.0])


def test_weight_column_is_used_with_a_note(tmp_path):
    path = save(tmp_path, "weight,a,w,label\n0.5,1,9,0\n2,3,8,1\n")
    splits = read(path)
    assert splits.train.weights.tolist() == [0.5, 2.0]
    assert splits.columns == ("a", "w")
    assert splits.notes == (f"{path}: column 'weight' is used as sample weights, not as an input",)
    other = read(path, weight="w")
    assert (other.train.weights.tolist(), other.columns, other.notes) == ([9.0, 8.0], ("weight", "a"), ())


def test_table_without_labels_is_read(tmp_path):
    splits = read(save(tmp_path, "a,b\n1,2\n"), label=None)
    assert (splits.train.labels, splits.train.inputs["x"].tolist()) == (None, [[1.0, 2.0]])


def test_byte_order_mark_empty_lines_and_crlf_are_accepted(tmp_path):
    splits = read(save(tmp_path, "label,a\r\n0,1\r\n\r\n1,2\r\n", encoding="utf-8-sig"))
    assert splits.train.labels.tolist() == [0, 1]


def test_many_rows_are_read_in_order(tmp_path):
    rows = "\n".join(f"{number},{number % 3}" for number in range(20000))
    train = read(save(tmp_path, f"a,label\n{rows}\n")).train
    np.testing.assert_array_equal(train.inputs["x"][:, 0], np.arange(20000))
    np.testing.assert_array_equal(train.labels, np.arange(20000) % 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must contain column names"),
        ("1,2,3\n4,5,6\n", "the first line must contain column names, got '1,2,3'"),
        ("a,label\n", "contains a header but no rows"),
        ("a,a,label\n1,2,0\n", "duplicate column name 'a'"),
        ("a;label\n1;0\n", "columns must be separated by commas"),
        ("a,lable\n1,0\n", "no column 'label'; did you mean 'lable'? columns: a, lable"),
        ("label\n1\n", "no input columns left; columns: label"),
        ("a,label\n1,0\n2\n", "line 3 has 1 cells, expected 2 as in the header"),
        ("a,label\n1,0\n\nx1,0\n", "line 4, column 'a': 'x1' is not a number"),
        ("a,b,label\n1,,0\n", "line 2, column 'b': '' is not a number"),
        ("a,label\n1,0\n2,\n", "column 'label': the cell in line 3 is empty"),
        ("a,label\n1,0\n2,1\n3,x\n", "column 'label' mixes numbers and text: 'x' in line 4"),
        ("a,label\n1,q\n2,7\n3,x\n", "column 'label' mixes numbers and text: '7' in line 3"),
        (
            "a,weight,label\n1,-1,0\n",
            "column 'weight' must contain numbers >= 0; invalid cells: 1, the first in line 2",
        ),
        ('a,label\n"1,0\n', "unexpected end of data"),
    ],
)
def test_invalid_tables_are_refused(tmp_path, text, message):
    path = save(tmp_path, text)
    found = refused(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_invalid_cell_far_down_is_located(tmp_path):
    rows = [f"{number},0" for number in range(9000)]
    rows[8500] = "nope,0"
    path = save(tmp_path, "a,label\n" + "\n".join(rows))
    assert refused(path) == f"{path}: line 8502, column 'a': 'nope' is not a number"


def test_unknown_weight_column_is_refused(tmp_path):
    path = save(tmp_path, "a,label\n1,0\n")
    assert refused(path, weight="w") == f"{path}: no column 'w'; columns: a, label"


def test_missing_file_and_binary_file_are_refused(tmp_path):
    assert refused(tmp_path / "no.csv") == f"{tmp_path / 'no.csv'}: no such file"
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,label\n\xff,0\n")
    assert "not UTF-8 text" in refused(path)


def test_parquet_is_read_like_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"a": [1, 2, 3], "label": ["y", "x", "y"], "b": [0.5, 1.5, 2.5], "c": [True, False, True]}),
        path,
    )
    ours = read(path)
    theirs = read(save(tmp_path, "a,label,b,c\n1,y,0.5,1\n2,x,1.5,0\n3,y,2.5,1\n"))
    np.testing.assert_array_equal(ours.train.inputs["x"], theirs.train.inputs["x"])
    np.testing.assert_array_equal(ours.train.labels, theirs.train.labels)
    assert (ours.classes, ours.columns) == (theirs.classes, theirs.columns) == (("x", "y"), ("a", "b", "c"))


def test_invalid_parquet_files_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": [1, None], "label": [0, 1]}), path)
    assert refused(path) == f"{path}: row 1, column 'a': the cell is empty"
    parquet.write_table(pyarrow.table({"a": ["u", "v"], "label": [0, 1]}), path)
    assert refused(path) == f"{path}: column 'a' contains string, expected numbers"
    path.write_bytes(b"PAR1 no")
    assert refused(path).startswith(f"{path}: not a readable Parquet file: ")


def test_parquet_without_pyarrow_names_the_package(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModelError, match="reading Parquet needs the package pyarrow") as caught:
        read(path)
    assert caught.value.exit_code == 4
    assert caught.value.hint == "pip install pyarrow"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", [7, 3, 9, 12]),
        ("Unnamed: 0", [4, 2, 1, 0]),
        ("", [0, 1, 2, 3]),
        ("PassengerId", [5, 6, 8, 9]),
        ("customer id", [10, 30, 20, 11]),
        ("any name", range(10)),
        ("step", range(1, 12)),
    ],
)
def test_index_column_gets_a_note_with_a_working_setting(tmp_path, name, values):
    rows = "\n".join(f"{value},{row * row % 7 / 4},{row % 2}" for row, value in enumerate(values))
    path = save(tmp_path, f"{name},a,label\n{rows}\n")
    splits = read(path)
    (note,) = splits.notes
    assert note.startswith(f"{path}: column {name!r} looks like a row number but is used as an input; ")
    assert splits.columns == (name, "a")
    without = load_as_hinted(note, path)
    assert (without.columns, without.notes) == (("a",), ())
    np.testing.assert_array_equal(without.train.inputs["x"], splits.train.inputs["x"][:, 1:])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("id", [1, 1, 2, 2]),
        ("id", [0.5, 1, 2, 3]),
        ("a", [0, 1, 2, 3]),
        ("paid", [4, 7, 1, 2]),
        ("b", range(5, 20)),
    ],
)
def test_column_that_resembles_an_index_gets_no_note(tmp_path, name, values):
    rows = "\n".join(f"{value},{row % 2}" for row, value in enumerate(values))
    assert read(save(tmp_path, f"{name},label\n{rows}\n")).notes == ()


def test_dropped_columns_may_contain_text(tmp_path):
    path = save(tmp_path, "name,a,when,label\nx,1,may,0\ny,2,june,1\n")
    found = error(path)
    assert found.message == f"{path}: line 2, column 'name': 'x' is not a number"
    assert found.hint == "--set data.source.drop=name drops the column"
    splits = read(path, drop=("name", "when"))
    assert (splits.columns, splits.train.inputs["x"].tolist()) == (("a",), [[1.0], [2.0]])
    assert "no column 'b'; columns: name" in refused(path, drop=("name", "b"))


@pytest.mark.parametrize("name", ["price", "sale price", "1", "true", "a: b", "it's"])
def test_hint_for_another_label_column_works(tmp_path, name):
    path = save(tmp_path, f"sqft,{name}\n500,1\n600,0\n")
    splits = load_as_hinted(error(path).hint, path)
    assert (splits.train.labels.tolist(), splits.columns) == ([1, 0], ("sqft",))


def test_hint_for_the_source_of_a_split_names_the_split(tmp_path):
    good, bad = save(tmp_path, "a,label\n1,0\n2,1\n"), save(tmp_path, "a,kind\n1,0\n", "b.csv")
    with pytest.raises(DataError) as caught:
        SplitSources(train=Table(path=str(good)), test=Table(path=str(bad))).load()
    assert caught.value.hint.startswith("--set data.source.test.label=kind ")


@pytest.mark.parametrize("text", ["a,b,label\n1,2,0\n3,", 'a,label\n"1,0\n'])
def test_truncated_table_is_refused_with_a_hint(tmp_path, text):
    assert error(save(tmp_path, text)).hint.startswith("copy the file again")


def test_git_lfs_pointer_is_refused(tmp_path):
    path = save(tmp_path, "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    assert refused(path) == f"{path}: a Git LFS pointer, the file itself was not fetched"
