"""Quantization-aware training: against quantization after training, and the network against its file.

python benchmarks/quantization.py OUT --teacher RUN --data cifar10 [--limit 0.3] [--applications]

Trains zoo students under a CIFAR-10 teacher and quantizes each; then widens the activation ranges of the `mobile`
student without changing its function, and quantizes that. Continues where it was stopped. `--applications` adds
MobileNetV2 and EfficientNetB0 (two epochs).
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import kdcli

# By how much one channel in sixteen is widened.
FACTOR = 30.0
STUDENTS = {
    "cnn": {"kind": "zoo", "name": "cnn", "width": 16},
    "resnet": {"kind": "zoo", "name": "resnet", "depth": 8, "width": 8},
    "mobile": {"kind": "zoo", "name": "mobile", "width": 16, "blocks": 5},
}


def widen(source: Path, target: Path) -> None:
    """Save a model with some channels scaled up and their readers scaled down: the same function in float32."""
    import keras

    model = keras.saving.load_model(source, compile=False)
    random = np.random.default_rng(0)
    weighted = [layer for layer in model.layers if layer.weights]
    for layer, reader in pairwise(weighted):
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        scale = np.ones(layer.gamma.shape[0], np.float32)
        scale[random.choice(len(scale), max(1, len(scale) // 16), replace=False)] = FACTOR
        layer.gamma.assign(layer.gamma * scale)
        layer.beta.assign(layer.beta * scale)
        spatial = isinstance(reader, keras.layers.DepthwiseConv2D | keras.layers.Conv2D)
        reader.kernel.assign(reader.kernel / (scale[None, None, :, None] if spatial else scale[:, None]))
    model.save(target)


def compare_with_file(run: Path, *, limit: int | None = None) -> tuple[float, float, float]:
    """How a trained network and its file differ on test images.

    Returns:
        The fraction of outputs at most one step apart, the largest number of steps, and the fraction of equal
        decisions.
    """
    from contextlib import ExitStack

    from kdcli.artifacts.converted_file import write_file
    from kdcli.exports import Litert
    from kdcli.quantization.network import QuantizedNetwork
    from kdcli.setup.evaluated_models import open_evaluated_file
    from kdcli.setup.named_models import open_examples, request_for_models

    request = request_for_models([run], None)
    dataset, examples = open_examples(request, split="test", limit=limit, on_event=lambda event: None)
    options: Any = {"request": request, "dataset": dataset, "threads": None, "on_event": lambda event: None}
    with ExitStack() as stack:
        network: Any = open_evaluated_file(run, "student", opened=stack, **options).network
        assert isinstance(network, QuantizedNetwork)
        path, form = run / "compared.tflite", Litert(quantize="int8", io="int8")
        serving = write_file(form, network, path, True, network.saved_kind, {}, None)
        runner = stack.enter_context(form.open(path))
        scale, differences, equal = runner.output.scale, [], []
        for start in range(0, len(examples), 250):
            raw = examples.take(np.arange(start, min(start + 250, len(examples))))
            found = runner.predict(serving.convert_examples(raw))
            expected = np.asarray(network.compute_saved_output(raw))
            differences.append(np.abs(found - expected) / scale)
            equal.append(found.argmax(-1) == expected.argmax(-1))
        path.unlink()
    steps = np.concatenate(differences)
    return float(np.mean(steps < 1.01)), float(steps.max()), float(np.mean(np.concatenate(equal)))


def show(name: str, run: Path, result: Any, *, limit: int | None = None) -> None:
    """Print the rows of one student."""
    for row in result.document["files"]:
        drop = row["drop"]
        print(
            f"{name:14} {row['name']:22} {row['bytes']:>9,} bytes  {row['test']:.4f} "
            f"[{row['low']:.4f}, {row['high']:.4f}]  drop {drop['value']:+.4f} "
            f"[{drop['low']:+.4f}, {drop['high']:+.4f}]  p50 {row['p50_ms']:.4f} ms",
            flush=True,
        )
    near, most, equal = compare_with_file(run, limit=limit)
    text = f"network and file: {near:.2%} within one step, at most {most:.0f}, {equal:.2%} equal decisions"
    print(f"{name:14} {text}", flush=True)


def main() -> None:
    """Train, quantize and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=float, default=0.3)
    parser.add_argument("--applications", action="store_true")
    options = parser.parse_args()
    common: dict[str, Any] = {"data": options.data, "limit": options.limit, "resume": True}
    for name, model in STUDENTS.items():
        run = options.out / name
        settings = [f"student.model={model}".replace("'", '"'), "teacher.views=4"]
        kdcli.distill(recipe="mobile", teacher=options.teacher, out=run, settings=settings, **common)
        out = options.out / f"{name}-int8"
        show(name, out, kdcli.quantize(run, out=out, resume=True))
    wide, out = options.out / "wide.keras", options.out / "wide-int8"
    if not wide.exists():
        widen(options.out / "mobile" / "student.keras", wide)
    show("wide mobile", out, kdcli.quantize(wide, recipe="mobile", teacher=options.teacher, out=out, **common))
    for name in ("MobileNetV2", "EfficientNetB0") if options.applications else ():
        run, out = options.out / name, options.out / f"{name}-int8"
        model = {"kind": "zoo", "name": "application", "architecture": name}
        settings = [f"student.model={model}".replace("'", '"'), "data.augment=[]", "train.steps=null"]
        settings.append("teacher.views=auto")
        few: dict[str, Any] = {**common, "epochs": 2, "preflight": False}
        kdcli.distill(recipe="mobile", teacher=options.teacher, out=run, settings=settings, **few)
        result = kdcli.quantize(run, out=out, epochs=1, resume=True)
        show(name, out, result, limit=1000)


if __name__ == "__main__":
    main()
