"""Python files that a user brings along: layers that they register with Keras, and kinds of their own."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, get_args, get_origin

from kdcli.augment import AnyAugment
from kdcli.custom_kinds import CustomKinds, find_specs, kind_of
from kdcli.errors import KdError, UsageError, summarize_error
from kdcli.lazy import keras
from kdcli.loss import Loss
from kdcli.losses import AnyLoss
from kdcli.screening.keras.allowed_names import FUNCTIONS
from kdcli.sources import AnySource
from kdcli.spec import Augment, Source, Spec


def find_kinds(files: Sequence[Path]) -> CustomKinds:
    """Run the files that may define kinds, before a recipe is read, and collect what they define.

    A file defines kinds only when it imports kdcli, whose classes they are subclasses of. All others wait for
    `bring_code`: they are about layers, and may compute something as soon as TensorFlow has been set up.

    Raises:
        UsageError: a file is missing, fails or defines nothing, or a kind cannot be one.
    """
    members: list[tuple[str, type[Spec]]] = []
    for file in files:
        if not file.is_file():
            raise UsageError(f"--code {file}: no such file", hint="a Python file that defines own layers or kinds")
        if file.name in [other.name for other in files if other is not file]:
            raise UsageError(f"--code {file}: two files of this name", hint="recipes name files without folders")
        if not _imports_kdcli(file):
            continue
        namespace, registered = _run(file)
        found = classes_in(namespace, module=file.stem, file=str(file))
        if not found and not registered:
            raise UsageError(
                f"--code {file} defines nothing: no subclass of Loss, FeatureLoss, Source or Augment",
                hint="kd losses check FILE.py tries a file that defines losses",
            )
        for member in found:
            _refuse_twice(member, file, members)
            members.append((file.name, member))
    return CustomKinds(tuple(members), tuple(files))


def run_keras_code(files: Sequence[Path]) -> None:
    """Run the files that only define classes or functions of Keras models; `find_kinds` has run the others.

    Each is known under its bare name too, as Keras saves what no decorator has registered.

    Raises:
        UsageError: a file fails, or defines nothing.
    """
    for file in files:
        if file in select_kind_files(files):
            continue
        _, registered = _run(file, functions=True)
        if not registered:
            raise UsageError(
                f"--code {file} registers nothing: no layer, model, loss, metric or function of a Keras model",
                hint="a file that defines, or imports, the classes that the model was saved with",
            )


def select_kind_files(files: Sequence[Path]) -> tuple[Path, ...]:
    """The files that `find_kinds` runs, before TensorFlow has been set up."""
    return tuple(file for file in files if _imports_kdcli(file))


def list_registered_names() -> frozenset[str]:
    """The names under which own classes and functions stand in a model's configuration."""
    return frozenset(keras.saving.get_custom_objects())


@contextmanager
def attribute_errors(files: Sequence[Path]) -> Iterator[None]:
    """What is raised in the user's own files while the block runs is theirs: one line, with the place.

    Raises:
        UsageError: naming the file, the line and the error.
    """
    try:
        yield
    except Exception as error:
        # What kd says of a loss that cannot be computed is about another error, whose link TensorFlow may cut.
        cause = (error.__cause__ or error.__context__) if isinstance(error, KdError) else error
        for file in files:
            if cause is not None and not isinstance(cause, KdError) and _line_in(file, cause):
                raise _failed(file, cause, hint=f"kd losses check {file} tries the losses in it") from cause
        raise


def _line_in(file: Path, error: BaseException) -> int | None:
    """The line of a file in which an error was raised, or through which it came; None when it was elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return lines[-1] if lines else None


def _said(error: BaseException) -> str:
    """The error in one line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {summarize_error(error)}"


def _run(file: Path, *, functions: bool = False) -> tuple[Mapping[str, Any], bool]:
    """Run a file: its names, and whether something in it is registered with Keras now."""
    if _mentions(file, "keras", "tensorflow"):
        # They load more quietly from here than from there.
        keras.saving.get_custom_objects()
    known = dict(_registered())
    try:
        namespace = runpy.run_path(str(file), run_name=file.stem)
    # The user's own code may raise anything, and may want to end the program.
    except (Exception, SystemExit) as error:
        raise _failed(file, error) from error
    if "keras" in sys.modules:
        _register_bare(namespace, module=file.stem, functions=functions)
    found = _registered()
    return namespace, any(known.get(name) is not found[name] for name in found)


def _register_bare(namespace: Mapping[str, Any], *, module: str, functions: bool) -> None:
    """Register classes under their bare names, and the file's own functions unless Keras has one of that name."""
    known = keras.saving.get_custom_objects()
    parents = (
        keras.layers.Layer,
        keras.losses.Loss,
        keras.metrics.Metric,
        keras.initializers.Initializer,
        keras.regularizers.Regularizer,
        keras.constraints.Constraint,
        keras.optimizers.Optimizer,
    )
    for member in namespace.values():
        if isinstance(member, type) and issubclass(member, parents):
            own = member.__module__.split(".")[0] not in ("keras", "keras_hub", "tf_keras", "tensorflow")
        else:
            own = functions and isinstance(member, FunctionType) and member.__module__ == module
            own = own and member.__name__ not in FUNCTIONS
        if own:
            known[member.__name__] = member


def _registered() -> Mapping[str, Any]:
    return keras.saving.get_custom_objects() if "keras" in sys.modules else {}


def _failed(file: Path, error: BaseException, *, hint: str | None = None) -> UsageError:
    line = _line_in(file, error)
    place = f"{file}:{line}" if line else str(file)
    return UsageError(f"--code {place}: {_said(error)}", hint=hint or f"python {file} shows where")


def _refuse_twice(member: type[Spec], file: Path, before: Sequence[tuple[str, type[Spec]]]) -> None:
    for other_file, other in before:
        if kind_of(other) == kind_of(member):
            raise UsageError(
                f"--code {file}: {member.__name__}: {other_file} has the kind {kind_of(member)!r} already"
            )


def _imports_kdcli(file: Path) -> bool:
    return _mentions(file, "kdcli")


def _mentions(file: Path, *packages: str) -> bool:
    """Whether a file imports one of these packages anywhere."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise _failed(file, error) from error
    except OSError as error:
        raise UsageError(f"--code {file}: cannot be read: {error.strerror}") from None
    named = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    named += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] in packages for name in named)


@dataclass(frozen=True)
class Family:
    """What own kinds may be of.

    Args:
        parent: the class that they are subclasses of.
        entries: what a recipe may hold of it.
        verb: the method that each kind must have.
    """

    parent: type[Spec]
    entries: Any
    verb: str


FAMILIES = (
    Family(Loss, AnyLoss, "__call__"),
    Family(Source, AnySource, "load"),
    Family(Augment, AnyAugment, "__call__"),
)


def classes_in(namespace: Mapping[str, Any], *, module: str, file: str) -> list[type[Spec]]:
    """The kinds that a file defines, in order.

    Args:
        namespace: its names.
        module: what its classes say of where they were made.
        file: what messages call it.

    Raises:
        UsageError: a class that is meant to be a kind and cannot be one.
    """
    made = [
        (member, family)
        for member in dict.fromkeys(value for value in namespace.values() if isinstance(value, type))
        for family in FAMILIES
        if issubclass(member, family.parent) and member.__module__ == module
    ]
    found: list[type[Spec]] = []
    for member, family in made:
        parent_of = [other for other, _ in made if other is not member and issubclass(other, member)]
        if parent_of and not _has_kind(member):
            continue
        _refuse(member, family, f"--code {file}: {member.__name__}")
        same = [other for other in found if kind_of(other) == kind_of(member)]
        if same:
            raise UsageError(
                f"--code {file}: {member.__name__}: {same[0].__name__} has the kind {kind_of(member)!r} already"
            )
        found.append(member)
    return found


def _method(member: type[Spec], name: str) -> Any:
    # Asked as an attribute, `__call__` would be that of the class' own class.
    return next((vars(one)[name] for one in member.__mro__ if name in vars(one)), None)


def _takes_more(method: Any) -> bool:
    """Whether a method takes any argument by name."""
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(method).parameters.values())


def _has_kind(member: type[Spec]) -> bool:
    field = member.model_fields["kind"]
    return "kind" in inspect.get_annotations(member) and isinstance(field.default, str)


def _refuse(member: type[Spec], family: Family, where: str) -> None:
    if not _has_kind(member):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member.__name__).lower()
        raise UsageError(f"{where} has no kind", hint=f'kind: Literal["{name}"] = "{name}"')
    kind, annotation = kind_of(member), member.model_fields["kind"].annotation
    if get_origin(annotation) is not Literal or get_args(annotation) != (kind,):
        raise UsageError(
            f"{where}: its kind must be of the type Literal", hint=f'kind: Literal["{kind}"] = "{kind}"'
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
        raise UsageError(f"{where}: a kind is a word of a-z, 0-9 and _, got {kind!r}")
    taken = {kind_of(known): known for known in find_specs(family.entries)}
    if kind in taken:
        raise UsageError(
            f"{where}: the kind {kind!r} is taken, by kdcli's {taken[kind].__name__}", hint="give it another name"
        )
    if _method(member, family.verb) is _method(family.parent, family.verb):
        raise UsageError(f"{where} has no {family.verb}", hint="kd losses show soft_targets; docs/custom-kinds.md")
    if family.parent is Loss and not _takes_more(_method(member, "__call__")):
        raise UsageError(
            f"{where}: its __call__ must ignore what it does not use",
            hint="def __call__(self, *, student, teacher, **_)",
        )
    if member.model_rebuild(raise_errors=False) is False:
        raise UsageError(f"{where}: the type of a setting is not defined in the file")
