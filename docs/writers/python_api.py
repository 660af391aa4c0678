"""Signatures and arguments of the public Python functions and classes."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, is_typeddict

import kdcli
from writers.markdown import arguments, sections, table


def functions() -> str:
    """One section for each public function."""
    return _shown("\n".join(_function(name, member) for name, member in _public() if inspect.isfunction(member)))


def classes() -> str:
    """One section for each public class."""
    return _shown("\n".join(_class(name, member) for name, member in _public() if inspect.isclass(member)))


def _shown(text: str) -> str:
    """A text with public names only: a module that users do not import is left out."""

    def short(match: re.Match[str]) -> str:
        return f"kdcli.{match[1]}" if match[1] in kdcli.__all__ else match[1]

    return re.sub(r"\bkdcli\.(?:\w+\.)+([A-Z]\w*)", short, text)


def _public() -> list[tuple[str, Any]]:
    return [(name, getattr(kdcli, name)) for name in sorted(kdcli.__all__, key=str.lower)]


def _function(name: str, function: Any) -> str:
    docs = sections(function.__doc__ or "")
    text = [f"### kdcli.{name}", "", "```python", f"kdcli.{name}{_signature(function)}", "```", "", docs[""], ""]
    rows = _rows(function)
    for options in _option_classes(function):
        named = re.compile(r"(those|options) of `[^`]+`( and `[^`]+`)?")
        rows = [[name, named.sub("the arguments below", text)] for name, text in rows]
        rows += _rows(options)
    text += [table(["argument", "meaning"], rows)] if rows else []
    for heading in ("Returns", "Raises"):
        if heading in docs:
            text += [f"{heading}: {' '.join(docs[heading].split())}", ""]
    if "Example" in docs:
        example = re.sub(r"\s*# doctest: \+SKIP", "", inspect.cleandoc("\n" + docs["Example"]))
        code = re.sub(r"^>>> ", "", example, flags=re.MULTILINE)
        # As the formatter has it.
        text += ["```python", re.sub(r"^(import \w+\n)(?=\S)", r"\1\n", code), "```", ""]
    return "\n".join(text)


def _class(name: str, member: Any) -> str:
    docs = sections(member.__doc__ or "")
    rows = _rows(member)
    text = [f"### kdcli.{name}", "", docs[""], ""]
    return "\n".join([*text, table(["field", "meaning"], rows)] if rows else text)


def _rows(member: Any) -> list[list[str]]:
    """The arguments that a docstring describes."""
    return [
        [", ".join(f"`{one}`" for one in names.split(", ") if one), meaning]
        for names, meaning in arguments(member.__doc__ or "")
    ]


def _option_classes(function: Any) -> list[Any]:
    """The typed dictionary of a function's `**options: Unpack[...]`, after those that it extends."""
    for argument in inspect.signature(function).parameters.values():
        match = re.fullmatch(r"Unpack\[(\w+)\]", str(argument.annotation))
        if match:
            options = function.__globals__[match[1]]
            # At run time a typed dictionary does not know its parents.
            near = filter(is_typeddict, vars(sys.modules[options.__module__]).values())
            found = [one for one in near if one.__annotations__.keys() <= options.__annotations__.keys()]
            return sorted(found, key=lambda one: len(one.__annotations__))
    return []


def _signature(function: Any) -> str:
    """One argument a line, with plain type names."""
    lines, star = [], False
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is argument.KEYWORD_ONLY and not star:
            lines, star = [*lines, "*"], True
        star = star or argument.kind is argument.VAR_POSITIONAL
        annotation = argument.annotation if isinstance(argument.annotation, str) else ""
        typed = f": {annotation}" if annotation and annotation != "Any" else ""
        default = "" if argument.default is argument.empty else f" = {_default(argument.default)}"
        prefix = {argument.VAR_POSITIONAL: "*", argument.VAR_KEYWORD: "**"}.get(argument.kind, "")
        lines.append(f"{prefix}{argument.name}{typed}{default}")
    result = inspect.signature(function).return_annotation
    returns = f" -> {result}" if isinstance(result, str) else ""
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f"){returns}" if lines else f"(){returns}"


def _default(value: Any) -> str:
    if inspect.isfunction(value):
        return str(value.__name__)
    # A record is shown by the call that makes it.
    return repr(value) if type(value).__module__ == "builtins" else f"{type(value).__name__}()"
