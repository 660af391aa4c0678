"""Who may know whom: the import rules of the package, held by a walk over its syntax trees."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import kdcli

ROOT = Path(kdcli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# A file imports from its own folder or from rows with a lower number.
ROWS = {
    **dict.fromkeys(("errors", "lazy", "events", "tensors"), 0),
    **dict.fromkeys(("spec", "extras"), 1),
    **dict.fromkeys(("loss", "custom_kinds"), 2),
    **dict.fromkeys(("formulas", "catalogue"), 3),
    **dict.fromkeys(("losses", "sources", "augment", "zoo", "exports"), 4),
    **dict.fromkeys(("recipe", "runs", "screening"), 5),
    **dict.fromkeys(("data", "models", "cache"), 6),
    **dict.fromkeys(
        ("evaluation", "loss_contract", "distillation", "training", "shrinking", "quantization", "kinds"), 7
    ),
    "setup": 8,
    "teacher": 9,
    **dict.fromkeys(("jobs", "artifacts"), 10),
    **dict.fromkeys(("comparison", "compression", "inspection"), 11),
    "commands": 12,
    "cli": 13,
}
# What a row may import from outside at module top; TensorFlow and Keras come through `kdcli.lazy`.
OUTSIDE = {
    0: set(),
    1: {"pydantic"},
    2: {"pydantic"},
    3: {"pydantic"},
    4: {"pydantic"},
    5: {"pydantic", "yaml", "filelock", "numpy"},
    6: {"numpy", "psutil", "filelock", "tensorflow", "keras"},
    7: {"numpy", "psutil", "tensorflow", "keras"},
    8: {"numpy", "psutil", "yaml"},
    9: {"numpy", "psutil"},
    10: {"numpy", "psutil", "yaml"},
    11: {"numpy"},
    12: {"numpy", "psutil", "yaml"},
    13: {"typer", "rich"},
}
VERBS_MAY = {"data", "models", "evaluation"}


@dataclass(frozen=True)
class Import:
    """One imported module, with where it stands."""

    file: Path
    line: int
    module: str
    inside: bool
    for_types: bool

    def __str__(self):
        return f"{self.file.relative_to(ROOT.parent)}:{self.line} imports {self.module}"

    @property
    def room(self):
        """The room of kdcli that is imported, or None."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "kdcli" and len(parts) > 1 else None


def room_of(file):
    first = file.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(file):
    found = []

    def visit(node, inside, for_types):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types = True
        if isinstance(node, ast.Import):
            found.extend(Import(file, node.lineno, name.name, inside, for_types) for name in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            whole = node.module in ("kdcli", "keras", "tensorflow", "tensorflow.python")
            names = [f"{node.module}.{name.name}" for name in node.names] if whole else [node.module]
            found.extend(Import(file, node.lineno, name, inside, for_types) for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child, inside, for_types)

    visit(ast.parse(file.read_text("utf-8")), False, False)
    return found


IMPORTS = [one for file in FILES for one in imports_of(file)]
IN_ROOMS = [one for one in IMPORTS if room_of(one.file) not in ("__init__", "__main__")]


def said(wrong):
    return [str(one) for one in wrong]


def calls_and_names(file):
    """Every dotted name in a file, with its line."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Attribute | ast.Name):
            yield ast.unparse(node), node.lineno


def test_every_file_stands_in_a_room_that_the_architecture_names():
    rooms = {room_of(file) for file in FILES} - {"__init__", "__main__"}
    assert rooms <= set(ROWS)
    assert len(FILES) > 60 and len(IMPORTS) > 300


def test_imports_go_to_the_own_folder_or_to_rows_above():
    wrong = []
    for one in IN_ROOMS:
        own, other = room_of(one.file), one.room
        if other is None or other == own or one.module == "kdcli.__version__":
            continue
        verb = ROWS[own] == 4 and (one.inside or one.for_types) and other in VERBS_MAY
        if ROWS[other] >= ROWS[own] and not verb:
            wrong.append(one)
    assert said(wrong) == []


def test_the_package_itself_knows_only_names():
    wrong = [one for one in IMPORTS if one.file == ROOT / "__init__.py" and one.room]
    assert said(wrong) == []


def test_commands_are_imported_in_the_body_of_a_command():
    wrong = [one for one in IMPORTS if room_of(one.file) == "cli" and one.room == "commands" and not one.inside]
    assert said(wrong) == []


def test_each_row_imports_only_its_libraries_at_module_top():
    wrong = []
    for one in IN_ROOMS:
        top = one.module.split(".")[0]
        outside = top not in sys.stdlib_module_names and top != "kdcli"
        if outside and not one.inside and not one.for_types and top not in OUTSIDE[ROWS[room_of(one.file)]]:
            wrong.append(one)
    assert said(wrong) == []


def test_only_the_console_imports_rich():
    users = {one.file.relative_to(ROOT).as_posix() for one in IMPORTS if one.module.split(".")[0] == "rich"}
    assert users == {"cli/console.py"}


def test_private_and_replaced_modules_are_not_imported():
    banned = ("keras.src", "tensorflow.python", "tensorflow.keras", "tf_keras", "click")
    # Files of Keras 2 open in a process of their own; for freezing and reading graphs there is no public name.
    wrapped = {
        ("models/files/load.py", "tf_keras"),
        ("models/saved_model/constant_function.py", "tensorflow.python.framework.convert_to_constants"),
        ("training/workers.py", "tensorflow.python.eager"),
    }
    wrong = [one for one in IMPORTS if one.module.startswith(banned)]
    assert said(one for one in wrong if (one.file.relative_to(ROOT).as_posix(), one.module) not in wrapped) == []
    texts = ("keras.src", "tf.keras", "tf.python", "tensorflow.python", "tensorflow.keras")
    used = [(file.name, name) for file in FILES for name, _ in calls_and_names(file) if name.startswith(texts)]
    assert used == []


def test_nothing_is_imported_or_run_in_a_way_that_this_walk_does_not_see():
    hidden = ("import_module", "importlib.import_module", "__import__", "exec", "eval")
    users = {
        (file.relative_to(ROOT).as_posix(), name)
        for file in FILES
        for name, _ in calls_and_names(file)
        if name in hidden
    }
    assert users == {("__init__.py", "import_module"), ("lazy.py", "importlib.import_module")}


def test_models_are_loaded_in_one_file():
    loaders = ("load_model", "load_weights", "model_from_json", "deserialize_keras_object", "saved_model.load")
    users = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        for name, _ in calls_and_names(file)
        if name.endswith(loaders)
    }
    # A cold start is measured in a process without kdcli, on a file that was screened and opened before.
    assert users == {"models/files/load.py", "evaluation/latency/cold_process.py"}


@pytest.mark.parametrize("name", ["print", "sys.exit", "sys.argv", "exit", "os._exit", "typer"])
def test_the_library_never_prints_exits_or_reads_the_command_line(name):
    users = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        for used, _ in calls_and_names(file)
        if used == name and room_of(file) != "cli"
    }
    # A run records the arguments it was started with.
    assert users == ({"runs/run_environment.py"} if name == "sys.argv" else set())


# Their files are one kind each, as long as the idea is.
KIND_ROOMS = {"losses", "sources", "augment", "zoo", "exports"}
RUNNING_WAYS = ("models.keras", "models.saved_model", "models.runtimes")
MODULES = {file: ".".join(("kdcli", *file.relative_to(ROOT).with_suffix("").parts)) for file in FILES}
# Nouns of the field that end like participles or gerunds.
FIELD_TERMS = {"batching", "pairing", "preprocessing", "screening", "training", "embed", "feed", "shared"}
NOT_NOUNS = {
    *("about", "across", "after", "again", "alone", "along", "already", "among", "around", "before", "behind"),
    *("below", "beside", "between", "beyond", "given", "known", "kept", "made", "meanwhile", "never", "once"),
    *("shown", "sides", "taken", "then", "told", "together", "under", "where", "while"),
}


def imported_modules(file):
    """The modules of kdcli that a file imports, at any depth, other than for types."""
    known = set(MODULES.values())
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdcli"):
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in known else node.module for name in names}
    return {name for name in found if name in known}


def test_ways_of_running_a_model_do_not_know_each_other():
    wrong = []
    for one in IN_ROOMS:
        own = next((way for way in RUNNING_WAYS if MODULES[one.file].startswith(f"kdcli.{way}.")), None)
        other = next((way for way in RUNNING_WAYS if one.module.startswith(f"kdcli.{way}.")), None)
        if own is not None and other not in (None, own):
            wrong.append(one)
    assert said(wrong) == []


def test_no_circle_of_imports_in_the_package():
    imports = {MODULES[file]: imported_modules(file) - {MODULES[file]} for file in FILES}
    left = dict(imports)
    while True:
        free = {name for name, others in left.items() if not others & left.keys()}
        if not free:
            break
        left = {name: others for name, others in left.items() if name not in free}
    # What imports a circle is left too: only files that are imported in turn are part of one.
    while pruned := {name for name in left if not any(name in others for others in left.values())}:
        left = {name: others for name, others in left.items() if name not in pruned}
    assert {name: sorted(others & left.keys()) for name, others in left.items()} == {}


def public_names(file):
    for node in ast.parse(file.read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [node.name] if hasattr(node, "name") else [getattr(target, "id", None) for target in targets]
        yield from (name for name in names if name and not name.startswith("_"))


def test_no_public_name_is_defined_twice():
    places = {}
    for file in FILES:
        # Commands are called what they do: `kd cache ls` and `kd losses ls` are both `ls`.
        if room_of(file) == "cli" and file.stem not in ("groups", "options", "console", "gates"):
            continue
        for name in public_names(file):
            places.setdefault(name, []).append(file.relative_to(ROOT).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_files_are_named_with_nouns_or_verbs():
    wrong = []
    for file in FILES:
        words = file.stem.strip("_").split("_")
        # A participle may describe a noun, as in `packed_file`; the last word says what it is.
        bad = {word for word in words if word in NOT_NOUNS}
        bad |= {word for word in words[-1:] if word.endswith(("ing", "ed", "ly"))}
        if bad - FIELD_TERMS and room_of(file) not in KIND_ROOMS:
            wrong.append(file.relative_to(ROOT).as_posix())
    assert wrong == []


def test_files_have_at_most_400_lines_and_functions_60():
    wrong = []
    for file in FILES:
        if room_of(file) in KIND_ROOMS:
            continue
        text = file.read_text("utf-8")
        if len(text.splitlines()) > 400:
            wrong.append(f"{file.relative_to(ROOT)} has {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (lines := node.end_lineno - node.lineno + 1) > 60:
                wrong.append(f"{file.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert wrong == []


@pytest.mark.parametrize("file", sorted((ROOT / "commands").glob("[!_]*.py")), ids=lambda file: file.stem)
def test_a_command_exports_its_function_and_reads_in_80_lines(file):
    text = file.read_text("utf-8")
    functions = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert [name for name in functions if not name.startswith("_")] == [file.stem]
    assert len(text.splitlines()) < 80


def test_no_file_is_named_after_nothing():
    empty = ("utils", "util", "helpers", "helper", "misc", "common", "manager", "base", "core")
    assert [file.name for file in FILES if file.stem in empty] == []


COLD = """
import sys

def loaded():
    return sorted({"tensorflow", "keras", "numpy"} & set(sys.modules))

import kdcli
assert not loaded(), ("import kdcli", loaded())
import kdcli.losses
assert not loaded(), ("kdcli.losses", loaded())
from kdcli.recipe.reader import read_recipe
from kdcli.recipe.shipped_recipes import list_shipped_recipes
for name in list_shipped_recipes():
    read_recipe(name)
assert not loaded(), ("a recipe", loaded())
from kdcli.cli.app import run
for words, code in (
    (["--help"], 0),
    (["distill", "--help"], 0),
    (["distill", "--recipe", "soft-target"], 2),
    (["distill", "--set", "train.epoch=3"], 2),
    (["train-teacher", "--set", "train.epochs=-1"], 2),
    (["recipes", "schema"], 0),
    (["losses", "show", "hint"], 0),
):
    assert run(words) == code, words
    assert not loaded(), (words, loaded())
print("cold")
"""


def test_files_of_tests_have_names_of_their_own():
    """The folders of tests are no packages: pytest imports only one file of each name."""
    names = sorted(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert len(names) > 100
    assert [name for name, other in itertools.pairwise(names) if name == other] == []


def test_tensorflow_stays_unimported_until_a_command_has_work_for_it(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", COLD], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout.splitlines()[-1:] == ["cold"], ran.stderr[-2000:]
    assert ran.returncode == 0
