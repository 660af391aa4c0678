"""kd: knowledge distillation of saved Keras models. Importing this package never imports TensorFlow."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LOCATIONS = {
    "distill": ("kdcli.commands.distill", "distill"),
    "train_teacher": ("kdcli.commands.train_teacher", "train_teacher"),
    "evaluate": ("kdcli.commands.evaluate", "evaluate"),
    "compare": ("kdcli.commands.compare", "compare"),
    "export": ("kdcli.commands.export", "export"),
    "shrink": ("kdcli.commands.shrink", "shrink"),
    "compress": ("kdcli.commands.compress", "compress"),
    "quantize": ("kdcli.commands.quantize", "quantize"),
    "demo": ("kdcli.commands.demo", "demo"),
    "inspect": ("kdcli.commands.inspect", "inspect"),
    "predict": ("kdcli.commands.predict", "predict"),
    "RecipeOptions": ("kdcli.setup.request", "RecipeOptions"),
    "RunOptions": ("kdcli.setup.request", "RunOptions"),
    "ShrinkOptions": ("kdcli.artifacts.shrink_request", "ShrinkOptions"),
    "CompressOptions": ("kdcli.compression.request", "CompressOptions"),
    "ExportOptions": ("kdcli.artifacts.conversion", "ExportOptions"),
    "losses": ("kdcli.losses", None),
    "Recipe": ("kdcli.recipe.sections", "Recipe"),
    "Trust": ("kdcli.screening.verdict", "Trust"),
    "Loss": ("kdcli.loss", "Loss"),
    "FeatureLoss": ("kdcli.loss", "FeatureLoss"),
    "Given": ("kdcli.loss", "Given"),
    "Parts": ("kdcli.loss", "Parts"),
    "Source": ("kdcli.spec", "Source"),
    "Augment": ("kdcli.spec", "Augment"),
    "KdError": ("kdcli.errors", "KdError"),
}

__all__ = [
    "Augment",
    "CompressOptions",
    "ExportOptions",
    "FeatureLoss",
    "Given",
    "KdError",
    "Loss",
    "Parts",
    "Recipe",
    "RecipeOptions",
    "RunOptions",
    "ShrinkOptions",
    "Source",
    "Trust",
    "__version__",
    "compare",
    "compress",
    "demo",
    "distill",
    "evaluate",
    "export",
    "inspect",
    "losses",
    "predict",
    "quantize",
    "shrink",
    "train_teacher",
]


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'kdcli' has no attribute {name!r}")
    module_name, attribute = _LOCATIONS[name]
    module = import_module(module_name)
    return module if attribute is None else getattr(module, attribute)
