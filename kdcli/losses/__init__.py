"""The loss catalogue: one file per published method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, SerializeAsAny, ValidationError

from kdcli.custom_kinds import OrCustom, kind_of
from kdcli.errors import UsageError, did_you_mean
from kdcli.loss import Loss
from kdcli.losses.activation_boundary import ActivationBoundary
from kdcli.losses.adversarial import Adversarial
from kdcli.losses.attention_maps import AttentionMaps
from kdcli.losses.attention_transfer import AttentionTransfer
from kdcli.losses.channel_wise import ChannelWise
from kdcli.losses.classifier_reuse import ClassifierReuse
from kdcli.losses.contrastive import Contrastive
from kdcli.losses.correlation_congruence import CorrelationCongruence
from kdcli.losses.decoupled import Decoupled
from kdcli.losses.dist import Dist
from kdcli.losses.factor_transfer import FactorTransfer
from kdcli.losses.feature_overhaul import FeatureOverhaul
from kdcli.losses.hidden_states import HiddenStates
from kdcli.losses.hint import Hint
from kdcli.losses.instance_graph import InstanceGraph
from kdcli.losses.labels import Labels
from kdcli.losses.logit_mse import LogitMse
from kdcli.losses.masked_generative import MaskedGenerative
from kdcli.losses.multi_level import MultiLevel
from kdcli.losses.neuron_selectivity import NeuronSelectivity
from kdcli.losses.normalized import Normalized
from kdcli.losses.probabilistic_transfer import ProbabilisticTransfer
from kdcli.losses.relational import Relational
from kdcli.losses.review import Review
from kdcli.losses.semantic_calibration import SemanticCalibration
from kdcli.losses.similarity_preserving import SimilarityPreserving
from kdcli.losses.singular_vectors import SingularVectors
from kdcli.losses.soft_cross_entropy import SoftCrossEntropy
from kdcli.losses.soft_targets import SoftTargets
from kdcli.losses.solution_flow import SolutionFlow
from kdcli.losses.variational_information import VariationalInformation
from kdcli.losses.weighted_soft_labels import WeightedSoftLabels

AnyLoss = Annotated[
    Labels
    | SoftTargets
    | SoftCrossEntropy
    | LogitMse
    | Decoupled
    | Dist
    | Normalized
    | MultiLevel
    | WeightedSoftLabels
    | Hint
    | VariationalInformation
    | ClassifierReuse
    | Contrastive
    | Review
    | AttentionTransfer
    | SimilarityPreserving
    | Relational
    | ProbabilisticTransfer
    | CorrelationCongruence
    | NeuronSelectivity
    | SolutionFlow
    | SingularVectors
    | InstanceGraph
    | ChannelWise
    | ActivationBoundary
    | FeatureOverhaul
    | FactorTransfer
    | MaskedGenerative
    | HiddenStates
    | AttentionMaps
    | SemanticCalibration
    | Adversarial,
    Field(discriminator="kind"),
    OrCustom(Loss),
    SerializeAsAny(),
]

LOSS_KINDS: dict[str, type[Loss]] = {kind_of(member): member for member in get_args(get_args(AnyLoss)[0])}

__all__ = ["LOSS_KINDS", "AnyLoss", "find", "make"]


def make(kind: str, **options: Any) -> Loss:
    """Make a loss, to call it directly; the mean of its result over the batch is the loss.

    Args:
        kind: a name that `kd losses ls` prints.
        options: the options that `kd losses show KIND` lists.

    Raises:
        kdcli.errors.UsageError: the kind or an option is unknown, or a value is not allowed.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("soft_targets", temperature=2.0).temperature
        2.0
    """
    return instantiate_loss(find(kind), options)


def instantiate_loss(member: type[Loss], options: Mapping[str, Any]) -> Loss:
    """Make a loss from its class, which may be a custom one.

    Raises:
        kdcli.errors.UsageError: an option is unknown or missing, or a value is not allowed.
    """
    kind = kind_of(member)
    try:
        return member(**options)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = str(detail["loc"][0]) if detail["loc"] else kind
        known = ", ".join(field for field in member.model_fields if field != "kind")
        message = f"{kind}: {name}: {detail['msg']}; options: {known}"
        raise UsageError(message, hint=f"kd losses show {kind}") from None


def find(kind: str) -> type[Loss]:
    """Return the class of a kind.

    Raises:
        kdcli.errors.UsageError: the kind is unknown; the message suggests the most similar one.
    """
    if kind not in LOSS_KINDS:
        suggestion = explain_alias(kind, LOSS_KINDS) or did_you_mean(kind, LOSS_KINDS).strip()
        suggestion = suggestion or f"there are {len(LOSS_KINDS)} kinds"
        raise UsageError(f"unknown loss {kind!r}; {suggestion}", hint="kd losses ls")
    return LOSS_KINDS[kind]


def explain_alias(name: str, kinds: Mapping[str, type[Any]]) -> str | None:
    """Explain a name from papers or other tools, such as `"DKD is decoupled"`; None if no kind has this name."""
    searched = _normalize(name)
    for kind, member in kinds.items():
        known = [_normalize(part) for part in getattr(member, "known_as", "").split(",")]
        if searched and searched in (*known, _normalize(kind)):
            return f"{name} is {kind}"
    return None


def _normalize(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
