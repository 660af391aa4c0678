"""The objects in a Keras configuration: part of Keras, registered by the user, or refused."""

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
from kdcli.screening.verdict import TRUST_HINT, Finding, quote

_CODE_HINT = f"--code FILE.py registers the class; {TRUST_HINT}"
# Class names that stand for plain values; not `__typespec__` and the like, which name classes of TensorFlow.
VALUES = frozenset(
    "__keras_tensor__ __tensor__ __numpy__ __bytes__ __slice__ __ellipsis__ __tuple__ TensorShape".split()
)
# The data types that an array may have: a string type would allocate as many bytes as its name says.
_NUMERIC_TYPES = frozenset(
    "bool int4 uint4 int8 uint8 int16 uint16 int32 uint32 int64 uint64 float8_e4m3fn float8_e5m2 float16 bfloat16 "
    "float32 float64 complex64 complex128".split()
)
_CODE_CLASSES = {
    "Lambda": "runs Python code that is stored in the file",
    "__lambda__": "is Python code that is stored in the file",
    "TFSMLayer": "loads a SavedModel from a path in the configuration",
    "TorchModuleWrapper": "unpickles a PyTorch module",
    "JaxLayer": "runs functions that are stored in the file",
    "FlaxLayer": "runs functions that are stored in the file",
    "TensorFlowOpLayer": "runs any TensorFlow operation",
}
_PUBLIC_MODULES = frozenset(
    "keras.layers keras keras.models keras.initializers keras.regularizers keras.constraints keras.losses "
    "keras.metrics keras.optimizers keras.optimizers.schedules keras.optimizers.legacy keras.dtype_policies "
    "keras.mixed_precision keras.quantizers keras.random keras.activations builtins".split()
)
_INTERNAL_PREFIXES = ("keras.src.", "keras.engine.", "keras.layers.", "keras.models.", "tf_keras.")
_KERAS_NAMES = LAYERS | MODEL_CLASSES | PARTS | FUNCTIONS
_PATH_KEYS = ("vocabulary", "vocabulary_file", "filepath", "file_path", "filename", "path", "weights")


@dataclass(frozen=True)
class ConfigObject:
    """One object of a configuration.

    Args:
        spec: the mapping with a `class_name`.
        layer: name in messages of the layer that the object is, or belongs to.
    """

    spec: Mapping[str, Any]
    layer: str

    @property
    def kind(self) -> str:
        """The class name; quoted if it is not a plain name."""
        kind = str(self.spec["class_name"])[:80]
        return kind if kind.isidentifier() and kind.isascii() else repr(kind)

    @property
    def module(self) -> str:
        """The module of the class; empty if the file does not name it."""
        module = self.spec.get("module")
        return module if isinstance(module, str) else ""

    @property
    def config(self) -> Mapping[str, Any]:
        """The arguments that the object is created with; empty if they are not a mapping."""
        config = self.spec.get("config")
        return config if isinstance(config, dict) else {}


def find_objects(config: Any) -> Iterator[ConfigObject]:
    """All objects of a configuration, at every depth."""
    waiting: list[tuple[Any, str]] = [(config, "the model")]
    while waiting:
        value, layer = waiting.pop()
        if isinstance(value, dict) and "class_name" in value:
            item = ConfigObject(value, layer)
            name = item.config.get("name", value.get("name"))
            if isinstance(name, str) and item.kind not in PARTS and item.kind not in VALUES:
                layer = quote(name)
            yield ConfigObject(value, layer)
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(one, layer) for one in reversed(inner) if isinstance(one, dict | list)]


def check_object(item: ConfigObject, *, custom_names: Collection[str]) -> Iterator[Finding]:
    """Refuse an object that is not part of Keras, runs code or reads files.

    Args:
        item: from `find_objects`.
        custom_names: names that the user's own code has registered.
    """
    spec, kind = item.spec, item.spec["class_name"]
    # Without a module the class name alone decides, as in files of Keras 2.
    registered = spec.get("registered_name", kind) if "module" in spec else kind
    if not isinstance(kind, str) or not isinstance(registered, str | None):
        yield Finding("class", f"in {item.layer}: the class name is not a string")
    elif kind in VALUES:
        yield from _check_value(item)
    # Keras looks among registered names first, whatever the module says.
    elif registered in custom_names or (kind == "function" and str(spec.get("config")) in custom_names):
        pass
    elif kind in _CODE_CLASSES:
        yield Finding("lambda" if "ambda" in kind else "code", f"{item.layer}: {kind} {_CODE_CLASSES[kind]}")
    elif kind in ("TFOpLambda", "SlicingOpLambda"):
        yield from _check_keras_2_function(item)
    else:
        yield from _check_name(item, kind)
    for key in _PATH_KEYS:
        if isinstance(item.config.get(key), str) and item.kind not in VALUES:
            yield Finding("outside-file", f"{item.layer}: {key} is read from the file {quote(item.config[key])}")


def _check_name(item: ConfigObject, kind: str) -> Iterator[Finding]:
    spec = item.spec
    if "module" not in spec:
        # Files of Keras 1 and 2 only name the class. What Keras 3 does not load from such a file, such as
        # operators, is harmless.
        if kind not in _KERAS_NAMES and kind not in APPLICATIONS and kind not in OPERATIONS:
            yield _not_keras(item, kind)
        return
    module = spec["module"]
    if not isinstance(module, str | None):
        yield Finding("class", f"in {item.layer}: the module of {quote(kind)} is not a string")
    elif kind == "function":
        name = spec.get("config")
        if not isinstance(name, str) or name not in FUNCTIONS or module not in _PUBLIC_MODULES:
            yield _not_keras(item, name if isinstance(name, str) else "function", noun="function")
    elif not _is_keras(module, kind):
        yield _not_keras(item, kind)
    elif spec.get("registered_name") not in (None, kind):
        name = quote(spec["registered_name"])
        yield Finding("class", f"{item.layer}: the Keras class {kind} has another registered name, {name}")


def _is_keras(module: str | None, kind: str) -> bool:
    if module in OPERATION_MODULES:
        return kind in OPERATIONS
    if module in _PUBLIC_MODULES:
        return kind in _KERAS_NAMES
    return str(module).startswith(_INTERNAL_PREFIXES) and (kind in _KERAS_NAMES or kind in APPLICATIONS)


def _not_keras(item: ConfigObject, name: str, *, noun: str = "class") -> Finding:
    module = item.spec.get("module")
    origin = f" of {quote(module)}" if isinstance(module, str) else ""
    message = f"{item.layer}: the {noun} {quote(name)}{origin} is not part of Keras"
    return Finding("class", message, hint=_CODE_HINT)


def _check_value(item: ConfigObject) -> Iterator[Finding]:
    if item.kind in ("__tensor__", "__numpy__") and str(item.config.get("dtype")) not in _NUMERIC_TYPES:
        dtype = quote(item.config.get("dtype"))
        yield Finding("class", f"{item.layer}: an array of the type {dtype} is not numeric")


def _check_keras_2_function(item: ConfigObject) -> Iterator[Finding]:
    name = item.config.get("function", "__operators__.getitem" if item.kind == "SlicingOpLambda" else None)
    safe = isinstance(name, str) and (name in KERAS_2_FUNCTIONS or name.startswith(KERAS_2_PREFIXES))
    if not safe:
        yield Finding("operation", f"{item.layer}: calls the TensorFlow function {quote(name)}")
