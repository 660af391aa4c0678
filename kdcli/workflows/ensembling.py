"""Several teachers at work: each asked and kept on its own, mixed wherever their answer is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.distillation.keeping import Keeping
from kdcli.distillation.mixture import Ensemble
from kdcli.distillation.precision_choice import FEATURES
from kdcli.distillation.targets import EnsembleTargets, Targets
from kdcli.setup.open_models import Opened
from kdcli.workflows.plain_answers import sampled
from kdcli.workflows.teaching import Teaching

MIXED = "mixed"


@dataclass(frozen=True)
class OpenedSeveral:
    """Several teachers as one, as the plan shows them.

    Args:
        members: in the recipe's order.
        ensemble: how they are mixed.
    """

    members: tuple[Opened, ...]
    ensemble: Ensemble

    @property
    def network(self) -> Any:
        """The first one's: what features are taken from."""
        return self.members[0].network

    def to_json(self) -> dict[str, Any]:
        """What the plan shows: the keys of one teacher, and `members`."""
        settings = zip(self.members, self.ensemble.shares, self.ensemble.temperatures, strict=True)
        shown = [{**one.to_json(), "weight": share, "temperature": own} for one, share, own in settings]
        counts = [one.network.parameters for one in self.members]
        return {
            **shown[0],
            "name": f"{len(shown)} teachers",
            "path": None,
            "parameters": None if None in counts else sum(counts),
            "output_kind": self.ensemble.head,
            "logits_from": f"their {self.ensemble.mix}, mixed",
            "input": {},
            "notes": [],
            "signature": None,
            "weight": 1.0,
            "temperature": 1.0,
            "members": shown,
        }


@dataclass
class EnsembleTeaching:
    """How the teachers of a run are asked, with what a `Teaching` says of one.

    Args:
        members: each with its own precision and kept answers.
        ensemble: how they are mixed.
        mixing: whether any term wants the mixture; features are the first one's.
    """

    members: tuple[Teaching, ...]
    ensemble: Ensemble
    mixing: bool

    @property
    def opened(self) -> OpenedSeveral:
        """The teachers as one."""
        return OpenedSeveral(tuple(one.opened for one in self.members), self.ensemble)

    @property
    def views(self) -> Views:
        """Of the training examples, the same for all of them."""
        return self.members[0].views

    @property
    def dataset(self) -> Dataset:
        """Whose training examples they answer."""
        return self.members[0].dataset

    @property
    def network(self) -> Any:
        """The first one's."""
        return self.members[0].network

    @property
    def recorded(self) -> bool:
        """Whether of one of them only its answers are there."""
        return any(one.recorded for one in self.members)

    @property
    def hit(self) -> bool:
        """Whether all training answers were there before."""
        return all(one.hit for one in self._asked)

    @hit.setter
    def hit(self, value: bool) -> None:
        for one in self._asked:
            one.hit = value

    @property
    def keeping(self) -> Keeping:
        """Where the answers go, in one word where it is one."""
        modes, reasons = ([getattr(one.keeping, name) for one in self.members] for name in ("mode", "reason"))
        return Keeping(_one_of(modes), self.views.count, "; ".join(dict.fromkeys(reasons)))

    @property
    def texts(self) -> tuple[str, ...]:
        """How they are mixed, and what was measured of each, in sentences for the plan."""
        shares = ", ".join(
            f"{share:.3f} {one.network.name}" + (f" (logits divided by {own:g})" if own != 1 else "")
            for one, share, own in zip(self.members, self.ensemble.shares, self.ensemble.temperatures, strict=True)
        )
        at = (
            "at the temperature of each term" if self.ensemble.mix == "probabilities" else "before the temperature"
        )
        texts = [f"the teachers' {self.ensemble.mix} are mixed {at}: {shares}"]
        if any(one.taps for one in self.members):
            others = "" if self.mixing else ", and no term asks the others"
            texts.append(f"features are those of the first teacher, {self.network.name}{others}")
        return (*texts, *(f"{one.network.name}: {text}" for one in self.members for text in one.texts))

    @property
    def bytes(self) -> int:
        """Bytes of the kept training answers."""
        return sum(one.bytes for one in self.members)

    def to_json(self) -> dict[str, Any]:
        """`targets` of the plan: the keys of one teacher, and `members`."""
        documents = [one.to_json() for one in self.members]
        prints = [document["fingerprint"] for document in documents]
        whole = None if None in prints else hashlib.sha256(" ".join(prints).encode()).hexdigest()
        return {
            **documents[0],
            "mode": self.keeping.mode,
            "why": self.keeping.reason,
            "bytes": self.bytes,
            "precision": _one_of([document["precision"] for document in documents]),
            "fingerprint": whole,
            "members": documents,
        }

    @contextmanager
    def asked_live(self) -> Iterator[None]:
        """While they are asked in every step, each computes in its own precision."""
        with ExitStack() as stack:
            for one in self.members:
                stack.enter_context(one.asked_live())
            yield

    def targets(self) -> Targets | None:
        """The answers to the training examples; None when no term asks for them."""
        return self._joined([one.targets() for one in self._asked])

    def look(self) -> tuple[Examples, Targets | None]:
        """Some training examples with their answers, before training."""
        few = sampled(self.dataset.train)[:FEATURES]
        return self.dataset.train.subset(few), self._joined([one.about(few) for one in self._asked])

    def plain(self, split: str, examples: Examples) -> np.ndarray:
        """Float32 logits of examples: the mixture at T 1 of what each says."""
        return self.ensemble.of([one.plain(split, examples) for one in self.members])

    @property
    def _asked(self) -> Sequence[Teaching]:
        """Who answers training examples."""
        return self.members if self.mixing else self.members[:1]

    def _joined(self, found: Sequence[Targets | None]) -> Targets | None:
        known = [one for one in found if one is not None]
        if not known or not self.mixing:
            return known[0] if known else None
        return EnsembleTargets(known, self.ensemble)


def _one_of(words: Sequence[str]) -> str:
    """The word that all of them are, or that they differ."""
    return words[0] if len(set(words)) == 1 else MIXED
