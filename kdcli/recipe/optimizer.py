"""Keras optimizers by snake_case name, with their arguments, validated before TensorFlow loads."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from kdcli.lazy import keras
from kdcli.spec import PositiveFloat, Spec
from kdcli.tensors import Optimizer

_COMMON_ARGUMENTS: dict[str, Any] = {
    "weight_decay": float,
    "clipnorm": float,
    "clipvalue": float,
    "global_clipnorm": float,
    "use_ema": bool,
    "ema_momentum": float,
    "ema_overwrite_frequency": int,
    "gradient_accumulation_steps": int,
}
_ADAM_ARGUMENTS: dict[str, Any] = {"beta_1": float, "beta_2": float, "epsilon": float}
# kind: (Keras class, default learning rate, further arguments). A test compares this with the signatures of Keras.
OPTIMIZERS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "adam": ("Adam", 1e-3, {**_ADAM_ARGUMENTS, "amsgrad": bool}),
    "adamw": ("AdamW", 1e-3, {**_ADAM_ARGUMENTS, "amsgrad": bool}),
    "sgd": ("SGD", 1e-2, {"momentum": float, "nesterov": bool}),
    "rmsprop": ("RMSprop", 1e-3, {"rho": float, "momentum": float, "epsilon": float, "centered": bool}),
    "adagrad": ("Adagrad", 1e-3, {"initial_accumulator_value": float, "epsilon": float}),
    "adadelta": ("Adadelta", 1e-3, {"rho": float, "epsilon": float}),
    "adamax": ("Adamax", 1e-3, _ADAM_ARGUMENTS),
    "nadam": ("Nadam", 1e-3, _ADAM_ARGUMENTS),
    "lamb": ("Lamb", 1e-3, _ADAM_ARGUMENTS),
    "lion": ("Lion", 1e-3, {"beta_1": float, "beta_2": float}),
    "adafactor": (
        "Adafactor",
        1e-3,
        {
            "beta_2_decay": float,
            "epsilon_1": float,
            "epsilon_2": float,
            "clip_threshold": float,
            "relative_step": bool,
        },
    ),
    "ftrl": (
        "Ftrl",
        1e-3,
        {
            "learning_rate_power": float,
            "initial_accumulator_value": float,
            "l1_regularization_strength": float,
            "l2_regularization_strength": float,
            "l2_shrinkage_regularization_strength": float,
            "beta": float,
        },
    ),
    "muon": (
        "Muon",
        1e-3,
        {
            "adam_beta_1": float,
            "adam_beta_2": float,
            "adam_weight_decay": float,
            "epsilon": float,
            "muon_a": float,
            "muon_b": float,
            "muon_c": float,
            "adam_lr_ratio": float,
            "momentum": float,
            "ns_steps": int,
            "nesterov": bool,
            "rms_rate": float,
        },
    ),
    "schedule_free_adamw": ("ScheduleFreeAdamW", 2.5e-3, {**_ADAM_ARGUMENTS, "warmup_steps": int}),
}

# Optimizers whose steps are proportional to the gradient: the weight of a loss scales their learning rate.
PROPORTIONAL_TO_GRADIENT = ("sgd",)


class OptimizerSpec(Spec):
    """An optimizer. Omitted arguments keep their defaults in Keras.

    Args:
        learning_rate: base rate, which the schedule multiplies.
    """

    kind: str
    learning_rate: PositiveFloat = 1e-3

    def build(self, learning_rate: Any) -> Optimizer:
        """Build the `keras.optimizers.Optimizer`.

        Args:
            learning_rate: a number, or a Keras schedule.
        """
        arguments = self.model_dump(exclude={"kind", "learning_rate"}, exclude_none=True)
        return getattr(keras.optimizers, OPTIMIZERS[self.kind][0])(learning_rate=learning_rate, **arguments)


def _make_kind(kind: str) -> type[OptimizerSpec]:
    keras_name, rate, arguments = OPTIMIZERS[kind]
    fields: dict[str, Any] = {
        "kind": (Literal[kind], kind),
        "learning_rate": (PositiveFloat, rate),
        **{name: (type_ | None, None) for name, type_ in {**arguments, **_COMMON_ARGUMENTS}.items()},
    }
    return create_model(keras_name, __base__=OptimizerSpec, __doc__=f"`keras.optimizers.{keras_name}`.", **fields)


def _complete_entry(value: Any) -> Any:
    """Expand `sgd` to a mapping with `kind`; a mapping without `kind` is an `adam`."""
    if isinstance(value, str):
        return {"kind": value}
    return {"kind": "adam", **value} if isinstance(value, dict) else value


OPTIMIZER_KINDS = tuple(_make_kind(kind) for kind in OPTIMIZERS)
ADAM: OptimizerSpec = OPTIMIZER_KINDS[0].model_validate({"kind": "adam"})
if TYPE_CHECKING:
    AnyOptimizer = OptimizerSpec
else:
    AnyOptimizer = Annotated[
        reduce(or_, OPTIMIZER_KINDS), Field(discriminator="kind"), BeforeValidator(_complete_entry)
    ]
