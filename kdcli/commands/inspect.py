"""kd inspect: what a model file holds, and with data what it makes of real examples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.order import limit_positions
from kdcli.errors import UsageError
from kdcli.evaluation.quality import MAIN_METRIC
from kdcli.events import OnEvent, ignore_event
from kdcli.inspection.file import describe_network, inspect_file
from kdcli.inspection.zoo_model import ZOO_PREFIX, inspect_zoo
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.runs.inspection_results import DataCheck, Inspection
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import check_limits, open_named_data, request_for_models, require_data
from kdcli.setup.request import Request
from kdcli.setup.startup import start_tensorflow

# Examples that are answered when data is given and no limit.
EXAMPLES = 512
# Settings that say which part of a file is opened: they count without data too.
PARTS_OF_A_FILE = ("student.signature=", "student.output=", "student.input.tensor=", "student.input.values")
# What is looked into without TensorFlow.
ALONE = ("tflite", "onnx", "npz")


def inspect(
    model: str | Path,
    *,
    data: Any = None,
    recipe: Any = None,
    settings: Sequence[str] = (),
    limit: float | None = None,
    batch_size: int | None = None,
    signature: str | None = None,
    output: str | None = None,
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    threads: int | None = None,
    on_event: OnEvent = ignore_event,
) -> Inspection:
    """Look into a model: inputs, outputs, parameters, FLOPs, bytes, layers and taps.

    The file is screened, then opened fully, its weights read and checked. Without data the output kind is what the
    last layer says, or what a run recorded. With data it is found on real examples, as is the scale of pictures,
    and `checked` says what the model made of them. A file that is refused or does not open is no error here:
    `safe` is False, `findings` say why, and `refused` is what other commands raise.

    Args:
        model: a file, the folder of a SavedModel, a run directory, or `zoo:NAME` (with data: an untrained model of
            the zoo, as it would be built for them, in a few sizes).
        data: a name, a path, or arrays as in `kdcli.distill`.
        recipe: for its `data` and `student.input`.
        settings: `path=value` texts, as for `--set`.
        limit: how many examples of the test split (everything where there is none) are answered: a count, or
            a share written with a point; 512 when left out.
        batch_size: examples in a batch; 256 when left out.
        signature, output: which signature of a SavedModel, and which of several outputs, of the model.
        trust: what files may do: `kdcli.Trust(model=True)` is `--trust-model`.
        code: Python files that define own layers or kinds.
        threads: of TensorFlow, before it has started, and of the reader of a `.tflite` file.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> [tap.name for tap in kdcli.inspect("teacher.keras").taps]   # doctest: +SKIP
    """
    if str(model).startswith(ZOO_PREFIX):
        given_too: dict[str, Any] = {
            "--limit": limit,
            "--batch-size": batch_size,
            "--signature": signature,
            "--output": output,
        }
        for option in (option for option, value in given_too.items() if value is not None):
            raise UsageError(f"{option} has no effect on {model}, which is not trained yet", hint="leave it out")
        return inspect_zoo(
            str(model),
            recipe=recipe,
            settings=settings,
            data=data,
            threads=threads,
            on_event=on_event,
            trust=trust,
            code=code,
        )
    check_limits(limit=limit, batch_size=batch_size)
    given, file = Path(model), resolve_model_file(Path(model), trust=trust)
    with_data = data is not None or recipe is not None
    others = [setting for setting in settings if not setting.startswith(PARTS_OF_A_FILE)]
    idle = {
        f"--set {' '.join(others[:1])}": others,
        "--limit": limit is not None,
        "--batch-size": batch_size is not None,
    }
    unused = [option for option, there in idle.items() if there]
    if unused and not with_data:
        raise UsageError(
            f"{unused[0]} is about the examples that a model is checked on, and there are none", hint="--data D"
        )
    form = detect_format(file)
    request = request_for_models(
        [given],
        recipe,
        with_data=with_data,
        settings=settings,
        data=data,
        signature=signature,
        output=output,
        trust=trust,
        code=code,
    )
    if with_data:
        require_data(request)
    if with_data or form not in ALONE:
        start_tensorflow(threads=threads, seed=request.recipe.train.seed, code=request.code)
    looked = inspect_file(given, file, request, threads=threads, on_event=on_event)
    if not with_data or looked.refused is not None:
        return looked
    with ExitStack() as opened:
        dataset, examples = _examples(request, limit, on_event)
        candidate = open_evaluated_file(
            given,
            "student",
            request=request,
            dataset=dataset,
            threads=threads,
            opened=opened,
            on_event=on_event,
        )
        quality, answers = candidate.measure(
            examples, task=dataset.task, on_event=on_event, batch_size=batch_size or 256
        )
        network = candidate.network
        main = MAIN_METRIC[dataset.task]
        value = quality.metric(main)
        checked = DataCheck(
            data=dataset.name,
            split=examples.split,
            examples=len(examples),
            task=dataset.task,
            input={name: preparation.to_json() for name, preparation in network.preprocessing.items()},
            answer=tuple(answers.shape[1:]),
            metric=None if value is None else (main, value),
        )
        return replace(describe_network(looked, network), output_kind=network.saved_kind, checked=checked)


def _examples(request: Request, limit: float | None, on_event: OnEvent) -> tuple[Dataset, Examples]:
    seed = request.recipe.data_seed
    dataset = open_named_data(request, carve=False, on_event=on_event)
    examples = dataset.split("auto")
    kept = limit_positions(examples.all_labels(), len(examples), limit=limit or EXAMPLES, seed=seed)
    return dataset, examples.subset(kept)
