"""What `--data` and `data.source` accept: texts, mappings, a source for each split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from kdcli.errors import UsageError
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe
from kdcli.sources import AnySource, Images, SplitSources, Table, TfRecord, named

ANY = TypeAdapter(AnySource)
KINDS = {"digits", "keras", "arrays", "images", "tfrecord", "table", "splits"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
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
        ("pictures", {"kind": "images", "path": "pictures"}),
        ("pictures/", {"kind": "images", "path": "pictures/"}),
        ("records", {"kind": "tfrecord", "path": "records"}),
        ("odd.csv", {"kind": "images", "path": "odd.csv"}),
    ],
)
def test_a_text_stands_for_an_entry(folder, text, entry):
    assert named(text) == entry
    assert ANY.validate_python(text).kind == entry["kind"]


@pytest.mark.parametrize("text", ["mnits", "no/such/folder", "x" * 5000, "a\0b", ""])
def test_an_unknown_text_is_refused_with_the_known_ones(folder, text):
    with pytest.raises(
        ValueError, match=r"is no data: .*expected digits, mnist, .* a folder of pictures"
    ) as caught:
        named(text)
    assert str(caught.value).endswith("or a path that ends in .npz, .tfrecord, .csv, .parquet")


def test_a_misspelt_name_has_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        named("mnits")


def test_a_mapping_with_train_is_a_source_for_each_split(folder):
    given = {"train": "pictures", "validation": {"kind": "images", "path": "p", "size": [4, 5]}, "test": "a.csv"}
    source = ANY.validate_python(given)
    assert isinstance(source, SplitSources)
    assert source.train == Images(path="pictures")
    assert source.validation == Images(path="p", size=(4, 5))
    assert source.test == Table(path="a.csv")
    assert source.paths == ("pictures", "p", "a.csv")
    again = ANY.validate_python(json.loads(ANY.dump_json(source, exclude_none=True)))
    assert again == source
    hash(source)


def test_a_split_is_not_split_again():
    with pytest.raises(ValidationError):
        ANY.validate_python({"train": {"train": "digits"}})


def test_every_kind_is_in_the_schema():
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
def test_faults_have_suggestions(setting, message):
    with pytest.raises(UsageError) as caught:
        read_recipe("soft-targets", settings=[f"data.source={setting}"])
    assert message in caught.value.message


def test_a_fault_in_a_source_of_a_split_has_its_place(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data:\n  source:\n    train: digits\n    test: {kind: images, path: d, siz: 3}\n")
    with pytest.raises(UsageError) as caught:
        read_recipe(str(recipe))
    assert "r.yaml:4:35" in caught.value.message
    assert "data.source.test.siz" in caught.value.message
    assert "did you mean 'size'" in caught.value.message


def test_paths_are_what_is_read(folder):
    assert ANY.validate_python("digits").paths == ()
    assert ANY.validate_python("a.npz").paths == ("a.npz",)
    assert TfRecord(path="records/*.tfrecord").paths == ("records/*.tfrecord", str(Path("records/train.tfrecord")))
    assert TfRecord(path="records").paths == ("records", str(Path("records/train.tfrecord")))


FILES = {
    "a.csv": {"label": "price", "weight": "w"},
    "a.npz": {"path": "b.npz"},
    "pictures": {"size": [4, 5], "channels": 1},
    "records": {"image_key": "i", "label_key": "l", "size": [4, 5], "channels": 3},
    "cifar10": {"name": "cifar100"},
}


@pytest.mark.parametrize("data", FILES)
@pytest.mark.parametrize("named_by", ["option", "recipe"])
def test_settings_of_a_source_go_with_the_data_that_is_named(folder, data, named_by):
    settings = [f"data.source.{key}={json.dumps(value)}" for key, value in FILES[data].items()]
    how = {"options": {"data.source": ("--data", data)}} if named_by == "option" else {}
    read = read_recipe({"data": {"source": "digits" if how else data}}, settings=settings, **how)
    assert read.recipe.data.source == ANY.validate_python({**named(data), **FILES[data]})
    key = next(iter(FILES[data]))
    assert read.origins.of(("data", "source", key)) == f"--set data.source.{key}"


def test_settings_of_a_source_of_a_split_go_with_its_text():
    settings = ["data.source={train: a.csv, test: b.csv}", "data.source.train.label=x", "data.source.test.label=y"]
    source = read_recipe({}, settings=settings).recipe.data.source
    assert source == SplitSources(train=Table(path="a.csv", label="x"), test=Table(path="b.csv", label="y"))


@pytest.mark.parametrize(
    ("data", "setting", "message"),
    [
        ("digits", "label=price", "--set data.source.label: unknown key (known: kind)"),
        ("a.npz", "label=price", "--set data.source.label: unknown key (known: kind, path)"),
        ("a.csv", "size=3", "--set data.source.size: unknown key (known: kind, path, label, weight"),
        ("mnits", "label=price", "--data data.source: 'mnits' is no data: did you mean 'mnist'?"),
    ],
)
def test_a_setting_that_the_kind_has_not_is_refused_with_those_it_has(data, setting, message):
    with pytest.raises(UsageError) as caught:
        read_recipe({}, settings=[f"data.source.{setting}"], options={"data.source": ("--data", data)})
    assert message in caught.value.message


def test_an_option_still_replaces_a_whole_source():
    read = read_recipe({}, settings=["data.source=mnist"], options={"data.source": ("--data", "digits")})
    assert read.recipe.data.source.kind == "digits"
    assert read.origins.of(("data", "source")) == "--data"
