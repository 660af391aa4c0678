"""Findings about a training before it starts: defaults, partial batches, learning rates, custom losses."""

from __future__ import annotations

from kdcli.jobs.job import Job
from kdcli.lazy import keras
from kdcli.loss import Loss
from kdcli.recipe.optimizer import PROPORTIONAL_TO_GRADIENT
from kdcli.recipe.sections import Recipe
from kdcli.spec import Change

# Fractions of an epoch's examples outside full batches: reported above the first, ignored below the second.
_MANY_UNUSED, _FEW_UNUSED = 0.05, 0.01
# Total weights of the losses on outputs that train at about the rate of labels with weight 1.
_WEIGHT_RANGE = (0.5, 2.0)


def training_findings(job: Job) -> tuple[str, ...]:
    """Collect findings about settings whose effect may surprise."""
    notes = job.request.origins.notes
    # Training on labels uses none of the recipe's losses.
    if job.teacher_outputs is None:
        notes = [note for note in notes if not note.startswith("losses.")]
    replicas = job.strategy.num_replicas_in_sync
    left = describe_partial_batch(len(job.dataset.train), job.train.batch_size, replicas=replicas)
    return (*notes, *([left] if left else []), *_check_custom_losses(job))


def describe_partial_batch(examples: int, batch_size: int, *, replicas: int = 1) -> str | None:
    """Return a finding if full batches leave out much of an epoch, with a better batch size.

    Args:
        examples: number of training examples.
        batch_size: examples per update.
        replicas: number of devices that a batch is divided among.
    """
    batch = min(batch_size, examples)
    left = examples % batch
    if left <= _MANY_UNUSED * examples:
        return None
    sizes = [n for n in range(max(2, batch // 2), min(2 * batch, examples) + 1) if n % replicas == 0] or [batch]

    def preference(size: int) -> tuple[int, int]:
        rest = examples % size
        return (0 if rest <= _FEW_UNUSED * examples else rest, abs(size - batch))

    better = min(sizes, key=preference)
    rest = examples % better
    remedy = f"; --batch-size {better} leaves out {rest or 'none'}" if rest < left else ""
    return (
        f"{left} of {examples} training examples are left out of each epoch (different ones each time), because "
        f"the last batch of {batch} is not full{remedy}"
    )


def rate_finding(recipe: Recipe, *, arm: str, baseline: str) -> str | None:
    """Return a finding if an arm learns from labels and outputs at another rate than its baseline.

    A baseline has labels with weight 1. With an optimizer whose steps are proportional to the gradient, the total
    weight of an arm's losses on outputs acts as a factor of its learning rate.

    Args:
        recipe: of the arm.
        arm, baseline: their names.
    """
    optimizer = recipe.train.optimizer.kind
    total = sum(_mean_weight(loss) for loss in recipe.losses or () if loss.on_logits)
    if optimizer not in PROPORTIONAL_TO_GRADIENT or _WEIGHT_RANGE[0] <= total <= _WEIGHT_RANGE[1]:
        return None
    return (
        f"{arm}: the losses on labels and outputs have a total weight of {total:g}; the steps of {optimizer} are "
        f"proportional to it, so the student learns at about {total:g} times the rate of {baseline}, whose labels "
        "have weight 1; for equal rates use weights with a sum of 1, or --set train.optimizer=adam"
    )


def _mean_weight(loss: Loss) -> float:
    """The mean weight of a loss over training, including its warm-up."""
    weight, fraction = loss.weight, 1.0 - loss.warmup / 2
    if isinstance(weight, Change):
        weight = weight.over * (weight.start + weight.to) / 2 + (1.0 - weight.over) * weight.to
    return weight * fraction


def _check_custom_losses(job: Job) -> list[str]:
    """Findings about custom losses that violate the loss contract in a way that affects a run."""
    found = []
    for term in job.terms:
        names = job.request.custom.files_of(term.loss)
        if not names:
            continue
        from kdcli.loss_contract.check import PREFLIGHT_CHECKS, check_contract

        (path,) = (path for path in job.request.custom.paths if path.name == names[0])
        found += [
            f"losses.{term.loss.label} violates the loss contract: {point.name}: {point.reason}; "
            f"kd losses check {path} runs all checks"
            for point in check_contract(term.loss, PREFLIGHT_CHECKS)
            if point.state == "failed"
        ]
        # The check sets the seed for its own draws.
        keras.utils.set_random_seed(job.recipe.train.seed)
    return found
