"""Entries of `--data` and `data.source`: texts, mappings, a source for each split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from kdcli.errors import UsageError
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.sources import AnySource, Images, SplitSources, Table, TfRecord, parse_source

ANY = TypeAdapter(AnySource)
KINDS = {"digits", "keras", "arrays", "images", "tfrecord", "table", "splits"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "train.tfrecord").touch()
    (tmp_path / "odd.csv").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("digits", {"kind": "digits"}),
        ("cifar10", {"kind": "keras", "name": "cifar10"}),
        ("a/b.npz", {"kind": "arrays", "path": "a/b.npz"}),
        ("a/B.CSV", {"kind": "table", "path": "a/B.CSV"}),
        ("b.parquet", {"kind": "table", "path": "b.parquet"}),
        ("a/train-*.tfrecord", {"kind": "tfrecord", "path": "a/train-*.tfrecord"}),
        ("images", {"kind": "images", "path": "images"}),
        ("images/", {"kind": "images", "path": "images/"}),
        ("records", {"kind": "tfrecord", "path": "records"}),
        ("odd.csv", {"kind": "images", "path": "odd.csv"}),
    ],
)
def test_text_is_parsed_into_an_entry(folder, text, entry):
    assert parse_source(text) == entry
    assert ANY.validate_python(text).kind == entry["kind"]


@pytest.mark.parametrize("text", ["mnits", "no/such/folder", "x" * 5000, "a\0b", ""])
def test_unknown_text_is_refused_with_a_list_of_known_data(folder, text):
    with pytest.raises(
        ValueError, match=r"unknown data set .*expected digits, mnist, .* folder of images"
    ) as caught:
        parse_source(text)
    assert str(caught.value).endswith("or a path that ends in .npz, .tfrecord, .csv, .parquet")


def test_misspelt_name_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        parse_source("mnits")


def test_mapping_with_train_defines_a_source_for_each_split(folder):
    given = {"train": "images", "validation": {"kind": "images", "path": "p", "size": [4, 5]}, "test": "a.csv"}
    source = ANY.validate_python(given)
    assert isinstance(source, SplitSources)
    assert source.train == Images(path="images")
    assert source.validation == Images(path="p", size=(4, 5))
    assert source.test == Table(path="a.csv")
    assert source.paths == ("images", "p", "a.csv")
    again = ANY.validate_python(json.loads(ANY.dump_json(source, exclude_none=True)))
    assert again == source
    hash(source)


def test_splits_cannot_be_nested():
    with pytest.raises(ValidationError):
        ANY.validate_python({"train": {"train": "digits"}})


def test_schema_contains_every_kind():
    text = json.dumps(Recipe.model_json_schema(by_alias=True))
    for kind in KINDS:
        assert f'"const": "{kind}"' in text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{kind: image, path: d}", "unknown kind 'image' (did you mean 'images'?)"),
        ("{kind: tfrecords, path: d}", "did you mean 'tfrecord'?"),
        ("{kind: tabel, path: d}", "did you mean 'table'?"),
        ("{kind: images, path: d, siz: [1, 2]}", "did you mean 'size'?"),
        ("{kind: tfrecord, path: d, imagekey: x}", "did you mean 'image_key'?"),
        ("{kind: table, path: d, lable: x}", "did you mean 'label'?"),
        ("{train: digits, tset: digits}", "did you mean 'test'?"),
        ("{kind: images, path: d, channels: 2}", "must be auto | 1 | 3, got 2"),
        ("{kind: images, path: d, size: [0, 2]}", "must be >= 1, got 0"),
        ("{kind: images}", "is missing"),
        ("{train: mnits}", "did you mean 'mnist'"),
    ],
)
def test_wrong_settings_get_a_suggestion(setting, message):
    with pytest.raises(UsageError) as caught:
        read_recipe("soft-targets", settings=[f"data.source={setting}"])
    assert message in caught.value.message


def test_wrong_setting_in_the_source_of_a_split_is_located(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data:\n  source:\n    train: digits\n    test: {kind: images, path: d, siz: 3}\n")
    with pytest.raises(UsageError) as caught:
        read_recipe(str(recipe))
    assert "r.yaml:4:35" in caught.value.message
    assert "data.source.test.siz" in caught.value.message
    assert "did you mean 'size'" in caught.value.message


def test_paths_list_all_files_that_are_read(folder):
    assert ANY.validate_python("digits").paths == ()
    assert ANY.validate_python("a.npz").paths == ("a.npz",)
    assert TfRecord(path="records/*.tfrecord").paths == ("records/*.tfrecord", str(Path("records/train.tfrecord")))
    assert TfRecord(path="records").paths == ("records", str(Path("records/train.tfrecord")))


FILES = {
    "a.csv": {"label": "price", "weight": "w"},
    "a.npz": {"path": "b.npz"},
    "images": {"size": [4, 5], "channels": 1},
    "records": {"image_key": "i", "label_key": "l", "size": [4, 5], "channels": 3},
    "cifar10": {"name": "cifar100"},
}


@pytest.mark.parametrize("data", FILES)
@pytest.mark.parametrize("origin", ["option", "recipe"])
def test_source_settings_apply_to_data_from_option_or_recipe(folder, data, origin):
    settings = [f"data.source.{key}={json.dumps(value)}" for key, value in FILES[data].items()]
    how = {"options": {"data.source": ("--data", data)}} if origin == "option" else {}
    read = read_recipe({"data": {"source": "digits" if how else data}}, settings=settings, **how)
    assert read.recipe.data.source == ANY.validate_python({**parse_source(data), **FILES[data]})
    key = next(iter(FILES[data]))
    assert read.origins.of(("data", "source", key)) == f"--set data.source.{key}"


def test_source_settings_apply_to_the_source_of_a_split():
    settings = ["data.source={train: a.csv, test: b.csv}", "data.source.train.label=x", "data.source.test.label=y"]
    source = read_recipe({}, settings=settings).recipe.data.source
    assert source == SplitSources(train=Table(path="a.csv", label="x"), test=Table(path="b.csv", label="y"))


@pytest.mark.parametrize(
    ("data", "setting", "message"),
    [
        ("digits", "label=price", "--set data.source.label: unknown key (known: kind)"),
        ("a.npz", "label=price", "--set data.source.label: unknown key (known: kind, path)"),
        ("a.csv", "size=3", "--set data.source.size: unknown key (known: kind, path, label, weight"),
        ("mnits", "label=price", "--data data.source: unknown data set 'mnits'; did you mean 'mnist'?"),
    ],
)
def test_unknown_setting_of_a_kind_is_refused_with_the_known_ones(data, setting, message):
    with pytest.raises(UsageError) as caught:
        read_recipe({}, settings=[f"data.source.{setting}"], options={"data.source": ("--data", data)})
    assert message in caught.value.message


def test_option_replaces_the_whole_source():
    read = read_recipe({}, settings=["data.source=mnist"], options={"data.source": ("--data", "digits")})
    assert read.recipe.data.source.kind == "digits"
    assert read.origins.of(("data", "source")) == "--data"
