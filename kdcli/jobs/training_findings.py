"""What is worth knowing of a training before it starts, in sentences for the plan: defaults, batches, rates."""

from __future__ import annotations

from kdcli.jobs.job import Job
from kdcli.lazy import keras
from kdcli.loss import Loss
from kdcli.recipe.optimizer import PROPORTIONAL_TO_GRADIENT
from kdcli.recipe.sections import Recipe
from kdcli.spec import Change

# Shares of an epoch's examples that its last, partial batch may leave out, and that count as none.
MANY_LEFT, FEW_LEFT = 0.05, 0.01
# Total weights of the losses on outputs whose rate is like that of labels with weight 1.
LIKE_ONE = (0.5, 2.0)


def training_findings(job: Job) -> tuple[str, ...]:
    """Sentences about settings that do something else than they seem to."""
    notes = job.request.origins.notes
    # Who learns from labels alone has none of the recipe's losses.
    if job.teacher_outputs is None:
        notes = [note for note in notes if not note.startswith("losses.")]
    replicas = job.strategy.num_replicas_in_sync
    left = partial_batch(len(job.dataset.train), job.train.batch_size, replicas=replicas)
    return (*notes, *([left] if left else []), *_broken_contracts(job))


def partial_batch(examples: int, batch_size: int, *, replicas: int = 1) -> str | None:
    """A sentence where full batches leave out much of an epoch, with the batch size to take instead.

    Args:
        examples: for training.
        batch_size: of an update.
        replicas: devices that share a batch.
    """
    batch = min(batch_size, examples)
    left = examples % batch
    if left <= MANY_LEFT * examples:
        return None
    near = [n for n in range(max(2, batch // 2), min(2 * batch, examples) + 1) if n % replicas == 0] or [batch]

    def preference(size: int) -> tuple[int, int]:
        rest = examples % size
        return (0 if rest <= FEW_LEFT * examples else rest, abs(size - batch))

    better = min(near, key=preference)
    rest = examples % better
    way_on = f"; --batch-size {better} leaves out {rest or 'none'}" if rest < left else ""
    return (
        f"{left} of {examples} training examples are left out of each epoch (different ones each time), because "
        f"the last batch of {batch} is not full{way_on}"
    )


def rate_finding(recipe: Recipe, *, arm: str, baseline: str) -> str | None:
    """A sentence where an arm learns from labels and outputs at another rate than its baseline.

    A baseline learns from labels with weight 1. An optimizer whose steps follow the size of the gradient makes the
    total weight of an arm's losses on outputs a factor of its learning rate.

    Args:
        recipe: of the arm.
        arm, baseline: their names.
    """
    optimizer = recipe.train.optimizer.kind
    total = sum(_mean_weight(loss) for loss in recipe.losses or () if loss.on_logits)
    if optimizer not in PROPORTIONAL_TO_GRADIENT or LIKE_ONE[0] <= total <= LIKE_ONE[1]:
        return None
    return (
        f"{arm}: its losses on labels and outputs have a total weight of {total:g}, and the steps of {optimizer} "
        f"follow it: it learns from them at about {total:g} times the rate of {baseline}, whose labels have "
        "weight 1; weights with a sum of 1, or --set train.optimizer=adam, compare equal rates"
    )


def _mean_weight(loss: Loss) -> float:
    """The weight of a loss on average over training, its warm-up included."""
    weight, share = loss.weight, 1.0 - loss.warmup / 2
    if isinstance(weight, Change):
        weight = weight.over * (weight.start + weight.to) / 2 + (1.0 - weight.over) * weight.to
    return weight * share


def _broken_contracts(job: Job) -> list[str]:
    """What the user's own losses break of the contract of losses, as far as it matters in a run."""
    found = []
    for term in job.terms:
        names = job.request.custom.files_of(term.loss)
        if not names:
            continue
        from kdcli.loss_contract.check import PREFLIGHT_CHECKS, check_contract

        (path,) = (path for path in job.request.custom.paths if path.name == names[0])
        found += [
            f"losses.{term.loss.label} breaks the contract of losses: {point.name}: {point.reason}; "
            f"kd losses check {path} tries all of it"
            for point in check_contract(term.loss, PREFLIGHT_CHECKS)
            if point.state == "failed"
        ]
        # The check has set the seed for itself.
        keras.utils.set_random_seed(job.recipe.train.seed)
    return found
