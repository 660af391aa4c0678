"""kd inspect: what a model file holds, and with data what it makes of real examples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.order import limited
from kdcli.errors import UsageError
from kdcli.evaluation.footprint import file_bytes, flops, weight_bytes
from kdcli.evaluation.quality import MAIN
from kdcli.events import OnEvent, ignore
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.litert import LiteRT, TensorInfo
from kdcli.models.opening import model_file, open_model
from kdcli.models.preparation import Preparation
from kdcli.models.tapping import layers_by_path
from kdcli.recipe.reading import read_recipe
from kdcli.runs.directory import recipe_of_run, role_of_run
from kdcli.runs.inspected import Checked, Inspection, Layer, Tensor
from kdcli.runs.recording import hash_file
from kdcli.workflows.asking import Asked
from kdcli.workflows.candidates import file_format, open_candidate
from kdcli.workflows.given import asked_for, open_given, require_data
from kdcli.workflows.starting import start_tensorflow

# Examples that are answered when data is given and no limit.
EXAMPLES = 512


def inspect(
    model: str | Path,
    *,
    data: Any = None,
    recipe: Any = None,
    settings: Sequence[str] = (),
    limit: float | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    on_event: OnEvent = ignore,
) -> Inspection:
    """Look into a model: inputs, outputs, parameters, FLOPs, bytes, layers and taps.

    Without data the output kind is what the last layer says, or what a run recorded. With data it is found on
    real examples, as is the scale of pictures, and `checked` says what the model made of them.

    Args:
        model: a `.keras`, `.h5` or `.tflite` file, or a run directory.
        data: a name, a path, or arrays as in `kdcli.distill`.
        recipe: for its `data` and `student.input`.
        settings: `path=value` texts, as for `--set`.
        limit: how many examples of the test split (everything where there is none) are answered: a count, or
            a share written with a point; 512 when left out.
        batch_size: examples in a batch; 256 when left out.
        threads: of TensorFlow, before it has started, and of the reader of a `.tflite` file.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> [tap.name for tap in kdcli.inspect("teacher.keras").taps]   # doctest: +SKIP
    """
    given, file = Path(model), model_file(Path(model))
    with_data = data is not None or recipe is not None
    idle = {"--set": settings, "--limit": limit is not None, "--batch-size": batch_size is not None}
    unused = [option for option, there in idle.items() if there]
    if unused and not with_data:
        raise UsageError(
            f"{unused[0]} is about the examples that a model is checked on, and there are none", hint="--data D"
        )
    form = file_format(file)
    asked = asked_for([given], recipe, settings=settings, data=data)
    if with_data:
        require_data(asked)
    if form == "tflite" and not with_data:
        with LiteRT(file, threads=threads) as runner:
            return _tensors_only(runner)
    start_tensorflow(threads=threads, seed=asked.recipe.train.seed)
    if not with_data:
        return _inspected(_as_recorded(given, KerasNetwork(open_model(file), name=str(file))), file, form)
    with ExitStack() as opened:
        dataset, examples = _examples(asked, limit, on_event)
        candidate = open_candidate(
            given,
            "student",
            asked=asked,
            dataset=dataset,
            threads=threads,
            opened=opened,
            on_event=on_event,
        )
        quality, answers = candidate.measure(
            examples, task=dataset.task, on_event=on_event, batch_size=batch_size or 256
        )
        network = candidate.network
        main = MAIN[dataset.task]
        value = quality.figure(main)
        checked = Checked(
            data=dataset.name,
            split=examples.split,
            examples=len(examples),
            task=dataset.task,
            input={name: preparation.to_json() for name, preparation in network.preparations.items()},
            answer=tuple(answers.shape[1:]),
            figure=None if value is None else (main, value),
        )
        if isinstance(network, KerasNetwork):
            return replace(_inspected(network, file, form), checked=checked)
        return replace(_tensors_only(network.runner), output_kind=network.output_kind, checked=checked)


def _examples(asked: Asked, limit: float | None, on_event: OnEvent) -> tuple[Dataset, Examples]:
    seed = asked.recipe.data_seed
    dataset = open_given(asked, carve=False, on_event=on_event)
    examples = dataset.split("auto")
    kept = limited(examples.all_labels(), len(examples), limit=limit or EXAMPLES, seed=seed)
    return dataset, examples.subset(kept)


def _inspected(network: KerasNetwork, file: Path, form: str) -> Inspection:
    model = network.model
    tensors = getattr(model, "outputs", None) or [None]
    last = network.last_layer.name if network.last_layer else "output"
    names = getattr(model, "output_names", None) or [last]
    dtype = str(getattr(tensors[0], "dtype", None) or model.compute_dtype)
    layers = layers_by_path(model)
    # A layer that holds others counts what is in them: only the innermost are shown with their weights.
    innermost = [path for path in layers if not any(other.startswith(f"{path}/") for other in layers)]
    return Inspection(
        path=file,
        format=form,
        sha256=hash_file(file),
        inputs=tuple(Tensor(spec.name, (None, *spec.shape), spec.dtype) for spec in network.inputs),
        outputs=(Tensor(names[0], (None, *network.output_shape), dtype),),
        bytes=file_bytes(file),
        output_kind=network.output_kind,
        parameters=network.parameters,
        export_bytes=weight_bytes(network.parameters),
        flops=flops(network) if network.preparations else None,
        taps=tuple(Tensor(name, (None, *shape)) for name, shape in network.taps.items()),
        layers=tuple(Layer(path, type(layers[path]).__name__, layers[path].count_params()) for path in innermost),
    )


def _as_recorded(given: Path, network: KerasNetwork) -> KerasNetwork:
    """At its own input size; a run also knows how its model's output was understood, and the size of pictures."""
    own = recipe_of_run(given)
    section = getattr(read_recipe(own).recipe, role_of_run(given)) if own else None
    if section is not None and section.output_kind != "auto":
        network = network.understood(section.output_kind, head=network.head)
    own_size: dict[str, Preparation] = {}
    for spec in network.inputs:
        shape = spec.shape
        if section is not None and section.input.resize != "auto":
            shape = (*section.input.resize, *shape[2:])
        known = tuple(side for side in shape if side is not None)
        if len(known) < len(shape):
            return network
        own_size[spec.name] = Preparation(known, spec.dtype, spec.shape, spec.dtype, scale="raw")
    return network.with_preparations(own_size)


def _tensors_only(runner: LiteRT) -> Inspection:
    """A `.tflite` file tells its tensors; what its format does not tell stays None."""
    return Inspection(
        path=runner.path,
        format="tflite",
        sha256=hash_file(runner.path),
        inputs=(_tensor(runner.input),),
        outputs=(_tensor(runner.output),),
        bytes=file_bytes(runner.path),
    )


def _tensor(info: TensorInfo) -> Tensor:
    return Tensor(info.name, (None, *(None if side < 0 else side for side in info.shape)), info.dtype)
