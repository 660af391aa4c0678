"""Weights drawn anew: every random initialiser follows one seed, whatever seed it has itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdcli.lazy import keras
from kdcli.models.keras.taps import find_layers


@contextmanager
def seed_initializers(seed: int) -> Iterator[None]:
    """Models that are built inside have weights that follow from the seed.

    `keras.utils.set_random_seed` alone does not reach an initialiser or a `SeedGenerator` with a seed of its own,
    nor an object made before that several layers share: their draws get seeds from this one and their number.
    All others draw as Keras does.

    Args:
        seed: of every draw.
    """
    keras.utils.set_random_seed(seed)
    draws = _Draws(seed)
    wraps = [(keras.random.SeedGenerator, "__init__", draws.generator_made)]
    for kind in _subclasses(keras.initializers.Initializer):
        wraps += [(kind, "__init__", draws.initializer_made), (kind, "__call__", draws.initializer_called)]
    own = [(kind, name, vars(kind)[name], wrap) for kind, name, wrap in wraps if name in vars(kind)]
    try:
        for kind, name, original, wrap in own:
            setattr(kind, name, wrap(original))
        yield
    finally:
        for kind, name, original, _ in own:
            setattr(kind, name, original)


def find_unseeded_weights(model: Any, build: Callable[[int], Any], *, seed: int) -> list[str]:
    """The weights of a model that are the same for every seed although they are not constant.

    Custom layers may draw without an initialiser (`keras.random.normal(shape, seed=1)` in `build`): that no seed
    reaches. Only a model that has such layers is built a second time.

    Args:
        model: as built from `seed`.
        build: builds it again from a seed.
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
    """The draws inside one block, counted."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0
        # Made inside, and not called yet: without a seed of their own these follow from the global one.
        self.unused: dict[int, Any] = {}
        self.calling = False

    def next(self) -> int:
        """The seed of the next draw."""
        self.count += 1
        return int(np.random.SeedSequence((self.seed, self.count)).generate_state(1)[0] >> 1)

    def initializer_made(self, original: Callable[..., None]) -> Callable[..., None]:
        def made(initializer: Any, *args: Any, **options: Any) -> None:
            original(initializer, *args, **options)
            self.unused[id(initializer)] = initializer

        return made

    def initializer_called(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(initializer: Any, *args: Any, **options: Any) -> Any:
            # An initialiser that calls another one, or its base class, is one draw.
            if self.calling or not hasattr(initializer, "seed"):
                return original(initializer, *args, **options)
            if self.unused.pop(id(initializer), None) is None or _has_seed(initializer):
                initializer = copy.copy(initializer)
                initializer.seed = self.next()
            self.calling = True
            try:
                return original(initializer, *args, **options)
            finally:
                self.calling = False

        return called

    def generator_made(self, original: Callable[..., None]) -> Callable[..., None]:
        def made(generator: Any, seed: int | None = None, *args: Any, **options: Any) -> None:
            original(generator, seed if seed is None else self.next(), *args, **options)

        return made


def _has_seed(initializer: Any) -> bool:
    """Whether somebody gave the initialiser a seed; one that does not write it into its configuration has one."""
    return initializer.get_config().get("seed", initializer.seed) is not None


def _subclasses(kind: Any) -> Iterator[Any]:
    yield kind
    for child in kind.__subclasses__():
        yield from _subclasses(child)
