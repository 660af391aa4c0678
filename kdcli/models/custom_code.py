"""Custom code: the Python files of `--code`, which define Keras layers or kinds of losses, sources and so on."""

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
    """Run the files that may define kinds, and collect the kinds; this precedes reading a recipe.

    Only a file that imports kdcli can define kinds, because they are subclasses of its classes. The other files
    define Keras classes and may compute something, so they wait for `run_keras_code`, after TensorFlow is set up.

    Raises:
        UsageError: a file is missing, fails or defines nothing, or a kind is invalid.
    """
    members: list[tuple[str, type[Spec]]] = []
    for file in files:
        if not file.is_file():
            raise UsageError(
                f"--code {file}: no such file", hint="give a Python file that defines custom layers or kinds"
            )
        if file.name in [other.name for other in files if other is not file]:
            raise UsageError(
                f"--code {file}: another file has the same name", hint="recipes name files without their folder"
            )
        if not _imports_kdcli(file):
            continue
        namespace, registered = _run(file)
        found = _collect_kinds(namespace, module=file.stem, file=str(file))
        if not found and not registered:
            raise UsageError(
                f"--code {file} defines nothing: no subclass of Loss, FeatureLoss, Source or Augment",
                hint="kd losses check FILE.py checks a file that defines losses",
            )
        for member in found:
            _refuse_repeated(member, file, members)
            members.append((file.name, member))
    return CustomKinds(tuple(members), tuple(files))


def run_keras_code(files: Sequence[Path]) -> None:
    """Run the files that define only classes or functions of Keras models; `find_kinds` has run the others.

    Each class or function is also registered under its bare name, because Keras saves that name for objects
    without a registering decorator.

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
                hint="give a file that defines or imports the classes that the model was saved with",
            )


def select_kind_files(files: Sequence[Path]) -> tuple[Path, ...]:
    """Select the files that `find_kinds` runs, before TensorFlow is set up."""
    return tuple(file for file in files if _imports_kdcli(file))


def list_registered_names() -> frozenset[str]:
    """List the names of custom classes and functions in the configurations of models."""
    return frozenset(keras.saving.get_custom_objects())


@contextmanager
def attribute_errors(files: Sequence[Path]) -> Iterator[None]:
    """Report errors that custom code raises inside the block as usage errors of its file.

    Raises:
        UsageError: with the file, the line and the error.
    """
    try:
        yield
    except Exception as error:
        # kd wraps the errors of losses, and TensorFlow may cut the link to the cause.
        cause = (error.__cause__ or error.__context__) if isinstance(error, KdError) else error
        for file in files:
            if cause is not None and not isinstance(cause, KdError) and _line_in(file, cause):
                raise _code_error(file, cause, hint=f"kd losses check {file} checks the losses in it") from cause
        raise


def _line_in(file: Path, error: BaseException) -> int | None:
    """The last line of a file in the traceback of an error; None when the file is not in it."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return lines[-1] if lines else None


def _describe_error(error: BaseException) -> str:
    """Describe an error in one line."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {summarize_error(error)}"


def _run(file: Path, *, functions: bool = False) -> tuple[Mapping[str, Any], bool]:
    """Run a file; return its namespace, and whether it registered anything with Keras."""
    if _mentions(file, "keras", "tensorflow"):
        # Loading TensorFlow through kd suppresses its log output.
        keras.saving.get_custom_objects()
    known = dict(_get_registered())
    try:
        namespace = runpy.run_path(str(file), run_name=file.stem)
    # Custom code may raise anything, even SystemExit.
    except (Exception, SystemExit) as error:
        raise _code_error(file, error) from error
    if "keras" in sys.modules:
        _register_bare(namespace, module=file.stem, functions=functions)
    found = _get_registered()
    return namespace, any(known.get(name) is not found[name] for name in found)


def _register_bare(namespace: Mapping[str, Any], *, module: str, functions: bool) -> None:
    """Register classes under their bare names, and the file's functions unless Keras has one of that name."""
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
            custom = member.__module__.split(".")[0] not in ("keras", "keras_hub", "tf_keras", "tensorflow")
        else:
            custom = functions and isinstance(member, FunctionType) and member.__module__ == module
            custom = custom and member.__name__ not in FUNCTIONS
        if custom:
            known[member.__name__] = member


def _get_registered() -> Mapping[str, Any]:
    return keras.saving.get_custom_objects() if "keras" in sys.modules else {}


def _code_error(file: Path, error: BaseException, *, hint: str | None = None) -> UsageError:
    line = _line_in(file, error)
    location = f"{file}:{line}" if line else str(file)
    hint = hint or f"python {file} shows the traceback"
    return UsageError(f"--code {location}: {_describe_error(error)}", hint=hint)


def _refuse_repeated(member: type[Spec], file: Path, before: Sequence[tuple[str, type[Spec]]]) -> None:
    for other_file, other in before:
        if kind_of(other) == kind_of(member):
            raise UsageError(
                f"--code {file}: {member.__name__}: {other_file} already defines the kind {kind_of(member)!r}"
            )


def _imports_kdcli(file: Path) -> bool:
    return _mentions(file, "kdcli")


def _mentions(file: Path, *packages: str) -> bool:
    """Whether a file imports one of these packages."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise _code_error(file, error) from error
    except OSError as error:
        raise UsageError(f"--code {file}: cannot be read: {error.strerror}") from None
    named = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    named += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] in packages for name in named)


@dataclass(frozen=True)
class _Family:
    """A class whose subclasses are kinds.

    Args:
        parent: the class.
        entries: the type of a recipe's entries, a union of all built-in kinds.
        verb: the method that each kind must define.
    """

    parent: type[Spec]
    entries: Any
    verb: str


_FAMILIES = (
    _Family(Loss, AnyLoss, "__call__"),
    _Family(Source, AnySource, "load"),
    _Family(Augment, AnyAugment, "__call__"),
)


def _collect_kinds(namespace: Mapping[str, Any], *, module: str, file: str) -> list[type[Spec]]:
    """Collect the kinds that a file defines, in order.

    Args:
        namespace: the file's names.
        module: module name of the classes that the file defines.
        file: what messages call the file.

    Raises:
        UsageError: an invalid kind.
    """
    candidates = [
        (member, family)
        for member in dict.fromkeys(value for value in namespace.values() if isinstance(value, type))
        for family in _FAMILIES
        if issubclass(member, family.parent) and member.__module__ == module
    ]
    found: list[type[Spec]] = []
    for member, family in candidates:
        has_subclass = any(other is not member and issubclass(other, member) for other, _ in candidates)
        if has_subclass and not _has_kind(member):
            continue
        where = f"--code {file}: {member.__name__}"
        _check_kind(member, family, where)
        for other in found:
            if kind_of(other) == kind_of(member):
                raise UsageError(f"{where}: {other.__name__} already defines the kind {kind_of(member)!r}")
        found.append(member)
    return found


def _find_method(member: type[Spec], name: str) -> Any:
    # As an attribute of the class, `__call__` would be that of its metaclass.
    return next((vars(one)[name] for one in member.__mro__ if name in vars(one)), None)


def _accepts_any_keyword(method: Any) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(method).parameters.values())


def _has_kind(member: type[Spec]) -> bool:
    field = member.model_fields["kind"]
    return "kind" in inspect.get_annotations(member) and isinstance(field.default, str)


def _check_kind(member: type[Spec], family: _Family, where: str) -> None:
    if not _has_kind(member):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member.__name__).lower()
        raise UsageError(f"{where} has no kind", hint=f'kind: Literal["{name}"] = "{name}"')
    kind, annotation = kind_of(member), member.model_fields["kind"].annotation
    if get_origin(annotation) is not Literal or get_args(annotation) != (kind,):
        raise UsageError(f"{where}: the type of kind must be Literal", hint=f'kind: Literal["{kind}"] = "{kind}"')
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
        raise UsageError(f"{where}: the name of a kind consists of a-z, 0-9 and _ (got {kind!r})")
    taken = {kind_of(known): known for known in find_specs(family.entries)}
    if kind in taken:
        raise UsageError(
            f"{where}: kdcli's {taken[kind].__name__} already defines the kind {kind!r}",
            hint="choose another name",
        )
    if _find_method(member, family.verb) is _find_method(family.parent, family.verb):
        raise UsageError(
            f"{where} has no {family.verb} method", hint="kd losses show soft_targets; docs/custom-kinds.md"
        )
    if family.parent is Loss and not _accepts_any_keyword(_find_method(member, "__call__")):
        raise UsageError(
            f"{where}: __call__ must accept and ignore arguments that it does not use",
            hint="def __call__(self, *, student, teacher, **_)",
        )
    if member.model_rebuild(raise_errors=False) is False:
        raise UsageError(f"{where}: the type of a setting is not defined in the file")
