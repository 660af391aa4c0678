"""A SavedModel as a `Network`: any signature, frozen; its inner tensors are taps, its variables can be trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import ops, tf
from kdcli.models.keras.tap_roles import TapRoles
from kdcli.models.network import Network, Outputs, TensorSpec
from kdcli.models.preprocessing import Preprocessing, preprocess
from kdcli.models.saved_model.frozen import FrozenGraph, GraphTensor
from kdcli.models.saved_model.function import (
    GraphFunction,
    SignatureFunction,
    in_fixed_batches,
    save_function,
    select_float_weights,
)
from kdcli.models.saved_model.inputs_outputs import (
    check_batch_size,
    choose_graph_output,
    find_output_shape,
    make_input_specs,
    require_fixed_values,
)
from kdcli.models.saved_model.read import GraphReader, LastActivation
from kdcli.models.saved_model.taps import Tap

_INFERENCE = (
    "a SavedModel is trained as it answers: BatchNorm keeps its statistics, dropout is off; it is saved as a "
    "SavedModel again"
)


class GraphNetwork(Network):
    """Answers through the frozen graph of a SavedModel's signature.

    `signature` is the one that was chosen, `signatures` are all. `starts_from_bytes`
    names the first tensor of pictures in a graph that decodes files; None for every other graph. `unfrozen` is why
    the signature is called as it is, a clause; None for a frozen graph.

    Args:
        frozen: from the child process.
        name: what messages call it.
        output: which output, where there are several.
        start_at: a tap or tensor from which the network starts, instead of the signature's inputs.
        values: what inputs that the frozen graph does not have any more hold.
        section: `teacher` or `student`, for hints.
        trainable: whether the constants that were variables become variables again.
        loaded: the loaded SavedModel, for one that is not frozen.

    Raises:
        UsageError: several outputs and none chosen, or a name that is not there.
        ModelError: no batch axis, an output of unknown size, or it cannot be trained.
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
        loaded: Any = None,
    ) -> None:
        self.name = name
        self._values, self._section = dict(values or {}), section
        self.signature, self.signatures = frozen.signature, frozen.signatures
        self.all_outputs = tuple(
            TensorSpec(result.name, tuple((result.shape or (None,))[1:]), result.dtype)
            for result in frozen.outputs
        )
        self.decoded_images: str | None = None
        self.unfrozen = frozen.unfrozen
        self._parameters = frozen.parameters
        self._outputs = frozen.outputs
        self._chosen = choose_graph_output(frozen, output, name=name)
        self.output_name = self._chosen.name
        self._last: LastActivation | None = None
        self._logits: str | None = None
        self._first: str | None = None
        self._tapped: Mapping[str, Tap] = {}
        self._function: GraphFunction | SignatureFunction
        if frozen.graph is None:
            self._use_signature(frozen, loaded, start_at=start_at, trainable=trainable)
        else:
            self._use_graph(frozen, start_at=start_at, trainable=trainable)
        self.outputs = int(self.output_shape[-1] or 0)
        self.saved_kind = self._last.kind if self._last else "logits"
        self.output_kind = "sigmoid" if self.saved_kind == "sigmoid" else "logits"
        self._read_before(self.saved_kind)
        if frozen.random:
            self.notes = (*self.notes, f"{self.name} draws random numbers: the same example gives other outputs")

    @property
    def parameters(self) -> int:
        """How many float weights it has."""
        return self._parameters

    @property
    def variables(self) -> list[Any]:
        """The weights, where they are variables again."""
        return [weight.variable for weight in self._function.weights]

    @property
    def trainable_variables(self) -> list[Any]:
        """What training changes."""
        return [variable for variable in self.variables if variable.trainable]

    @property
    def reading(self) -> dict[str, str]:
        """How raw examples go in, through which signature, and how logits are read."""
        fed = ", ".join(feed.tensor for feed in self._feeds)
        fixed = f" with {json.dumps(self._values, sort_keys=True)}" if self._values else ""
        return {**super().reading, "signature": f"{self.signature} from {fed}{fixed}"}

    def with_output_kinds(self, kind: str, *, output_kind: str) -> Self:
        """The same network with its output understood as `kind` and its logits as those of `head`."""
        other = super().with_output_kinds(kind, output_kind=output_kind)
        other._read_before(kind)
        return other

    def with_preprocessing(self, preparations: Mapping[str, Preprocessing]) -> Self:
        """The same network behind a preparation of each raw input.

        Raises:
            ModelError: it takes the bytes of files, or other strings, and the data are numbers.
        """
        if any(spec.dtype == "string" for spec in self.inputs):
            inner = self.decoded_images
            what = "the bytes of picture files" if inner else "strings"
            raise ModelError(
                f"{self.name} starts from {what}, the data are numbers",
                hint=f"--set {self._section}.input.tensor={inner} starts after decoding" if inner else None,
            )
        other = super().with_preprocessing(preparations)
        if isinstance(self._function, GraphFunction) and any(None in spec.shape for spec in self.inputs):
            # A network for any size has features of unknown size until the data is known.
            only = next(iter(preparations.values()))
            shapes = [preparations.get(spec.name, only).preprocessed_shape for spec in self.inputs]
            feeds = zip(self._feeds, shapes, strict=True)
            other._read([replace(feed, shape=(self.batch, *shape)) for feed, shape in feeds])
        return other

    def compute(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Prepare raw inputs and answer them; the graph computes the same in training."""
        read = self._logits if self._bare and self._logits else self._answered
        answered = self._ask(raw, [read, *(self._tapped[tap].tensor for tap in taps)])
        features = dict(zip(taps, answered[1:], strict=True))
        for tap, feature in features.items():
            feature.set_shape((None, *self.taps[tap]))
        return Outputs(self._as_logits(self._formed(answered[0])), features)

    def compute_saved_output(self, raw: Mapping[str, Any]) -> Any:
        """What the saved model itself returns, activation included."""
        return self._formed(self._ask(raw, [self._answered])[0])

    def compute_before_weights(self, raw: Mapping[str, Any]) -> np.ndarray | None:
        """What raw examples have become where the first operation with weights takes them."""
        if self._first is None or isinstance(self._function, SignatureFunction):
            return None
        if self._first.startswith("kd_feed_"):
            given = preprocess(self.preprocessing, raw)
            return None if isinstance(given, dict) else ops.convert_to_numpy(given)
        return ops.convert_to_numpy(self._ask(raw, [self._first])[0])

    def save(self, folder: Path) -> None:
        """Write the trained weights as a SavedModel with the same signature, arguments, results and types.

        Raises:
            ModelError: a network that was not opened to be trained.
        """
        if not isinstance(self._function, GraphFunction) or not self._function.weights:
            raise ModelError(f"{self.name}: only a SavedModel that was opened to be trained is written again")
        save_function(self._function, folder, signature=self.signature, outputs=self._saved)

    def _ask(self, raw: Mapping[str, Any], fetches: Sequence[str]) -> list[Any]:
        prepared = preprocess(self.preprocessing, raw)
        inputs = [prepared[feed.name] for feed in self._feeds] if isinstance(prepared, dict) else [prepared]
        if self.batch is None:
            return self._function(inputs, fetches)
        return in_fixed_batches(lambda given: self._function(given, fetches), inputs, self.batch)

    def _formed(self, output: Any) -> Any:
        """The output, or what its last activation was given, in the output's own shape."""
        output = ops.cast(output, "float32")
        if tuple(output.shape[1:]) != self.output_shape and self.output_shape.count(None) == 0:
            output = tf.reshape(output, (-1, *self.output_shape))
        output.set_shape((None, *self.output_shape))
        return output

    def _read_before(self, kind: str) -> None:
        """Read logits before the graph's own softmax or sigmoid, where the output is understood as such."""
        known = self._last is not None and kind not in ("values", "logits")
        self._bare = self._last.operation if known and self._last else None

    def _use_signature(self, frozen: FrozenGraph, loaded: Any, *, start_at: str | None, trainable: bool) -> None:
        if trainable or start_at:
            verb = "trained" if trainable else "started further in"
            raise ModelError(
                f"{self.name} cannot be {verb}: {frozen.unfrozen}", hint="it can teach by its outputs"
            )
        self._feeds = frozen.inputs
        require_fixed_values(self._feeds, name=self.name, section=self._section)
        self.inputs = make_input_specs(self._feeds)
        self.batch = check_batch_size(self._feeds, name=self.name)
        self._answered = self._chosen.name
        self.output_shape = find_output_shape(self._chosen, None, name=self.name)
        names = [feed.name for feed in self._feeds]
        signature = loaded.signatures[frozen.signature]
        self._function = SignatureFunction(signature, names, values=self._values, owner=loaded)
        self.notes = (f"{self.name} teaches by its outputs only: {frozen.unfrozen}",)

    def _use_graph(self, frozen: FrozenGraph, *, start_at: str | None, trainable: bool) -> None:
        graph = tf.compat.v1.GraphDef.FromString(frozen.graph)
        weights = select_float_weights(graph, frozen.weights)
        self._reading = reading = GraphReader(
            graph, weights, self._chosen, name=self.name, exported=frozen.exported
        )
        self._feeds, notes = frozen.inputs, []
        if any(feed.dtype == "string" for feed in self._feeds):
            self.decoded_images = reading.find_decoded_images(self._feeds)
        if start_at is not None:
            self._feeds = (reading.start(start_at, self._feeds),)
            notes.append(f"{self.name} starts at its tensor {start_at}")
        require_fixed_values(self._feeds, name=self.name, section=self._section)
        inner = self.decoded_images
        hint = f"--set {self._section}.input.tensor={inner} starts after decoding" if inner else None
        self.batch = check_batch_size(self._feeds, name=self.name, hint=hint)
        self.inputs = make_input_specs(self._feeds)
        if trainable:
            self._check_trainable(frozen)
            notes.append(_INFERENCE)
        if self.batch is not None:
            notes.append(f"{self.name} is asked in batches of {self.batch}, the size it was saved with")
        self._function = self._graph = GraphFunction(graph, self._feeds, weights=weights, trainable=trainable)
        # What starts further in may not have what other outputs need.
        self._saved = (self._chosen,) if start_at else self._outputs
        self._answered = self._chosen.tensor
        self._read(self._feeds)
        self.notes = tuple(notes)

    def _read(self, feeds: Sequence[GraphTensor]) -> None:
        """Find what follows from the shapes of the inputs."""
        part = self._reading.part(feeds, batch=self.batch, function=self._graph)
        self.output_shape = part.output_shape
        self._last, self._tapped = part.last, part.taps
        self._logits = part.last.logits if part.last else None
        self.taps = {name: tap.shape for name, tap in part.taps.items()}
        self.secondary = frozenset(name for name, tap in part.taps.items() if tap.secondary)
        self.roles = TapRoles(linear=part.linear - self.secondary)
        self.architecture = part.architecture
        self._first = part.first

    def _check_trainable(self, frozen: FrozenGraph) -> None:
        if not any(weight.trainable for weight in frozen.weights):
            raise ModelError(
                f"{self.name} cannot be trained: its graph was frozen before it was saved and has no variables",
                hint="it can be a teacher; a student needs the SavedModel or .keras file from before that",
            )
