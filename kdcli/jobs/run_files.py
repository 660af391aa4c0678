"""What a run leaves behind: recipe, environment, model card, summary."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from kdcli import __version__
from kdcli.jobs.job import recipe_text
from kdcli.recipe.sections import Recipe
from kdcli.runs import writer
from kdcli.runs.directory import Run
from kdcli.runs.records import collect_versions, describe_machine, read_arguments, redact_document
from kdcli.runs.results import RunResult
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
    """`recipe.yaml` and `environment.json`, before the first step."""
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
    # The environment last: where it lies, `--resume` finds a run that can go on.
    writer.write_text(run.recipe, recipe_text(resolved))
    writer.write_text(run.environment, json.dumps(environment, indent=2) + "\n")


def write_end(
    run: Run, result: RunResult, *, recipe: Recipe, class_names: tuple[str, ...], model: dict[str, Any]
) -> None:
    """The model card, then `summary.json`, whose presence says that the run finished."""
    document = result.to_json()
    writer.write_text(run.readme, model_card(document, recipe=recipe, class_names=class_names, model=model))
    writer.write_text(run.summary, json.dumps(document, indent=2) + "\n")
    writer.remove(run.checkpoint)


def model_card(
    document: dict[str, Any], *, recipe: Recipe, class_names: tuple[str, ...], model: dict[str, Any]
) -> str:
    """A model card in Markdown; what nobody recorded says so. `model` is `Opened.to_json()`."""
    test, teacher = document["test"] or {}, document.get("teacher") or {}

    def said(value: Any, pattern: str = "{}") -> str:
        return "not recorded" if value is None or value == "" else pattern.format(value)

    shown = class_names if len(class_names) <= 20 else (*class_names[:20], f"and {len(class_names) - 20} more")
    rows = [
        ("Description", said(recipe.description)),
        ("Task", said(document["task"])),
        ("Classes", ", ".join(shown)),
        ("Input", "; ".join(_feeding(name, entry) for name, entry in model["input"].items())),
        ("Output", model["output_kind"]),
        ("Parameters", said(document["parameters"], "{:,}")),
        ("File size", said(document["bytes"], "{:,} bytes")),
        ("Test accuracy", said(test.get("accuracy"), "{:.4f}")),
        ("Test examples", said(test.get("examples"), "{:,}")),
        ("Test loss", said(test.get("loss"), "{:.4f}")),
        *([("Assistants", _assistants(document))] if document.get("stages") else []),
        ("Teacher's test accuracy", said(teacher.get("accuracy"), "{:.4f}")),
        ("Agreement with the teacher", said(teacher.get("agreement"), "{:.4f}")),
        ("Best epoch", f"{document['best_epoch']} of {document['epochs']}"),
        ("Seed", said(document["seed"])),
        ("Intended use", "not recorded"),
        ("Licence", "not recorded"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    file = document["model"].rsplit("/", 1)[-1]
    made = f"Made by kd {__version__}. The recipe is in `recipe.yaml`, the machine in `environment.json`."
    return f"# {file}\n\n{made}\n\n| | |\n|---|---|\n{table}\n\n```python\n{_example(file, model)}\n```\n"


def _assistants(document: dict[str, Any]) -> str:
    """Who taught in between, from the teacher on; the last one is this student's own teacher."""
    texts = []
    for entry in document["stages"]:
        accuracy = "" if entry["accuracy"] is None else f", accuracy {entry['accuracy']:.4f}"
        texts.append(f"`{entry['model']}` ({entry['parameters']:,} parameters{accuracy})")
    return ", then ".join(texts)


def _example(file: str, model: dict[str, Any]) -> str:
    """How anybody opens the model without kd."""
    signature = model["signature"]
    if signature is None:
        return f"import keras\n\nmodel = keras.saving.load_model({file!r})"
    given = ", ".join(f"{name}=x" for name in signature["inputs"])
    lines = (
        "import tensorflow as tf",
        "",
        f"model = tf.saved_model.load({file!r})",
        f"answers = model.signatures[{signature['name']!r}]({given})[{signature['output']!r}]",
    )
    return "\n".join(lines)


_SCALES = {
    "unit": "uint8 divided by 255",
    "signed": "uint8 divided by 127.5, minus 1",
    "raw": "uint8 as it is",
    "imagenet": "uint8 divided by 255, minus ImageNet's mean, divided by its deviation",
    "caffe": "uint8 in the order blue, green, red, minus ImageNet's mean",
}


def _scaling(scale: str | dict[str, Any]) -> str:
    if isinstance(scale, str):
        return _SCALES[scale]
    return f"uint8 minus {scale['mean']}, divided by {scale['deviation']}"


def _feeding(name: str, entry: dict[str, Any]) -> str:
    """What to do to a raw example before plain Keras gets it."""
    shape = "×".join(str(side) for side in entry["shape"])
    steps = [f"{name}: {entry['dtype']} {shape}"]
    if entry["resize"]:
        steps.append(f"resized to {entry['resize'][0]}×{entry['resize'][1]} ({entry['fit']})")
    if entry["scale"]:
        steps.append(_scaling(entry["scale"]))
    return ", ".join(steps)
