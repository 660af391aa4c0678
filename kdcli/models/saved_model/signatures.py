"""Which signature of a SavedModel is meant."""

from __future__ import annotations

from collections.abc import Sequence

from kdcli.errors import ModelError, UsageError

DEFAULT_SIGNATURE = "serving_default"


class SeveralSignatures(UsageError):
    """A SavedModel with several signatures, none of which was chosen."""


def choose_signature(names: Sequence[str], wanted: str | None) -> str:
    """The signature that was named, else `serving_default`, else the only one.

    Args:
        names: of all signatures.
        wanted: one of them, or None.

    Raises:
        UsageError: no such signature, or several to choose from.
        ModelError: there is none.
    """
    if not names:
        raise ModelError(
            "the SavedModel has no signature",
            hint="save it with signatures=, or a Keras model with model.export(FOLDER)",
        )
    if wanted in names:
        return str(wanted)
    if wanted is None and (DEFAULT_SIGNATURE in names or len(names) == 1):
        return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0]
    told = "several signatures and no serving_default" if wanted is None else f"no signature {wanted!r}"
    kind = SeveralSignatures if wanted is None else UsageError
    raise kind(f"the SavedModel has {told} (got {', '.join(names)})", hint=f"--signature {names[0]}")
