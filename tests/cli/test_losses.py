"""kd losses: ls, show, check."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kdcli.catalogue.description import describe_kind
from kdcli.cli.console import Output
from kdcli.losses import LOSS_KINDS

GOOD = """
from typing import ClassVar, Literal
import kdcli
from kdcli.lazy import ops

class Straight(kdcli.Loss):
    '''Mean distance, per example.'''

    leading_axes: ClassVar[bool] = False
    kind: Literal["straight"] = "straight"

    def __call__(self, *, student, teacher, **_):
        student = ops.cast(student, "float64") if "64" in str(student.dtype) else ops.cast(student, "float32")
        return ops.mean(ops.abs(student - ops.stop_gradient(ops.cast(teacher, student.dtype))), axis=-1)
"""
BROKEN = """
from typing import ClassVar, Literal
import kdcli
from kdcli.lazy import ops

class Crooked(kdcli.Loss):
    kind: Literal["crooked"] = "crooked"

    def __call__(self, *, student, teacher, **_):
        return ops.mean(student - ops.stop_gradient(teacher), axis=-1)

class Failing(kdcli.Loss):
    kind: Literal["failing"] = "failing"

    def __call__(self, *, student, **_):
        return student.nothing

class Asking(kdcli.Loss):
    kind: Literal["asking"] = "asking"
    power: int

    def __call__(self, *, student, **_):
        return student[:, 0]
"""


@pytest.fixture
def own(tmp_path):
    """The names of two files, one with a loss that keeps the contract and one with losses that break it."""
    for name, text in (("good.py", GOOD), ("broken.py", BROKEN)):
        (tmp_path / name).write_text(text, "utf-8")
    return "good.py", "broken.py"


def test_ls_has_one_line_for_each_kind(kd):
    ran = kd("losses", "ls")
    heading, *lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert heading.split() == ["kind", "year", "weight", "known", "as", "needs"]
    assert [line.split()[0] for line in lines] == list(LOSS_KINDS)
    for line, member in zip(lines, LOSS_KINDS.values(), strict=True):
        one = describe_kind(member)
        assert f" {one.weight:g} " in line and one.known_as in line
        assert line.rstrip().endswith(", ".join(one.needs))


def test_ls_fits_a_terminal_and_cuts_no_number(kd, monkeypatch):
    shown = io.StringIO()
    made = Output.__init__

    def narrow(self, **given):
        made(self, **given)
        self.out = Console(file=shown, width=80, force_terminal=True, color_system=None)

    monkeypatch.setattr(Output, "__init__", narrow)
    assert kd("losses", "ls").code == 0
    lines = shown.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    for member in LOSS_KINDS.values():
        one = describe_kind(member)
        (line,) = [line for line in lines if line.split()[0:1] == [one.kind]]
        numbers = line.split()[1:3] if one.year else ["", line.split()[1]]
        assert numbers == [one.year, f"{one.weight:g}"]


def test_ls_as_json(kd):
    document = kd("losses", "ls", "--json").document
    assert document["schema"] == "kd.losses/1"
    entries = {entry["kind"]: entry for entry in document["losses"]}
    assert list(entries) == list(LOSS_KINDS)
    assert entries["labels"]["needs"] == ["labels"] and entries["labels"]["year"] is None
    assert entries["hint"]["needs"] == ["teacher", "features", "projection"]
    assert entries["soft_targets"] == {
        "kind": "soft_targets",
        "needs": ["teacher"],
        "summary": "T² · KL(softmax(teacher / T) ‖ softmax(student / T)), per example.",
        "known_as": "KD, Hinton",
        "paper": "Hinton, Vinyals & Dean 2015, arXiv:1503.02531",
        "year": 2015,
        "family": "outputs",
        "weight": 0.9,
    }


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_show_prints_the_whole_description(kd, kind):
    ran = kd("losses", "show", kind)
    one = describe_kind(LOSS_KINDS[kind])
    assert (ran.code, ran.err) == (0, "")
    first, _, formula, *_ = ran.out.splitlines()
    assert first.startswith(f"{kind}: {one.known_as}") and one.paper in first
    assert formula == one.formula
    for words in (one.shapes, *one.refuses, one.pairing, *one.notes):
        assert words in ran.out
    for option in one.options:
        (line,) = [line for line in ran.out.splitlines() if line.split()[:1] == [option.name]]
        assert option.type in line and line.rstrip().endswith(option.meaning)
    assert ran.out.splitlines()[-1] == f"in a recipe:  {one.entry}"


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_show_as_json_gives_every_option_with_its_default(kd, kind):
    document = kd("losses", "show", kind, "--json").document
    assert (document["schema"], document["kind"]) == ("kd.loss/1", kind)
    fields = set(LOSS_KINDS[kind].model_fields) - {"kind", "name"}
    assert set(document["options"]) == fields == {option["name"] for option in document["details"]}
    assert LOSS_KINDS[kind].model_validate(document["options"]) == LOSS_KINDS[kind]()


def test_show_of_an_unknown_kind_names_the_nearest(kd):
    ran = kd("losses", "show", "soft_target")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: unknown loss 'soft_target'; did you mean 'soft_targets'?")
    assert ran.err.splitlines()[-1] == "hint: kd losses ls"


def test_show_of_an_unknown_kind_as_json(kd):
    ran = kd("losses", "show", "at", "--json")
    assert ran.code == 2
    assert ran.document["schema"] == "kd.error/1"
    assert ran.document["error"]["hint"] == "kd losses ls"
    assert ran.document["error"]["message"].startswith("unknown loss 'at'; ")


@pytest.mark.parametrize(
    ("name", "kind"), [("DKD", "decoupled"), ("SimKD", "classifier_reuse"), ("fit-nets", "hint"), ("Hint", "hint")]
)
def test_the_name_of_a_paper_leads_to_the_kind(kd, tmp_path, name, kind):
    ran = kd("losses", "show", name)
    assert (ran.code, ran.err) == (2, f"error: unknown loss {name!r}; {name} is {kind}\nhint: kd losses ls\n")
    (tmp_path / "one.yaml").write_text(f"losses: [{{kind: {name}}}, {{kind: nothing like it}}]\n")
    ran = kd("recipes", "check", "one.yaml")
    assert ran.code == 2
    assert f"{name} is {kind}" in ran.err and "kd losses ls lists them" in ran.err
    assert "soft_cross_entropy" not in ran.err


def test_ls_shows_custom_kinds_first_without_trailing_blanks(kd, own):
    ran = kd("losses", "ls", "--code", own[0])
    assert ran.code == 0
    assert ran.out.splitlines()[1].startswith("straight ")
    assert [line for line in ran.out.splitlines() if line != line.rstrip()] == []


def test_show_describes_a_custom_kind(kd, own):
    ran = kd("losses", "show", "straight", "--code", own[0])
    assert ran.code == 0
    assert ran.out.startswith("straight\n\nMean distance, per example.\n")


def test_check_passes_a_loss_that_keeps_the_contract(kd, own):
    ran = kd("losses", "check", own[0])
    assert ran.code == 0, ran.out
    assert ran.out.splitlines()[0].strip() == "straight"
    assert ran.out.splitlines()[-1].startswith("straight: ") and ran.out.endswith(", 0 failed\n")


def test_check_ends_with_7_and_says_what_is_broken(kd, own):
    ran = kd("losses", "check", own[1], "--json")
    assert ran.code == 7
    assert (ran.document["schema"], ran.document["checked"]) == ("kd.losses-check/1", "broken.py")
    losses = {loss["kind"]: loss for loss in ran.document["losses"]}
    assert {kind: loss["state"] for kind, loss in losses.items()} == dict.fromkeys(losses, "failed")
    failed = {
        kind: {point["name"]: point["reason"] for point in loss["points"] if point["state"] == "failed"}
        for kind, loss in losses.items()
    }
    assert "not negative" in failed["crooked"]
    (reason,) = failed["failing"].values()
    assert "AttributeError" in reason and reason.endswith("(broken.py:16)") and "\n" not in reason
    assert failed["asking"]["defaults"].startswith(
        "cannot be created with default options: asking: power: Field required"
    )


def test_check_of_a_kind_of_the_catalogue(kd):
    ran = kd("losses", "check", "logit_mse", "--json")
    assert (ran.code, ran.document["losses"][0]["kind"]) == (0, "logit_mse")


@pytest.mark.parametrize(
    ("what", "text", "message"),
    [
        ("soft_target", None, "unknown loss 'soft_target'; did you mean 'soft_targets'?"),
        ("nowhere.py", None, "--code nowhere.py: no such file"),
        ("layers.py", "x = 1\n", "layers.py defines no loss: no subclass of Loss or FeatureLoss"),
        ("fails.py", "import kdcli\n\nkdcli.nothing\n", "--code fails.py:3: AttributeError: "),
    ],
)
def test_check_of_other_files_is_a_usage_error(kd, tmp_path, what, text, message):
    if text is not None:
        (tmp_path / what).write_text(text)
    ran = kd("losses", "check", what)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {message}")


def test_recipes_check_takes_code(kd, own, tmp_path):
    (tmp_path / "own.yaml").write_text("requires: [good.py]\nlosses: [{kind: straight}]\n")
    assert kd("recipes", "check", "own.yaml", "--code", own[0]).code == 0
    ran = kd("recipes", "check", "own.yaml")
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "hint: --code good.py")
