"""The served model: a network in inference mode and its preprocessing, as one model for export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
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
from kdcli.tensors import KerasModel, Tensor

_INPUT_NAME = "input"
# Pixels of the images that are resized at once to derive a matrix.
_BATCH_PIXELS = 8_000_000
_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "raw": (0.0, 255.0)}


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as it is written to a file.

    Args:
        model: a `keras.Model` of built-in layers from `input` to the output; None where the network is a graph.
        compute: function from a batch to the output, always in inference mode.
        shape: shape of one example.
        dtype: type of the input.
        batch: the only batch size that the file accepts; None for any.
        inside: whether the preprocessing is part of the model, so that raw examples go in.
        preprocessing: how a raw example becomes the network's input.
        name: name of the raw input in the data.
        output_kind: `logits`, `probabilities`, `sigmoid` or `values`.
        representative: (1, *shape) examples for calibration; empty unless a format needs them.
        accepts: whether a file of this model is good enough; None where nothing can be measured.
        is_rounded: whether `compute` rounds as an 8-bit file does, so that no examples are needed.
    """

    model: KerasModel | None
    compute: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    dtype: str
    batch: int | None
    inside: bool
    preprocessing: Preprocessing
    name: str
    output_kind: str
    representative: tuple[np.ndarray, ...] = ()
    accepts: Callable[[Path], bool] | None = None
    is_rounded: bool = False

    @cached_property
    def constant(self) -> ConstantModel:
        """The function as a graph of constants, for converters."""
        return make_constant(self.compute, _make_input(self.shape, self.dtype, self.batch))

    @property
    def takes_bytes(self) -> bool:
        """Whether the input is raw bytes."""
        return self.inside and self.preprocessing.raw_dtype == "uint8"

    @property
    def signature(self) -> Any:
        """The input as a `tf.TensorSpec`."""
        return tf.TensorSpec((self.batch, *self.shape), self.dtype, name=_INPUT_NAME)

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of the input, where its type or scale implies them."""
        if not self.preprocessing.is_scaled:
            return None
        if self.inside:
            return 0.0, 255.0
        scale = self.preprocessing.scale
        return _RANGES.get(scale) if isinstance(scale, str) else None

    def convert_examples(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """Convert raw examples to the input of the file."""
        batch = raw[self.name]
        if self.inside:
            return np.ascontiguousarray(batch, self.dtype)
        return ops.convert_to_numpy(ops.cast(self.preprocessing(batch), self.dtype))

    def shown(self, raw: Mapping[str, np.ndarray]) -> ServedModel:
        """A copy with representative examples for calibration.

        For raw bytes two pixels are set to 0 and 255, so that an 8-bit input has exactly the range of a byte.
        """
        batch = np.array(self.convert_examples(raw))
        if self.takes_bytes:
            batch[0].flat[0], batch[0].flat[-1] = 0, 255
        parts = tuple(np.repeat(one[None], self.batch or 1, axis=0) for one in batch)
        return replace(self, representative=parts)


def _make_input(shape: tuple[int, ...], dtype: str, batch: int | None) -> Tensor:
    return keras.Input(shape, batch_size=batch, dtype=dtype, name=_INPUT_NAME)


def make_served_model(
    network: Network,
    *,
    include_preprocessing: bool,
    batch: int | None = None,
    floats: bool = False,
    output_kind: str | None = None,
) -> ServedModel:
    """Combine a network and its preprocessing into one model.

    Args:
        network: a network with preprocessing, from `inference.prepare_for_export`.
        include_preprocessing: whether the model takes raw examples: bytes as bytes, other types as the network's
            own input type.
        batch: the only batch size; None for any.
        floats: take raw bytes as floats.
        output_kind: output kind of the model; None for that of the saved network.

    Raises:
        ModelError: a network with several inputs.
    """
    if len(network.preprocessing) != 1:
        raise ModelError(
            f"{network.name}: has {len(network.preprocessing)} inputs; kd export writes models with one"
        )
    name, preprocessing = next(iter(network.preprocessing.items()))
    # The served model takes float32 and rounds to half precision itself.
    own = "float32" if preprocessing.dtype in ("float16", "bfloat16") else preprocessing.dtype
    shape, dtype = preprocessing.preprocessed_shape, own
    if include_preprocessing:
        shape = preprocessing.raw_shape
        dtype = "uint8" if preprocessing.raw_dtype == "uint8" and not floats else own
    kind = output_kind or network.saved_kind
    make = partial(
        ServedModel,
        shape=shape,
        dtype=dtype,
        batch=batch,
        inside=include_preprocessing,
        preprocessing=preprocessing,
        name=name,
        output_kind=kind,
    )
    inputs = _make_input(shape, dtype, batch)
    preprocessed = add_preprocessing(inputs, preprocessing) if include_preprocessing else inputs
    if isinstance(network, KerasNetwork):
        output = convert_output_kind(compute_keras_output(network, preprocessed), network.saved_kind, kind)
        model = keras.Model(inputs, output, name="served")
        return make(model=model, compute=partial(compute_stateless, model))
    preprocess = keras.Model(inputs, preprocessed) if include_preprocessing else lambda x: x
    identity = replace(preprocessing, raw_shape=preprocessing.preprocessed_shape, raw_dtype=own, size=None)
    bare = network.with_preprocessing({name: identity})

    def compute(tensor: Tensor) -> Tensor:
        output = bare.compute_saved_output({name: preprocess(tensor)})
        return convert_output_kind(output, network.saved_kind, kind)

    return make(model=None, compute=compute)


def add_preprocessing(tensor: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Compute the same as `Preprocessing` in built-in layers, which every converter supports."""
    layers = keras.layers
    if preprocessing.size is not None:
        tensor = _add_resizing(tensor, preprocessing)
    if tensor.shape[1:] != preprocessing.preprocessed_shape:
        tensor = layers.Reshape(preprocessing.preprocessed_shape, name="prepare_shape")(tensor)
    if preprocessing.is_scaled:
        tensor = _add_scaling(tensor, preprocessing.scale)
    if tensor.dtype != preprocessing.dtype:
        # A multiplication by 1 in float32: no other built-in layer converts integers to floats.
        tensor = layers.Rescaling(1.0, dtype="float32", name="prepare_type")(tensor)
    return tensor if tensor.dtype == preprocessing.dtype else ops.cast(tensor, preprocessing.dtype)


def _add_scaling(tensor: Tensor, scale: PixelScale) -> Tensor:
    layers = keras.layers
    if scale == "raw":
        return tensor
    if scale == "caffe":
        # Reversed channels minus the mean, as a matrix and a bias.
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
        # Rescaling takes one number for all channels only as a number.
        numbers = [(1 / deviations).tolist(), (-means / deviations).tolist()]
        factor, offset = (one[0] if len(one) == 1 else one for one in numbers)
        return layers.Rescaling(factor, offset, dtype="float32", name="prepare_scale")(tensor)
    factor = {"unit": 1 / 255.0, "signed": 1 / 127.5}.get(scale)
    offset = {"unit": 0.0, "signed": -1.0}.get(scale)
    if scale == "imagenet":
        factor = (1 / (255.0 * IMAGENET_DEVIATION.astype(np.float64))).tolist()
        offset = (-IMAGENET_MEAN.astype(np.float64) / IMAGENET_DEVIATION).tolist()
    return layers.Rescaling(factor, offset, dtype="float32", name="prepare_scale")(tensor)


def _add_resizing(tensor: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize by two constant matrices, one for each side.

    Converters do not support the antialiasing that `Preprocessing` uses; but it is linear and acts on each side
    separately.
    """
    layers = keras.layers
    height, width = preprocessing.raw_shape[:2]
    channels = preprocessing.raw_shape[2] if len(preprocessing.raw_shape) == 3 else 1
    tensor = layers.Reshape((height, width, channels), name="prepare_channels")(tensor)
    if tensor.dtype != "float32":
        tensor = layers.Rescaling(1.0, dtype="float32", name="prepare_bytes")(tensor)
    for side, (axis, turn) in enumerate(zip(("height", "width"), ((2, 3, 1), (3, 2, 1)), strict=True)):
        matrix = _derive_matrix(preprocessing, side)
        tensor = layers.Permute(turn, name=f"prepare_to_{axis}")(tensor)
        dense = layers.Dense(
            matrix.shape[1], use_bias=False, dtype="float32", trainable=False, name=f"prepare_{axis}"
        )
        tensor = dense(tensor)
        dense.set_weights([matrix])
    return layers.Permute((1, 3, 2), name="prepare_back")(tensor)


def _derive_matrix(preprocessing: Preprocessing, side: int) -> np.ndarray:
    """Derive the weights (raw, resized) along one side, by resizing images in which one row or column is 1."""
    size, target = preprocessing.raw_shape[:2], preprocessing.size
    assert target is not None
    probe = Preprocessing(
        raw_shape=(*size, 1),
        raw_dtype="float32",
        shape=(*target, 1),
        dtype="float32",
        scale="raw",
        size=target,
        fit=preprocessing.fit,
    )
    middle = target[1 - side] // 2
    step = max(1, _BATCH_PIXELS // (size[0] * size[1]))
    rows = []
    for start in range(0, size[side], step):
        marked = np.arange(start, min(start + step, size[side]))
        images = np.zeros((len(marked), *size, 1), np.float32)
        where = (np.arange(len(marked)), marked) if side == 0 else (np.arange(len(marked)), slice(None), marked)
        images[where] = 1
        resized = ops.convert_to_numpy(probe(images))[..., 0]
        rows.append(resized[:, :, middle] if side == 0 else resized[:, middle, :])
    return np.concatenate(rows)
