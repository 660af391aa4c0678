"""Files of Keras 2 as Keras 3 graphs: rebuilt from the configuration and the weights that they hold.

A model of Keras 2 opens as a frozen graph, which has no layers to shrink. If all of its layers exist in Keras 3,
it is built again, and accepted only if it computes what the frozen graph computes.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import ModelError, summarize_error
from kdcli.lazy import keras, tf
from kdcli.models.files.format import SAVED_MODEL
from kdcli.models.files.load import load_keras_2_weights
from kdcli.models.keras.inputs import describe_inputs
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.random_inputs import draw_input
from kdcli.screening.saved_model.proto import parse_message
from kdcli.tensors import KerasModel

_METADATA, _CHECKPOINT = "keras_metadata.pb", "variables/variables"
# Layers that run code of the file.
_REFUSED = ("Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# Values that have no effect in an argument unknown to Keras 3.
_NEUTRAL: tuple[Any, ...] = (None, False, 1, 2, "auto", "channels_last", [])
_RENAMED = {"batch_input_shape": "batch_shape"}
# The largest difference from the frozen graph, relative to the largest output, and the examples compared.
_TOLERANCE, _EXAMPLES = 1e-4, 8


def rebuild_keras_2(path: Path, form: str, frozen: Network, *, name: str) -> KerasNetwork:
    """Rebuild a Keras 2 file as a Keras 3 graph.

    Args:
        path: the screened copy.
        form: `h5`, or `saved_model` with the metadata of Keras 2.
        frozen: the same file as a frozen graph.
        name: name of the model in messages.

    Raises:
        ModelError: no configuration, a layer that Keras 3 does not have, or other outputs than the frozen graph's.
    """
    try:
        class_name, config = _read_config(path, form)
        kind = keras.Sequential if class_name == "Sequential" else keras.Model
        config = _translate(config)
        model = kind.from_config(copy.deepcopy(config), custom_objects=_list_model_classes())
        if not model.built:
            model.build((None, *frozen.inputs[0].shape))
        if form == SAVED_MODEL:
            _load_checkpoint(model, config, path)
        else:
            load_keras_2_weights(model, path)
        network = KerasNetwork(model, name=name, output=None if len(model.outputs) == 1 else frozen.output_name)
        difference = _compare(network, frozen)
    # The configuration and the weights of a file may be anything.
    except Exception as error:
        raise _refuse(name, summarize_error(error)) from error
    if not difference <= _TOLERANCE:
        raise _refuse(name, f"its outputs differ from the file's by {difference:.2g}")
    return network


def _list_model_classes() -> dict[str, Any]:
    """The classes of models in a configuration."""
    return {"Functional": keras.Model, "Model": keras.Model, "Sequential": keras.Sequential}


def _refuse(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name}: cannot be rebuilt as a Keras 3 graph, so it cannot be shrunk: {reason:.200}",
        hint="save it as a .keras file with Keras 3, or choose a zoo student: kd inspect zoo:cnn --data D",
    )


def _read_config(path: Path, form: str) -> tuple[str, dict[str, Any]]:
    """Class and configuration of the model: an attribute of a `.h5` file, or the root of a SavedModel's metadata.

    Raises:
        ValueError: there is none.
    """
    if form == SAVED_MODEL:
        file = path / _METADATA
        if not file.is_file():
            raise ValueError("a SavedModel without Keras metadata does not list its layers")
        root = next(node for node in _parse_metadata(file.read_bytes()) if node.node_path == "root")
        entry = json.loads(root.metadata)
        entry = entry.get("model_config") or entry
        return str(entry["class_name"]), dict(entry["config"])
    import h5py

    with h5py.File(path, "r") as content:
        text = content.attrs.get("model_config")
    if text is None:
        raise ValueError("the file holds weights only")
    entry = json.loads(text)
    return str(entry["class_name"]), dict(entry["config"])


def _parse_metadata(content: bytes) -> Any:
    """The nodes of `keras_metadata.pb`, whose published message definition is repeated here."""
    _ = tf.__version__
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="kd_saved_metadata.proto", package="kd")
    node = file.message_type.add(name="SavedObject")
    fields = descriptor_pb2.FieldDescriptorProto
    for number, field in ((2, "node_id"), (3, "node_path"), (4, "identifier"), (5, "metadata")):
        kind = fields.TYPE_INT32 if field == "node_id" else fields.TYPE_STRING
        node.field.add(name=field, number=number, type=kind, label=fields.LABEL_OPTIONAL)
    metadata = file.message_type.add(name="SavedMetadata")
    metadata.field.add(
        name="nodes", number=1, type=fields.TYPE_MESSAGE, type_name=".kd.SavedObject", label=fields.LABEL_REPEATED
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return (
        message_factory.GetMessageClass(pool.FindMessageTypeByName("kd.SavedMetadata")).FromString(content).nodes
    )


def _translate(config: Any) -> Any:
    """Translate a configuration: settings that Keras 3 does not know are dropped if their value has no effect.

    Raises:
        ValueError: a layer or a setting that Keras 3 does not have.
    """
    if isinstance(config, list):
        return [_translate(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") in ("__tuple__", "TensorShape"):
        return _translate(config["items"])
    values = {
        key: _translate(value) for key, value in config.items() if key not in ("build_config", "shared_object_id")
    }
    for key in ("input_layers", "output_layers"):
        # Keras 3 tells a model with one input from one with a list of them.
        if len(values.get(key, ())) == 1:
            (values[key],) = values[key]
    kind = _find_class(values)
    if kind is None:
        return values
    module = {"module": "keras.layers", "registered_name": None}
    return {**values, **module, "config": _select_arguments(kind, values["config"])}


def _find_class(entry: dict[str, Any]) -> Any:
    """The class of a layer's entry; None for a model, and for any other entry."""
    if not {"class_name", "config"} <= entry.keys() or not isinstance(entry["config"], dict):
        return None
    name = str(entry["class_name"])
    if name in _list_model_classes():
        return None
    found = getattr(keras.layers, name, None)
    if found is None or name in _REFUSED:
        is_layer = "inbound_nodes" in entry or "name" in entry["config"]
        if is_layer and name not in ("Policy", "DTypePolicy"):
            raise ValueError(f"layer {name} does not exist in Keras 3, or kd does not run it")
        return None
    return found


def _select_arguments(kind: Any, config: dict[str, Any]) -> dict[str, Any]:
    known = {
        name
        for one in kind.__mro__
        if "__init__" in vars(one)
        for name in inspect.signature(one.__init__).parameters
    } | {"name", "trainable", "dtype"}
    selected = {}
    for key, value in config.items():
        key = _RENAMED.get(key, key)
        if key == "dtype" and isinstance(value, dict):
            value = value["config"]["name"]
        if key == "axis" and isinstance(value, list) and len(value) == 1:
            value = value[0]
        if key in known and not (key == "batch_shape" and kind is not keras.layers.InputLayer):
            selected[key] = value
        elif key != "batch_shape" and value not in _NEUTRAL:
            raise ValueError(f"{kind.__name__} in Keras 3 has no setting {key} (here {value!r})")
    return selected


def _load_checkpoint(model: KerasModel, config: dict[str, Any], folder: Path) -> None:
    """Assign the weights of a SavedModel, whose root lists them in the order of its layers.

    Raises:
        ValueError: there are more or fewer, or one has another shape.
    """
    values = list(_read_variables(folder))
    weights = list(_list_weights(model, config))
    if [value.shape for value in values] != [tuple(weight.shape) for weight in weights]:
        raise ValueError("its weights do not fit its layers")
    for weight, value in zip(weights, values, strict=True):
        weight.assign(value)


def _read_variables(folder: Path) -> Iterator[np.ndarray]:
    graph = parse_message("SavedModel", (folder / "saved_model.pb").read_bytes()).meta_graphs[0].object_graph_def
    reader = tf.train.load_checkpoint(str(folder / _CHECKPOINT))
    saved = parse_message("TrackableObjectGraph", reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    children = {child.local_name: child.node_id for child in graph.nodes[0].children}
    listed = {int(child.local_name): child.node_id for child in graph.nodes[children["variables"]].children
              if child.local_name.isdecimal()}  # fmt: skip
    for number in sorted(listed):
        (attribute,) = saved.nodes[listed[number]].attributes
        yield np.asarray(reader.get_tensor(attribute.checkpoint_key))


def _list_weights(model: KerasModel, config: dict[str, Any]) -> Iterator[Any]:
    """The weights of a model in the order of the layers in its configuration, as Keras 2 lists them."""
    for entry in config["layers"]:
        name = entry["config"]["name"]
        if entry["class_name"] == "InputLayer":
            continue
        layer = model.get_layer(name)
        if isinstance(layer, keras.Model):
            yield from _list_weights(layer, entry["config"])
        else:
            yield from [*layer.trainable_weights, *layer.non_trainable_weights]


def _compare(network: KerasNetwork, frozen: Network) -> float:
    """The largest difference between both on random inputs, relative to the largest output."""
    generator = np.random.default_rng(0)
    inputs = {spec.name: draw_input(spec, _EXAMPLES, generator) for spec in frozen.inputs}
    structure, _ = describe_inputs(network.model, network.name)
    given = keras.tree.pack_sequence_as(structure, list(inputs.values()))
    ours = keras.tree.flatten(network.model(given, training=False))
    theirs = _call_frozen(frozen, inputs)
    expected, found = np.asarray(theirs, np.float64), np.asarray(ours[network.output_index], np.float64)
    if expected.shape != found.shape:
        return np.inf
    return float(np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-12))


def _call_frozen(frozen: Network, inputs: dict[str, np.ndarray]) -> Any:
    """The output of a frozen graph for inputs that need no preprocessing."""
    from kdcli.models.preprocessing import Preprocessing

    identity = {
        name: Preprocessing(value.shape[1:], str(value.dtype), value.shape[1:], str(value.dtype), "raw")
        for name, value in inputs.items()
    }
    return frozen.with_preprocessing(identity).compute_saved_output(inputs)
