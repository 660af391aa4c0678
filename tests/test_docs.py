"""The documentation: generated tables are up to date, links lead somewhere, examples can be typed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import generate
import pytest
from hints import typed
from writers import rooms
from writers.markdown import BLOCK
from writers.options import FOREIGN
from writers.options import ROOT as COMMANDS

from kdcli.losses import LOSS_KINDS
from kdcli.recipe.gates import METRICS
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in generate.pages()}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXIT_CODES = (0, 1, 2, 3, 4, 5, 6, 7, 130, 143)
# Options of other programs.
OTHER_OPTIONS = {"--help", "--install-completion", "--tables", "--dist"}
OTHER_OPTIONS |= {"--sides", "--seconds", "--second", "--rounds", "--kill-on-bad-exit", "--signal"}


def anchors(text):
    """The anchors that a Markdown page offers, as GitHub makes them from headings."""
    found, counts = set(), {}
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = counts[plain] = counts.get(plain, -1) + 1
        found.add(f"{plain}-{number}" if number else plain)
    return found


def options_of(command):
    """Every option of a command and of its subcommands."""
    inner = getattr(command, "commands", {}).values()
    own = {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
    return own.union(*(options_of(one) for one in inner))


def test_generated_tables_are_up_to_date():
    assert [path.name for path in generate.outdated()] == [], "python docs/generate.py --tables"


def test_every_writer_of_tables_is_used_by_some_page():
    used = {match["call"].split()[0] for text in PAGES.values() for match in BLOCK.finditer(text)}
    assert used == set(generate.WRITERS)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_page_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), target


def test_every_page_is_reached_from_the_index_or_the_readme():
    linked = "".join(PAGES[name] for name in ("README.md", "docs/index.md"))
    for page in PAGES:
        if page not in ("README.md", "docs/index.md"):
            name = page.removeprefix("docs/")
            assert f"({name})" in linked or f"({page})" in linked or f"]({name}" in linked, page


@pytest.mark.parametrize("name", COMMANDS.commands)
def test_every_command_has_a_page_with_an_example_and_all_options(name):
    page = PAGES[f"docs/commands/{name}.md"]
    assert page.startswith(f"# kd {name}\n")
    assert f"$ kd {name}" in page
    assert f"<!-- generated: options {name} -->" in page
    for option in options_of(COMMANDS.commands[name]) - {"--help", "-h"}:
        assert f"`{option}`" in page, option


def test_every_kind_of_loss_has_a_section_and_an_entry():
    for kind in LOSS_KINDS:
        assert PAGES["docs/losses.md"].count(f"\n### {kind}\n") == 1, kind
        assert f"losses: [{{kind: {kind}, " in PAGES["docs/losses.md"]


def test_every_shipped_recipe_and_every_setting_is_documented():
    for name in list_shipped_recipes():
        assert f"\n### {name}\n" in PAGES["docs/recipes.md"], name
    settings = {"source", "views", "precision", "start", "optimizer", "early_stopping", "label_smoothing", "mix"}
    for name in settings:
        assert f"| `{name}` |" in PAGES["docs/recipes.md"], name


def test_every_metric_and_every_exit_code_is_documented():
    for metric in METRICS:
        assert f"| `{metric}` |" in PAGES["docs/scripting.md"], metric
    table = re.findall(r"^\| ([\d, ]+) \|", PAGES["docs/scripting.md"], re.MULTILINE)
    assert {int(code) for row in table for code in row.split(",")} == set(EXIT_CODES)
    headings = "\n".join(re.findall(r"^## Exit code.*", PAGES["docs/troubleshooting.md"], re.MULTILINE))
    for code in EXIT_CODES[1:]:
        assert re.search(rf"\b{code}\b", headings), code


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_can_be_typed(page):
    for language, body in FENCE.findall(PAGES[page]):
        if language not in ("sh", "console"):
            continue
        text = body.replace("\\\n", " ")
        for line in re.findall(r"^(?:\$ )?(?:srun .*|exec )?(kd .*)$", text, re.MULTILINE):
            plain = re.sub(r" > \S+$", "", line).replace('"$run', "RUN").replace('"', "")
            if "..." not in plain:
                typed(plain)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_on_a_page_exists(page):
    known = options_of(COMMANDS) | OTHER_OPTIONS | set(FOREIGN)
    prose = FENCE.sub("", PAGES[page])
    for option in re.findall(r"(?<![\w-])--[a-zA-Z][a-z0-9-]*", prose):
        assert option in known, option


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/custom-kinds.md"])
def test_every_recipe_on_a_page_is_valid(page, tmp_path):
    for language, body in FENCE.findall(PAGES[page]):
        if language == "yaml" and "apiVersion" not in body and "temprature" not in body:
            # An entry of a loss shows `...` for an option that has no default.
            (tmp_path / "page.yaml").write_text(body.replace("...", "logits"), "utf-8")
            read_recipe(tmp_path / "page.yaml")


def test_the_rooms_of_the_contributing_page_are_those_of_the_architecture_test():
    page = PAGES["CONTRIBUTING.md"]
    shown = {
        name: int(row) for row, name in re.findall(r"^\| (\d+) \| `([\w]+)(?:/|\.py)` \|", page, re.MULTILINE)
    }
    assert shown == rooms.rows()


def test_no_page_but_contributing_names_an_inner_module():
    tree = ast.parse((ROOT / "kdcli" / "__init__.py").read_text("utf-8"))
    names = next(
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node)
    )
    public = {*ast.literal_eval(names.value), "kinds"}
    for page, text in PAGES.items():
        # The code of custom kinds imports what its own test runs.
        prose = FENCE.sub("", text) if page == "docs/custom-kinds.md" else text
        inner = {name for name in re.findall(r"\bkdcli\.(\w+)", prose) if name not in public}
        assert page == "CONTRIBUTING.md" or not inner, (page, inner)
