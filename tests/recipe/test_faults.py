"""Faults of a recipe: position, message and suggestion, all at once; no other error escapes."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.errors import KdError, RecipeError, UsageError
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.sections import Recipe


def refused_text(monkeypatch, text: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(RecipeError) as caught:
        read_recipe("-")
    assert caught.value.exit_code == 2
    return caught.value.message.splitlines()


def test_two_faults_are_formatted_with_position_and_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["version: 1"] + ["# nothing"] * 6
    lines += ["losses:", "  - kind: hint", "    temprature: 4", "  - kind: labels", "    weight: -1"]
    (tmp_path / "feature.yaml").write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe("./feature.yaml")
    error = caught.value
    assert error.message.splitlines() == [
        "2 problems in ./feature.yaml",
        "  ./feature.yaml:10:5  losses.0.temprature: unknown key",
        "     10 |     temprature: 4",
        "        |     ^^^^^^^^^^ did you mean 'temperature'?",
        "  ./feature.yaml:12:13 losses.1.weight: must be > 0, got -1",
        "     12 |     weight: -1",
        "        |             ^^",
    ]
    assert error.hint == "kd recipes check ./feature.yaml"
    assert error.location == "./feature.yaml:10:5"


def test_all_faults_are_reported_in_the_order_of_the_text(monkeypatch):
    text = (
        "verson: 1\ndata: {source: nowhere}\nteacher:\n  model: {kind: zoo, name: cnm}\n  output_kind: logit\n"
        "losses:\n  - {kind: soft_target}\n  - 5\n  - {kind: labels, weight: .inf, warmup: 2}\n  - weight: 1\n"
        "train:\n  epochs: 1e-3\n  optimizer: {kind: sgd, momentun: 1}\n  jit: on\n  jit: off\n  seed: -1\n"
    )
    faults = [line.strip() for line in refused_text(monkeypatch, text) if line.startswith("  -:")]
    assert [line.split()[0] for line in faults] == [
        *["-:1:1", "-:2:16", "-:4:28", "-:5:16", "-:7:12", "-:8:5", "-:9:28", "-:9:42", "-:10:5"],
        *["-:12:11", "-:13:26", "-:15:3", "-:16:9"],
    ]
    words = [" ".join(line.split()[1:]).removesuffix(", got a mapping") for line in faults]
    assert words[0] == "verson: unknown key"
    assert words[1].startswith("data.source: unknown data set 'nowhere'; expected digits, mnist")
    assert words[2:5] == [
        "teacher.model.name: unknown name 'cnm'",
        "teacher.output_kind: must be auto | logits | probabilities | sigmoid | values, got 'logit'",
        "losses.0.kind: unknown kind 'soft_target'",
    ]
    assert words[5:] == [
        "losses.1: must be a mapping, got 5",
        "losses.2.weight: must be a finite number, got inf",
        "losses.2.warmup: must be <= 1, got 2",
        "losses.3.kind: the mapping needs a `kind:`",
        "train.epochs: must be a whole number, got 0.001",
        "train.optimizer.momentun: unknown key",
        "train.jit: the key 'jit' appears twice",
        "train.seed: must be >= 0, got -1",
    ]


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("verson: 1\n", "did you mean 'version'?"),
        ("losses: [{kind: soft_target}]\n", "did you mean 'soft_targets'?"),
        ("train: {optimizer: adan}\n", "did you mean 'adam'?"),
        ("train: {optimizer: {kind: sgd, momentun: 1}}\n", "did you mean 'momentum'?"),
        ("student: {model: {kind: zoo, name: cnn, widht: 1}}\n", "did you mean 'width'?"),
        ("student: {input: {scale: unti}}\n", "did you mean 'unit'?"),
        ("losses: [{kind: labels, weight: {from: 1, too: 0}}]\n", "did you mean 'to'?"),
        ("train: {early_stopping: {zzz: 1}}\n", "known: monitor, patience"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(monkeypatch, text, suggestion):
    assert suggestion in "\n".join(refused_text(monkeypatch, text))


def test_numbers_are_not_coerced(monkeypatch):
    message = "\n".join(refused_text(monkeypatch, "train: {epochs: '3', batch_size: true, seed: 1.0}\n"))
    assert message.startswith("3 problems in -")


def test_a_number_with_thousands_of_digits_is_refused(monkeypatch):
    assert refused_text(monkeypatch, f"train: {{seed: 0x{'f' * 4000}}}\n")[0] == "1 problem in -"


words = st.sampled_from(
    [
        *Recipe.model_fields, "kind", "name", "model", "source", "weight", "temperature", "from", "to", "zoo",
        "cnn", "mlp", "file", "labels", "soft_targets", "hint", "change", "number", "word", "list", "adam", "sgd",
        "optimizer", "schedule", "steps", "at", "epochs", "seed", "input", "resize", "limit", "augment", "shift",
    ]
)  # fmt: skip
scalars = st.one_of(words, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
lines = st.lists(
    st.tuples(st.integers(0, 3), words, st.sampled_from([": ", ":\n", "\n- ", ": {", ": [", ": &a "]), words),
    max_size=8,
).map(lambda parts: "\n".join(" " * (2 * deep) + key + mark + value for deep, key, mark, value in parts))


@settings(max_examples=150, deadline=None)
@given(
    content=st.dictionaries(words, nested, max_size=4) | st.text(max_size=60) | lines,
    setting=st.builds(
        lambda path, value: f"{'.'.join(path)}={value}", st.lists(words | st.text(max_size=3)), scalars
    ),
)
def test_any_input_is_either_read_or_refused(content, setting):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(content if isinstance(content, str) else ""))
        for given_settings in ((), (setting,)):
            try:
                read = read_recipe("-" if isinstance(content, str) else content, settings=given_settings)
            except KdError as error:
                assert isinstance(error, UsageError)
                assert error.message
            else:
                assert isinstance(read.recipe, Recipe)
            patch.setattr("sys.stdin", io.StringIO(content if isinstance(content, str) else ""))
