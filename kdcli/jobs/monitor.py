"""Which validation metric selects the best weights of a training."""

from __future__ import annotations

from kdcli.data.dataset import Dataset
from kdcli.errors import UsageError
from kdcli.evaluation.quality import MAIN_METRIC
from kdcli.recipe.train_section import TrainSection


def choose_monitor(train: TrainSection, dataset: Dataset, *, with_teacher: bool) -> str:
    """Choose the validation metric that selects the best weights.

    Raises:
        UsageError: early stopping monitors a metric that is not measured for this data.
    """
    known = [MAIN_METRIC[dataset.task], "loss", *(["mae"] if dataset.task == "regression" else [])]
    known += ["accuracy"] if dataset.task in ("multilabel", "segmentation") else []
    if not dataset.labelled:
        known = ["agreement"] if dataset.task != "regression" else []
    elif with_teacher and dataset.task != "regression":
        known.append("agreement")
    setting = train.early_stopping.monitor if train.early_stopping else None
    if setting is not None and setting not in known:
        raise UsageError(
            f"train.early_stopping.monitor: {setting} is not measured for this data; known: {', '.join(known)}"
        )
    return setting or (known[0] if known else "loss")
