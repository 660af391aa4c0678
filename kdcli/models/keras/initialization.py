"""Reproducible initial weights: every random initializer depends on one seed, even if it has its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.models.keras.taps import find_layers
from kdcli.tensors import KerasModel


@contextmanager
def seed_initializers(seed: int) -> Iterator[None]:
    """Make the initial weights of models that are built in the block depend on the seed only.

    `keras.utils.set_random_seed` does not affect an initializer or `SeedGenerator` that has its own seed, nor an
    initializer that was created earlier and that layers share. Their draws get seeds derived from this seed and a
    counter. All other initializers draw as Keras does.

    Args:
        seed: the seed.
    """
    keras.utils.set_random_seed(seed)
    draws = _Draws(seed)
    wraps = [(keras.random.SeedGenerator, "__init__", draws.wrap_generator_init)]
    for kind in _subclasses(keras.initializers.Initializer):
        wraps += [(kind, "__init__", draws.wrap_initializer_init), (kind, "__call__", draws.wrap_initializer_call)]
    methods = [(kind, name, vars(kind)[name], wrap) for kind, name, wrap in wraps if name in vars(kind)]
    try:
        for kind, name, original, wrap in methods:
            setattr(kind, name, wrap(original))
        yield
    finally:
        for kind, name, original, _ in methods:
            setattr(kind, name, original)


def find_unseeded_weights(model: KerasModel, build: Callable[[int], KerasModel], *, seed: int) -> list[str]:
    """Find weights that are random but equal for every seed, by their paths.

    Custom layers may draw weights without an initializer (`keras.random.normal(shape, seed=1)` in `build`), which
    no seed affects. Only a model with custom layers is built a second time.

    Args:
        model: the model built from `seed`.
        build: builds the model from a seed.
        seed: the seed of `model`.
    """
    if all(type(layer).__module__.split(".")[0] == "keras" for layer in find_layers(model).values()):
        return []
    other = build(seed + 1)
    return [
        weight.path
        for weight, again in zip(model.weights, other.weights, strict=True)
        if np.ptp(weight.numpy()) > 0 and np.array_equal(weight.numpy(), again.numpy())
    ]


class _Draws:
    """Counts the draws in one block, and wraps the methods that draw."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0
        # Created in the block and not called yet: without their own seeds, they depend on the global seed.
        self.unused: dict[int, Any] = {}
        self.calling = False

    def next_seed(self) -> int:
        """Derive the seed of the next draw."""
        self.count += 1
        return int(np.random.SeedSequence((self.seed, self.count)).generate_state(1)[0] >> 1)

    def wrap_initializer_init(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(initializer: Any, *args: Any, **options: Any) -> None:
            original(initializer, *args, **options)
            self.unused[id(initializer)] = initializer

        return init

    def wrap_initializer_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(initializer: Any, *args: Any, **options: Any) -> Any:
            # An initializer that calls another one, or its base class, counts as one draw.
            if self.calling or not hasattr(initializer, "seed"):
                return original(initializer, *args, **options)
            if self.unused.pop(id(initializer), None) is None or _has_seed(initializer):
                initializer = copy.copy(initializer)
                initializer.seed = self.next_seed()
            self.calling = True
            try:
                return original(initializer, *args, **options)
            finally:
                self.calling = False

        return call

    def wrap_generator_init(self, original: Callable[..., None]) -> Callable[..., None]:
        def init(generator: Any, seed: int | None = None, *args: Any, **options: Any) -> None:
            original(generator, seed if seed is None else self.next_seed(), *args, **options)

        return init


def _has_seed(initializer: Any) -> bool:
    """Whether an initializer has its own seed; one that does not save its seed counts as having one."""
    return initializer.get_config().get("seed", initializer.seed) is not None


def _subclasses(kind: Any) -> Iterator[Any]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)
