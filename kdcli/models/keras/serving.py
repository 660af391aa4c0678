"""What ships: a network in inference, behind its preprocessing, as one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from kdcli.errors import ModelError
from kdcli.lazy import keras, ops, tf
from kdcli.models.inference import (
    ConstantModel,
    compute_keras_output,
    compute_stateless,
    convert_output_kind,
    make_constant,
)
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preprocessing import CAFFE_MEAN, IMAGENET_DEVIATION, IMAGENET_MEAN, PixelScale, Preprocessing
from kdcli.spec import Standardization

_INPUT_NAME = "input"
# Pixels of the pictures of which a resizing is found out at once.
_PIXELS = 8_000_000
_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "raw": (0.0, 255.0)}


@dataclass(frozen=True)
class ServedModel:
    """What is written to a file.

    Args:
        model: a `keras.Model` of stock layers from `input` to the output; None where the network is a graph.
        compute: the same as a function from a batch to the output, always in inference.
        shape: of one example, without the batch axis.
        dtype: what the model takes.
        batch: the only batch size that the file takes, or None for any.
        inside: whether the preprocessing is part of it, so that raw examples go in.
        preparation: how a raw example becomes what the network itself takes.
        name: of the raw input in the data.
        output_kind: what comes out: `logits`, `probabilities`, `sigmoid` or `values`.
        representative: (1, *shape) examples that show which values occur; empty unless a format wants them.
    """

    model: Any
    compute: Callable[[Any], Any]
    shape: tuple[int, ...]
    dtype: str
    batch: int | None
    inside: bool
    preprocessing: Preprocessing
    name: str
    output_kind: str
    representative: tuple[np.ndarray, ...] = ()

    @cached_property
    def constant(self) -> ConstantModel:
        """The inference function as one graph of constants, for converters."""
        return make_constant(self.compute, new_input(self.shape, self.dtype, self.batch))

    @property
    def takes_bytes(self) -> bool:
        """Whether raw examples of bytes go in."""
        return self.inside and self.preprocessing.raw_dtype == "uint8"

    @property
    def signature(self) -> Any:
        """The input as a `tf.TensorSpec`."""
        return tf.TensorSpec((self.batch, *self.shape), self.dtype, name=_INPUT_NAME)

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The least and the largest value of an input, where the type or the scale says so."""
        if not self.preprocessing.is_scaled:
            return None
        if self.inside:
            return 0.0, 255.0
        scale = self.preprocessing.scale
        return _RANGES.get(scale) if isinstance(scale, str) else None

    def convert_examples(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw examples as the file takes them."""
        batch = raw[self.name]
        if self.inside:
            return np.ascontiguousarray(batch, self.dtype)
        return ops.convert_to_numpy(ops.cast(self.preprocessing(batch), self.dtype))

    def shown(self, raw: Mapping[str, np.ndarray]) -> ServedModel:
        """The same with examples that show which values occur.

        Raw bytes are shown from 0 to 255 whatever is in the examples, by two pixels: then an 8-bit input means
        just the byte.
        """
        batch = np.array(self.convert_examples(raw))
        if self.takes_bytes:
            batch[0].flat[0], batch[0].flat[-1] = 0, 255
        parts = tuple(np.repeat(one[None], self.batch or 1, axis=0) for one in batch)
        return replace(self, representative=parts)


def new_input(shape: tuple[int, ...], dtype: str, batch: int | None) -> Any:
    """The input of what ships."""
    return keras.Input(shape, batch_size=batch, dtype=dtype, name=_INPUT_NAME)


def make_served_model(
    network: Network,
    *,
    include_preprocessing: bool,
    batch: int | None = None,
    floats: bool = False,
    output_kind: str | None = None,
) -> ServedModel:
    """Put a network and its preprocessing into one model.

    Args:
        network: with its preparations, made ready by `inference.ready`.
        include_preprocessing: whether raw examples shall go in. Bytes stay bytes; raw values of other types go in
            as the
            network's own type.
        batch: the only batch size, or None for any.
        floats: let raw bytes go in as floats.
        output_kind: of the file; the network's own when left out.

    Raises:
        ModelError: several inputs.
    """
    if len(network.preprocessing) != 1:
        raise ModelError(
            f"{network.name}: has {len(network.preprocessing)} inputs; kd export writes models with one"
        )
    name, preparation = next(iter(network.preprocessing.items()))
    # Half floats are rounded inside.
    own = "float32" if preparation.dtype in ("float16", "bfloat16") else preparation.dtype
    shape, dtype = preparation.preprocessed_shape, own
    if include_preprocessing:
        shape, dtype = preparation.raw_shape, "uint8" if preparation.raw_dtype == "uint8" and not floats else own
    kind = output_kind or network.saved_kind
    inputs = new_input(shape, dtype, batch)
    prepared = _prepared(inputs, preparation) if include_preprocessing else inputs
    if isinstance(network, KerasNetwork):
        output = convert_output_kind(compute_keras_output(network, prepared), network.saved_kind, kind)
        model = keras.Model(inputs, output, name="served")
        compute = partial(compute_stateless, model)
        return ServedModel(model, compute, shape, dtype, batch, include_preprocessing, preparation, name, kind)
    preparing = keras.Model(inputs, prepared) if include_preprocessing else lambda x: x
    as_it_is = replace(preparation, raw_shape=preparation.preprocessed_shape, raw_dtype=own, size=None)
    bare = network.with_preprocessing({name: as_it_is})

    def answer(tensor: Any) -> Any:
        return convert_output_kind(bare.compute_saved_output({name: preparing(tensor)}), network.saved_kind, kind)

    return ServedModel(None, answer, shape, dtype, batch, include_preprocessing, preparation, name, kind)


def _prepared(tensor: Any, preparation: Preprocessing) -> Any:
    """The same arithmetic as `Preparation`, in layers that every Keras has and every converter knows."""
    layers = keras.layers
    if preparation.size is not None:
        tensor = _resized(tensor, preparation)
    if tensor.shape[1:] != preparation.preprocessed_shape:
        tensor = layers.Reshape(preparation.preprocessed_shape, name="prepare_shape")(tensor)
    if preparation.is_scaled:
        tensor = _scaled(tensor, preparation.scale)
    if tensor.dtype != preparation.dtype:
        # A multiplication by 1 in float32: the only stock layer that turns integers into floats.
        tensor = layers.Rescaling(1.0, dtype="float32", name="prepare_type")(tensor)
    return tensor if tensor.dtype == preparation.dtype else ops.cast(tensor, preparation.dtype)


def _scaled(tensor: Any, scale: PixelScale) -> Any:
    layers = keras.layers
    if scale == "raw":
        return tensor
    if scale == "caffe":
        # Channels the other way round, minus the mean: a matrix and an offset.
        reverse = layers.Dense(3, dtype="float32", trainable=False, name="prepare_scale")
        if tensor.dtype == "uint8":
            tensor = layers.Rescaling(1.0, dtype="float32", name="prepare_bytes")(tensor)
        tensor = reverse(tensor)
        reverse.set_weights([np.eye(3, dtype=np.float32)[::-1], -CAFFE_MEAN])
        return tensor
    factor: Any
    offset: Any
    if isinstance(scale, Standardization):
        means, deviations = np.broadcast_arrays(np.array(scale.mean), np.array(scale.deviation))
        # One number holds for all channels, and Rescaling takes it as such.
        numbers = [(1 / deviations).tolist(), (-means / deviations).tolist()]
        factor, offset = (one[0] if len(one) == 1 else one for one in numbers)
        return layers.Rescaling(factor, offset, dtype="float32", name="prepare_scale")(tensor)
    factor = {"unit": 1 / 255.0, "signed": 1 / 127.5}.get(scale)
    offset = {"unit": 0.0, "signed": -1.0}.get(scale)
    if scale == "imagenet":
        factor = (1 / (255.0 * IMAGENET_DEVIATION.astype(np.float64))).tolist()
        offset = (-IMAGENET_MEAN.astype(np.float64) / IMAGENET_DEVIATION).tolist()
    return layers.Rescaling(factor, offset, dtype="float32", name="prepare_scale")(tensor)


def _resized(tensor: Any, preparation: Preprocessing) -> Any:
    """Resize by two constant matrices, one for each side.

    With antialiasing the operation that `Preparation` uses is in no converter, but it is linear and acts on
    each side alone.
    """
    layers = keras.layers
    height, width = preparation.raw_shape[:2]
    channels = preparation.raw_shape[2] if len(preparation.raw_shape) == 3 else 1
    tensor = layers.Reshape((height, width, channels), name="prepare_channels")(tensor)
    if tensor.dtype != "float32":
        tensor = layers.Rescaling(1.0, dtype="float32", name="prepare_bytes")(tensor)
    for side, (axis, turn) in enumerate(zip(("height", "width"), ((2, 3, 1), (3, 2, 1)), strict=True)):
        matrix = _matrix(preparation, side)
        tensor = layers.Permute(turn, name=f"prepare_to_{axis}")(tensor)
        dense = layers.Dense(
            matrix.shape[1], use_bias=False, dtype="float32", trainable=False, name=f"prepare_{axis}"
        )
        tensor = dense(tensor)
        dense.set_weights([matrix])
    return layers.Permute((1, 3, 2), name="prepare_back")(tensor)


def _matrix(preparation: Preprocessing, side: int) -> np.ndarray:
    """(raw, resized) weights along one side: what becomes of pictures of which one row, or column, is 1."""
    size = preparation.raw_shape[:2]
    assert preparation.size is not None
    probe = Preprocessing(
        (*size, 1), "float32", (*preparation.size, 1), "float32", "raw", preparation.size, preparation.fit
    )
    middle = preparation.size[1 - side] // 2
    step = max(1, _PIXELS // (size[0] * size[1]))
    rows = []
    for start in range(0, size[side], step):
        marked = np.arange(start, min(start + step, size[side]))
        pictures = np.zeros((len(marked), *size, 1), np.float32)
        where = (np.arange(len(marked)), marked) if side == 0 else (np.arange(len(marked)), slice(None), marked)
        pictures[where] = 1
        resized = ops.convert_to_numpy(probe(pictures))[..., 0]
        rows.append(resized[:, :, middle] if side == 0 else resized[:, middle, :])
    return np.concatenate(rows)
