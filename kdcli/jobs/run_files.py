"""The files of a run: recipe, environment, model card, summary."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from kdcli import __version__
from kdcli.jobs.job import format_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs import writer
from kdcli.runs.directory import Run
from kdcli.runs.results import RunResult
from kdcli.runs.run_environment import collect_versions, describe_machine, read_arguments, redact_document
from kdcli.screening.verdict import Trust


def write_start(
    run: Run,
    *,
    command: str,
    requested: Recipe,
    resolved: Recipe,
    inputs: dict[str, Any],
    trust: Trust,
    device: dict[str, Any],
    answers: dict[str, Any] | None,
) -> None:
    """Write `recipe.yaml` and `environment.json`, before the first step.

    Args:
        run: the opened directory.
        command: of the job.
        requested: the recipe as requested.
        resolved: the recipe with every `auto` resolved.
        inputs: path and sha256 of every input.
        trust: what model files were allowed to do.
        device: the record of devices, replicas and threads.
        answers: whether the teacher's outputs were cached, and the seconds they took; None without a teacher.
    """
    environment = {
        "command": command,
        "arguments": read_arguments(),
        "versions": collect_versions(),
        "machine": describe_machine(),
        **device,
        "seed": resolved.train.seed,
        "inputs": inputs,
        "answers": answers,
        "trust": asdict(trust),
        "requested": redact_document(requested.model_dump(mode="json", by_alias=True, exclude_none=True)),
    }
    # The environment is written last: its presence tells `--resume` that the run can continue.
    writer.write_text(run.recipe, format_recipe(resolved))
    writer.write_text(run.environment, json.dumps(environment, indent=2) + "\n")


def write_end(
    run: Run, result: RunResult, *, recipe: Recipe, class_names: tuple[str, ...], model: dict[str, Any]
) -> None:
    """Write the model card, then `summary.json`, whose presence marks the run as finished."""
    document = result.to_json()
    writer.write_text(
        run.readme, _render_model_card(document, recipe=recipe, class_names=class_names, model=model)
    )
    writer.write_text(run.summary, json.dumps(document, indent=2) + "\n")
    writer.remove(run.checkpoint)


def _render_model_card(
    document: dict[str, Any], *, recipe: Recipe, class_names: tuple[str, ...], model: dict[str, Any]
) -> str:
    """Render the model card in Markdown; `model` is `OpenedModel.to_json()`."""
    test, teacher = document["test"] or {}, document.get("teacher") or {}

    def show(value: Any, pattern: str = "{}") -> str:
        return "not recorded" if value is None or value == "" else pattern.format(value)

    shown = class_names if len(class_names) <= 20 else (*class_names[:20], f"and {len(class_names) - 20} more")
    rows = [
        ("Description", show(recipe.description)),
        ("Task", show(document["task"])),
        ("Classes", ", ".join(shown)),
        ("Input", "; ".join(_describe_input(name, entry) for name, entry in model["input"].items())),
        ("Output", model["output_kind"]),
        ("Parameters", show(document["parameters"], "{:,}")),
        ("File size", show(document["bytes"], "{:,} bytes")),
        ("Test accuracy", show(test.get("accuracy"), "{:.4f}")),
        ("Test examples", show(test.get("examples"), "{:,}")),
        ("Test loss", show(test.get("loss"), "{:.4f}")),
        *([("Earlier stages", _describe_stages(document))] if document.get("stages") else []),
        ("Teacher's test accuracy", show(teacher.get("accuracy"), "{:.4f}")),
        ("Agreement with the teacher", show(teacher.get("agreement"), "{:.4f}")),
        ("Best epoch", f"{document['best_epoch']} of {document['epochs']}"),
        ("Seed", show(document["seed"])),
        ("Intended use", "not recorded"),
        ("Licence", "not recorded"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    file = document["model"].rsplit("/", 1)[-1]
    origin = f"Made by kd {__version__}. The recipe is in `recipe.yaml`, the machine in `environment.json`."
    return f"# {file}\n\n{origin}\n\n| | |\n|---|---|\n{table}\n\n```python\n{_render_example(file, model)}\n```\n"


def _describe_stages(document: dict[str, Any]) -> str:
    """The models of the earlier stages, in order; the last one is this student's teacher."""
    texts = []
    for entry in document["stages"]:
        accuracy = "" if entry["accuracy"] is None else f", accuracy {entry['accuracy']:.4f}"
        texts.append(f"`{entry['model']}` ({entry['parameters']:,} parameters{accuracy})")
    return ", then ".join(texts)


def _render_example(file: str, model: dict[str, Any]) -> str:
    """Python code that opens the model without kd."""
    signature = model["signature"]
    if signature is None:
        return f"import keras\n\nmodel = keras.saving.load_model({file!r})"
    arguments = ", ".join(f"{name}=x" for name in signature["inputs"])
    lines = (
        "import tensorflow as tf",
        "",
        f"model = tf.saved_model.load({file!r})",
        f"outputs = model.signatures[{signature['name']!r}]({arguments})[{signature['output']!r}]",
    )
    return "\n".join(lines)


_SCALES = {
    "unit": "uint8 divided by 255",
    "signed": "uint8 divided by 127.5, minus 1",
    "raw": "uint8 unchanged",
    "imagenet": "uint8 divided by 255, minus the ImageNet mean, divided by its standard deviation",
    "caffe": "uint8 in BGR order, minus the ImageNet mean",
}


def _describe_scale(scale: str | dict[str, Any]) -> str:
    if isinstance(scale, str):
        return _SCALES[scale]
    return f"uint8 minus {scale['mean']}, divided by {scale['deviation']}"


def _describe_input(name: str, entry: dict[str, Any]) -> str:
    """The preprocessing of a raw example for the model without kd."""
    shape = "×".join(str(side) for side in entry["shape"])
    steps = [f"{name}: {entry['dtype']} {shape}"]
    if entry["resize"]:
        steps.append(f"resized to {entry['resize'][0]}×{entry['resize'][1]} ({entry['fit']})")
    if entry["scale"]:
        steps.append(_describe_scale(entry["scale"]))
    return ", ".join(steps)
