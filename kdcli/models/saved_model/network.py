"""SavedModels as `Network`s: through their frozen graph, or through a signature that cannot be frozen."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import ops, tf
from kdcli.models.batching import map_in_batches
from kdcli.models.network import Network, Outputs, TapRoles, TensorSpec
from kdcli.models.preprocessing import Preprocessing, preprocess
from kdcli.models.saved_model.frozen_graph import FrozenGraph, GraphTensor
from kdcli.models.saved_model.function import GraphFunction, save_function, select_float_weights
from kdcli.models.saved_model.graph_part import GraphReader
from kdcli.models.saved_model.inputs_outputs import (
    check_batch_size,
    choose_graph_output,
    find_output_shape,
    make_input_specs,
    require_fixed_values,
)
from kdcli.tensors import Tensor, Tensors, Variable

_INFERENCE = (
    "a SavedModel is trained as it computes: BatchNorm statistics stay fixed and dropout is off; it is saved as a "
    "SavedModel again"
)


class SavedModelNetwork(Network):
    """A signature of a SavedModel.

    `signature` is the name of the signature, `signatures` the names of all. `decoded_images` is the first tensor
    of images in a graph that decodes files; None for every other model.

    Args:
        frozen: result of the freezing process.
        name: name of the model in messages.
        output: name of the output; may be omitted if there is only one.
        values: the fixed values of inputs.
        section: `teacher` or `student`, for hints.

    Raises:
        UsageError: several outputs and none chosen, or no such output.
        ModelError: an output that does not hold floats.
    """

    decoded_images: str | None = None

    def __init__(
        self,
        frozen: FrozenGraph,
        *,
        name: str,
        output: str | None = None,
        values: Mapping[str, Any] | None = None,
        section: str = "student",
    ) -> None:
        self.name = name
        self._values, self._section = dict(values or {}), section
        self.signature, self.signatures = frozen.signature, frozen.signatures
        self.all_outputs = tuple(
            TensorSpec(result.name, tuple((result.shape or (None,))[1:]), result.dtype)
            for result in frozen.outputs
        )
        self._parameters = frozen.parameters
        self._feeds = frozen.inputs
        self._output = choose_graph_output(frozen, output, name=name)
        self.output_name = self._output.name
        self._random_notes = (
            (f"{name} draws random numbers: the same example gives different outputs",) if frozen.random else ()
        )

    @property
    def parameters(self) -> int:
        """Number of float weights."""
        return self._parameters

    @property
    def reading(self) -> dict[str, str]:
        """How raw examples go in, through which signature, and how logits are read."""
        feeds = ", ".join(feed.tensor for feed in self._feeds)
        fixed = f" with {json.dumps(self._values, sort_keys=True)}" if self._values else ""
        return {**super().reading, "signature": f"{self.signature} from {feeds}{fixed}"}

    def with_preprocessing(self, preprocessing: Mapping[str, Preprocessing]) -> Self:
        """The same network with preprocessing for each raw input.

        Raises:
            ModelError: the network takes strings, for example the bytes of image files.
        """
        if any(spec.dtype == "string" for spec in self.inputs):
            what = "the bytes of image files" if self.decoded_images else "strings"
            raise ModelError(f"{self.name} takes {what}, the data has numbers", hint=self._suggest_start())
        return super().with_preprocessing(preprocessing)

    def compute_saved_output(self, raw: Tensors) -> Tensor:
        """The output of the saved model, including its last activation."""
        return self._restore_shape(self._fetch(raw, [self._output_tensor])[0])

    @property
    @abstractmethod
    def _output_tensor(self) -> str:
        """The name by which the output is fetched."""

    @abstractmethod
    def _call(self, inputs: Sequence[Tensor], fetches: Sequence[str]) -> list[Tensor]:
        """The tensors `fetches` for one batch of preprocessed inputs, in the order of the feeds."""

    def _fetch(self, raw: Tensors, fetches: Sequence[str]) -> list[Tensor]:
        prepared = preprocess(self.preprocessing, raw)
        inputs = [prepared[feed.name] for feed in self._feeds] if isinstance(prepared, dict) else [prepared]
        if self.batch is None or all(tensor.shape[0] == self.batch for tensor in inputs):
            return self._call(inputs, fetches)
        return map_in_batches(lambda batch: self._call(batch, fetches), inputs, size=self.batch)

    def _restore_shape(self, output: Tensor) -> Tensor:
        """The output, or the logits behind it, in float32 and in the shape of the output."""
        output = ops.cast(output, "float32")
        if tuple(output.shape[1:]) != self.output_shape and self.output_shape.count(None) == 0:
            output = tf.reshape(output, (-1, *self.output_shape))
        output.set_shape((None, *self.output_shape))
        return output

    def _set_inputs(self) -> None:
        """Set the attributes that follow from the feeds."""
        require_fixed_values(self._feeds, name=self.name, section=self._section)
        self.batch = check_batch_size(self._feeds, name=self.name, hint=self._suggest_start())
        self.inputs = make_input_specs(self._feeds)

    def _suggest_start(self) -> str | None:
        if self.decoded_images is None:
            return None
        return f"--set {self._section}.input.tensor={self.decoded_images} starts after decoding"


class FrozenNetwork(SavedModelNetwork):
    """The frozen graph of a SavedModel's signature: its inner tensors are taps, its variables can be trained.

    Args:
        frozen: result of the freezing process.
        name: name of the model in messages.
        output: name of the output; may be omitted if there is only one.
        start_at: tap or tensor from which the network starts, instead of the signature's inputs.
        values: values of the inputs that were fixed when the graph was frozen.
        section: `teacher` or `student`, for hints.
        trainable: whether the constants that were variables become variables again.

    Raises:
        UsageError: several outputs and none chosen, or no such output or tensor.
        ModelError: not frozen, no batch axis, an output of unknown size, or a graph that cannot be trained.
    """

    def __init__(
        self,
        frozen: FrozenGraph,
        *,
        name: str,
        output: str | None = None,
        start_at: str | None = None,
        values: Mapping[str, Any] | None = None,
        section: str = "student",
        trainable: bool = False,
    ) -> None:
        super().__init__(frozen, name=name, output=output, values=values, section=section)
        if frozen.graph is None:
            action = "be trained" if trainable else "start at an inner tensor"
            raise ModelError(
                f"{name} cannot {action}: {frozen.unfrozen_reason}", hint="it can teach by its outputs"
            )
        graph = tf.compat.v1.GraphDef.FromString(frozen.graph)
        weights = select_float_weights(graph, frozen.weights)
        self._reader = GraphReader(graph, weights, self._output, name=name, exported=frozen.exported)
        notes = []
        if any(feed.dtype == "string" for feed in self._feeds):
            self.decoded_images = self._reader.find_decoded_images(self._feeds)
        if start_at is not None:
            self._feeds = (self._reader.find_start(start_at, self._feeds),)
            notes.append(f"{name} starts at its tensor {start_at}")
        self._set_inputs()
        if trainable:
            _check_trainable(frozen, name=name)
            notes.append(_INFERENCE)
        if self.batch is not None:
            notes.append(f"{name} runs in batches of {self.batch}, the size it was saved with")
        self._function = GraphFunction(graph, self._feeds, weights=weights, trainable=trainable)
        # A graph that starts at an inner tensor may lack what the other outputs need.
        self._saved_outputs = (self._output,) if start_at else frozen.outputs
        self._read(self._feeds)
        self.outputs = int(self.output_shape[-1] or 0)
        self.saved_kind = self._last.kind if self._last else "logits"
        self.output_kind = "sigmoid" if self.saved_kind == "sigmoid" else "logits"
        self._skip_activation(self.saved_kind)
        self.notes = (*notes, *self._random_notes)

    @property
    def variables(self) -> list[Variable]:
        """The weights of a trainable network."""
        return [weight.variable for weight in self._function.weights]

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that training changes."""
        return [variable for variable in self.variables if variable.trainable]

    def with_output_kinds(self, kind: str, *, output_kind: str) -> Self:
        """The same network, with its saved output read as `kind` and its logits as `output_kind`."""
        other = super().with_output_kinds(kind, output_kind=output_kind)
        other._skip_activation(kind)
        return other

    def with_preprocessing(self, preprocessing: Mapping[str, Preprocessing]) -> Self:
        """The same network with preprocessing for each raw input.

        Raises:
            ModelError: the network takes strings, for example the bytes of image files.
        """
        other = super().with_preprocessing(preprocessing)
        if any(None in spec.shape for spec in self.inputs):
            # The sizes of the features are known only with the data.
            only = next(iter(preprocessing.values()))
            shapes = [preprocessing.get(spec.name, only).preprocessed_shape for spec in self.inputs]
            feeds = zip(self._feeds, shapes, strict=True)
            other._read([replace(feed, shape=(self.batch, *shape)) for feed, shape in feeds])
        return other

    def compute(self, raw: Tensors, *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """The outputs for raw inputs; the graph computes the same in training."""
        source = self._last.logits if self._bare and self._last else self._output_tensor
        tensors = self._fetch(raw, [source, *(self._tap_tensors[tap].tensor for tap in taps)])
        features = dict(zip(taps, tensors[1:], strict=True))
        for tap, feature in features.items():
            feature.set_shape((None, *self.taps[tap]))
        return Outputs(self._as_logits(self._restore_shape(tensors[0])), features)

    def compute_before_weights(self, raw: Tensors) -> np.ndarray | None:
        """The tensor that the first operation with weights takes, for raw examples."""
        if self._first is None:
            return None
        if self._first.startswith("kd_feed_"):
            prepared = preprocess(self.preprocessing, raw)
            return None if isinstance(prepared, dict) else ops.convert_to_numpy(prepared)
        return ops.convert_to_numpy(self._fetch(raw, [self._first])[0])

    def save(self, folder: Path) -> None:
        """Write the trained weights as a SavedModel with the same signature, arguments, results and types.

        Raises:
            ModelError: the network was not opened for training.
        """
        if not self._function.weights:
            raise ModelError(f"{self.name}: only a SavedModel that was opened for training can be saved again")
        save_function(self._function, folder, signature=self.signature, outputs=self._saved_outputs)

    @property
    def _output_tensor(self) -> str:
        return self._output.tensor

    def _call(self, inputs: Sequence[Tensor], fetches: Sequence[str]) -> list[Tensor]:
        return self._function(inputs, fetches)

    def _skip_activation(self, kind: str) -> None:
        """Read logits before the graph's own softmax or sigmoid, if the output is read as its result."""
        self._bare = self._last.operation if self._last and kind not in ("values", "logits") else None

    def _read(self, feeds: Sequence[GraphTensor]) -> None:
        """Set the attributes that follow from the shapes of the inputs."""
        part = self._reader.read_part(feeds, batch=self.batch, function=self._function)
        self.output_shape = part.output_shape
        self._last, self._first, self._tap_tensors = part.last, part.first, part.taps
        self.taps = {name: tap.shape for name, tap in part.taps.items()}
        self.secondary = frozenset(name for name, tap in part.taps.items() if tap.secondary)
        self.roles = TapRoles(linear=part.linear - self.secondary)
        self.architecture = part.architecture


class SignatureNetwork(SavedModelNetwork):
    """A loaded signature that cannot be frozen: it gives outputs, and nothing in it can be tapped or trained.

    `unfrozen_reason` is why it is not frozen, as a clause.

    Args:
        frozen: result of the freezing process, without a graph.
        loaded: the loaded SavedModel.
        name: name of the model in messages.
        output: name of the output; may be omitted if there is only one.
        values: the fixed values of inputs.
        section: `teacher` or `student`, for hints.

    Raises:
        UsageError: several outputs and none chosen, or no such output.
        ModelError: no batch axis, or an output of unknown size.
    """

    def __init__(
        self,
        frozen: FrozenGraph,
        loaded: Any,
        *,
        name: str,
        output: str | None = None,
        values: Mapping[str, Any] | None = None,
        section: str = "student",
    ) -> None:
        super().__init__(frozen, name=name, output=output, values=values, section=section)
        self.unfrozen_reason = frozen.unfrozen_reason
        self._set_inputs()
        self.output_shape = find_output_shape(self._output, None, name=name)
        self.outputs = int(self.output_shape[-1] or 0)
        # The signature works only while the loaded object exists.
        self._loaded = loaded
        self._signature = loaded.signatures[frozen.signature]
        specs = self._signature.structured_input_signature[1]
        self._constants = {key: tf.constant(value, specs[key].dtype) for key, value in self._values.items()}
        self.notes = (f"{name} teaches by its outputs only: {self.unfrozen_reason}", *self._random_notes)

    def compute(self, raw: Tensors, *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """The outputs for raw inputs, without features."""
        return Outputs(self._as_logits(self.compute_saved_output(raw)), {})

    @property
    def _output_tensor(self) -> str:
        return self._output.name

    def _call(self, inputs: Sequence[Tensor], fetches: Sequence[str]) -> list[Tensor]:
        names = (feed.name for feed in self._feeds)
        outputs = self._signature(**dict(zip(names, inputs, strict=True)), **self._constants)
        return [outputs[name] for name in fetches]


def _check_trainable(frozen: FrozenGraph, *, name: str) -> None:
    if not any(weight.trainable for weight in frozen.weights):
        raise ModelError(
            f"{name} cannot be trained: its graph was frozen before it was saved and has no variables",
            hint="it can be a teacher; for a student give the SavedModel or .keras file from before freezing",
        )
