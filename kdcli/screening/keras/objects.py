"""The objects that a Keras configuration asks for: Keras' own, registered by the user, or refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdcli.screening.keras.allowed_names import (
    APPLICATIONS,
    FUNCTIONS,
    KERAS_2_FUNCTIONS,
    KERAS_2_PREFIXES,
    LAYERS,
    MODEL_CLASSES,
    OPERATION_MODULES,
    OPERATIONS,
    PARTS,
)
from kdcli.screening.verdict import TRUST_HINT, Finding

BRING = f"--code FILE.py brings the class; {TRUST_HINT}"
# Values that are no objects; `__typespec__` and the like name classes of TensorFlow and are not among them.
VALUES = frozenset(
    "__keras_tensor__ __tensor__ __numpy__ __bytes__ __slice__ __ellipsis__ __tuple__ TensorShape".split()
)
# What an array may consist of: a string type would allocate whatever its name says.
_NUMBERS = frozenset(
    "bool int4 uint4 int8 uint8 int16 uint16 int32 uint32 int64 uint64 float8_e4m3fn float8_e5m2 float16 bfloat16 "
    "float32 float64 complex64 complex128".split()
)
_CODE = {
    "Lambda": "runs Python code that lies in the file",
    "__lambda__": "is Python code that lies in the file",
    "TFSMLayer": "loads a SavedModel from a path of its own",
    "TorchModuleWrapper": "unpickles a PyTorch module",
    "JaxLayer": "runs functions of the file",
    "FlaxLayer": "runs functions of the file",
    "TensorFlowOpLayer": "runs any operation of TensorFlow",
}
_PUBLIC = frozenset(
    "keras.layers keras keras.models keras.initializers keras.regularizers keras.constraints keras.losses "
    "keras.metrics keras.optimizers keras.optimizers.schedules keras.optimizers.legacy keras.dtype_policies "
    "keras.mixed_precision keras.quantizers keras.random keras.activations builtins".split()
)
_INTERNAL = ("keras.src.", "keras.engine.", "keras.layers.", "keras.models.", "tf_keras.")
_OWN = LAYERS | MODEL_CLASSES | PARTS | FUNCTIONS
_KEYS_OF_PATHS = ("vocabulary", "vocabulary_file", "filepath", "file_path", "filename", "path", "weights")


@dataclass(frozen=True)
class Found:
    """One object of a configuration.

    Args:
        spec: the mapping that has a `class_name`.
        layer: the layer that it is, or belongs to.
    """

    spec: Mapping[str, Any]
    layer: str

    @property
    def kind(self) -> str:
        """Its class; quoted where that is no plain name."""
        kind = str(self.spec["class_name"])[:80]
        return kind if kind.isidentifier() and kind.isascii() else repr(kind)

    @property
    def module(self) -> str:
        """Where its class is said to be; empty where nothing is said."""
        module = self.spec.get("module")
        return module if isinstance(module, str) else ""

    @property
    def config(self) -> Mapping[str, Any]:
        """What it is made with; empty where that is no mapping."""
        config = self.spec.get("config")
        return config if isinstance(config, dict) else {}


def objects_of(config: Any) -> Iterator[Found]:
    """All objects of a configuration, however deep they lie."""
    waiting: list[tuple[Any, str]] = [(config, "the model")]
    while waiting:
        held, layer = waiting.pop()
        if isinstance(held, dict):
            if "class_name" in held:
                found = Found(held, layer)
                name = found.config.get("name", held.get("name"))
                if isinstance(name, str) and found.kind not in PARTS and found.kind not in VALUES:
                    layer = quote(name)
                yield Found(held, layer)
            waiting += [(value, layer) for value in reversed(held.values()) if isinstance(value, dict | list)]
        elif isinstance(held, list):
            waiting += [(value, layer) for value in reversed(held) if isinstance(value, dict | list)]


def check_object(found: Found, *, code: Collection[str]) -> Iterator[Finding]:
    """Refuse an object that is not Keras' own, runs code or reads files.

    Args:
        found: from `objects_of`.
        code: names that the user's own files have registered.
    """
    spec, kind = found.spec, found.spec["class_name"]
    # Without a module the class alone decides, as Keras 2 wrote it.
    registered = spec.get("registered_name", kind) if "module" in spec else kind
    if not isinstance(kind, str) or not isinstance(registered, str | None):
        yield Finding("class", f"in {found.layer}: the name of a class is no text")
    elif kind in VALUES:
        yield from _value(found)
    # Keras looks there first, whatever the module says.
    elif registered in code or (kind == "function" and str(spec.get("config")) in code):
        pass
    elif kind in _CODE:
        yield Finding("lambda" if "ambda" in kind else "code", f"{found.layer}: {kind} {_CODE[kind]}")
    elif kind in ("TFOpLambda", "SlicingOpLambda"):
        yield from _keras_2_function(found)
    else:
        yield from _named(found, kind)
    for key in _KEYS_OF_PATHS:
        if isinstance(found.config.get(key), str) and kind not in VALUES:
            path = quote(found.config[key])
            yield Finding("outside-file", f"{found.layer}: {key} is read from the file {path}")


def _named(found: Found, kind: str) -> Iterator[Finding]:
    spec = found.spec
    if "module" not in spec:
        # Files of Keras 1 and 2, where the class alone says it.
        # What Keras 3 does not load from such a file, such as operators, does no harm either.
        if kind not in _OWN and kind not in APPLICATIONS and kind not in OPERATIONS:
            yield _unknown(found, kind)
        return
    module = spec["module"]
    if not isinstance(module, str | None):
        yield Finding("class", f"in {found.layer}: the module of {quote(kind)} is no text")
    elif kind == "function":
        name = spec.get("config")
        if not isinstance(name, str) or name not in FUNCTIONS or module not in _PUBLIC:
            yield _unknown(found, name if isinstance(name, str) else "function", "function")
    elif not _is_keras(module, kind):
        yield _unknown(found, kind)
    elif spec.get("registered_name") not in (None, kind):
        name = quote(spec["registered_name"])
        yield Finding("class", f"{found.layer}: Keras' own {kind} stands under another name, {name}")


def _is_keras(module: str | None, kind: str) -> bool:
    if module in OPERATION_MODULES:
        return kind in OPERATIONS
    if module in _PUBLIC:
        return kind in _OWN
    return str(module).startswith(_INTERNAL) and (kind in _OWN or kind in APPLICATIONS)


def _unknown(found: Found, kind: str, noun: str = "class") -> Finding:
    module = found.spec.get("module")
    of = f" of {quote(module)}" if isinstance(module, str) else ""
    return Finding(
        "class", f"{found.layer}: the {noun} {quote(kind)}{of} is not one that Keras brings", hint=BRING
    )


def _value(found: Found) -> Iterator[Finding]:
    if found.kind in ("__tensor__", "__numpy__") and str(found.config.get("dtype")) not in _NUMBERS:
        yield Finding("class", f"{found.layer}: an array of {quote(found.config.get('dtype'))}, not of numbers")


def _keras_2_function(found: Found) -> Iterator[Finding]:
    name = found.config.get("function", "__operators__.getitem" if found.kind == "SlicingOpLambda" else None)
    safe = isinstance(name, str) and (name in KERAS_2_FUNCTIONS or name.startswith(KERAS_2_PREFIXES))
    if not safe:
        yield Finding("operation", f"{found.layer}: it calls the function {quote(name)} of TensorFlow")


def quote(text: Any) -> str:
    """A text of the file, in quotes and no longer than a message bears."""
    return repr(text if len(str(text)) <= 80 else str(text)[:77] + "...")
