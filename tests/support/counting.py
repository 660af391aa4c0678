"""How often a model is asked."""

from __future__ import annotations


def counted(model):
    """How often a model is called from now on, as a list of whether in training; a compiled step calls it once."""
    calls, original = [], model.call

    def call(*args, **kwargs):
        calls.append(kwargs.get("training"))
        return original(*args, **kwargs)

    vars(model)["call"] = call
    return calls
