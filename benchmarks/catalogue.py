"""The table of all losses: published cases that agree, the largest errors, and the time of a step.

Run: python benchmarks/catalogue.py [--rounds 7] [--steps 30]

Agreement: runs the tests of the losses and collects every compared case, in float64 and float32 (the reference
values must lie beside the checkout; without them the columns are empty). Time: one training step of a small
convolutional student at batch 64 under kept answers of a teacher twice as wide, each loss beside the same
`labels` term, as a multiple of the step with `soft_targets`; medians of rounds in which all losses take turns.
Predicted: losses on outputs 1.0 to 1.1; features without weights 1.1 to 1.5; losses with convolutions or a memory
of their own 1.5 to 4.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from kdcli.losses import LOSS_KINDS

ROOT = Path(__file__).parents[1]
EXAMPLES, CLASSES, BATCH = 2048, 10, 64


def agreement():
    """Kind → cases, and the largest errors by type, from the tests of the losses."""
    import pytest

    sys.path.insert(0, str(ROOT / "tests"))
    pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", "-W", "ignore", str(ROOT / "tests" / "losses")])
    found = {}
    for case in getattr(sys.modules.get("published"), "FOUND", ()):
        row = found.setdefault(case["kind"], {"cases": set()})
        row["cases"].add(case["case"])
        for figure in ("value", "gradient"):
            key = f"{figure} {case['dtype']}"
            row[key] = max(row.get(key, 0.0), case[figure])
    return found


def network(width, seed):
    """A small convolutional network with batch normalisation, 16×16 pictures."""
    import keras

    from kdcli.models.keras.network import KerasNetwork

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 3))
    flow = inputs
    for stage in range(3):
        flow = keras.layers.Conv2D(width * 2**stage, 3, padding="same", name=f"conv{stage}")(flow)
        flow = keras.layers.BatchNormalization(name=f"norm{stage}")(flow)
        flow = keras.layers.ReLU(name=f"relu{stage}")(flow)
        if stage < 2:
            flow = keras.layers.MaxPooling2D(name=f"pool{stage}")(flow)
    flow = keras.layers.GlobalAveragePooling2D(name="pooled")(flow)
    return KerasNetwork(
        keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(flow)), name=f"width {width}"
    )


def training(kind, inputs, labels):
    """A compiled step of a student under one loss beside `labels`, with the teacher's answers in memory."""
    import keras
    import tensorflow as tf

    from kdcli.data.feed import Feed
    from kdcli.data.named_arrays import splits_from_arrays
    from kdcli.data.views import create_identity_views
    from kdcli.distillation.objective import Objective
    from kdcli.distillation.targets import ResidentTargets
    from kdcli.distillation.terms import build_terms, list_teacher_taps
    from kdcli.losses import make
    from kdcli.models.prediction import LOGITS
    from kdcli.models.preprocessing import Preprocessing
    from kdcli.training.step import Stepper

    raw = {"x": Preprocessing(inputs.shape[1:], "float32", inputs.shape[1:], "float32", "raw")}
    student, teacher = (network(width, seed).with_preprocessing(raw) for seed, width in enumerate((16, 32)))
    losses = [make("labels")] + ([make(kind)] if kind != "labels" else [])
    student, losses = with_reused_classifier(losses, student, teacher)
    terms = build_terms(losses, student=student, teacher=teacher, examples=EXAMPLES, batch=BATCH)
    taps = list_teacher_taps(terms)
    answer = teacher.compute({"x": tf.constant(inputs)}, taps=taps)
    kept = {LOGITS: answer.logits.numpy(), **{name: answer.features[name].numpy() for name in taps}}
    examples = splits_from_arrays({"x": inputs, "y": labels}, name="catalogue").train
    objective = Objective(terms, student=student, targets=ResidentTargets(kept, examples=EXAMPLES))
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(objective.trainable_variables)
    views, strategy = create_identity_views(examples), tf.distribute.get_strategy()
    feed = Feed(examples, views, classes=CLASSES)
    stepper = Stepper(objective, feed, optimizer, batch_size=BATCH, total_steps=10**6, strategy=strategy)
    order = np.random.default_rng(0).permutation(EXAMPLES).reshape(-1, BATCH)

    def train(steps):
        stepper.start(np.resize(order, (steps, BATCH)), table=views.table(0), slot=0)
        assert stepper.run(steps, first=0).not_finite is None, kind

    return train


def with_reused_classifier(losses, student, teacher):
    """The student and the losses as a run has them where the last loss is `classifier_reuse`."""
    from kdcli.models.keras.classifier_reuse import graft_classifier

    loss = losses[-1]
    if loss.kind != "classifier_reuse":
        return student, losses
    ours = theirs = "relu2"
    projector = loss.projector(student.taps[ours], teacher.taps[theirs])
    grown_student, projected = graft_classifier(student, teacher, projector, student_tap=ours, teacher_tap=theirs)
    named = loss.model_copy(update={"student_layer": projected, "teacher_layer": theirs})
    return grown_student, [*losses[:-1], named]


def timed(*, rounds, steps):
    """Kind → milliseconds of a step in each round, all kinds in turn; and kinds that such networks cannot have."""
    from kdcli.errors import KdError

    random = np.random.default_rng(0)
    inputs = random.normal(size=(EXAMPLES, 16, 16, 3)).astype(np.float32)
    labels = random.integers(0, CLASSES, EXAMPLES)
    sides, missing = {}, {}
    for kind in LOSS_KINDS:
        try:
            sides[kind] = training(kind, inputs, labels)
        except KdError as error:
            missing[kind] = str(error)
    samples = {kind: [] for kind in sides}
    for number in range(rounds + 1):
        for kind, train in sides.items():
            since = time.perf_counter()
            train(steps if number else 2)
            if number:
                samples[kind].append((time.perf_counter() - since) / steps * 1e3)
    return samples, missing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    samples, missing = timed(rounds=arguments.rounds, steps=arguments.steps)
    found = agreement()
    import keras
    import tensorflow as tf

    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {platform.machine()}, {os.cpu_count()} cores")
    print("\n| kind | cases | value f64 | gradient f64 | value f32 | gradient f32 | step / soft_targets |")
    print("|---|---|---|---|---|---|---|")
    document = {}
    for kind in LOSS_KINDS:
        row = found.get(kind, {"cases": set()})
        errors = [
            row.get(f"{figure} {dtype}") for dtype in ("float64", "float32") for figure in ("value", "gradient")
        ]
        ratio = None
        if kind in samples:
            pairs = zip(samples[kind], samples["soft_targets"], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        document[kind] = {"cases": sorted(row["cases"]), "errors": errors, "ratio": ratio}
        cells = [f"{len(row['cases']) or '-'}", *("-" if one is None else f"{one:.0e}" for one in errors)]
        print(f"| {kind} | {' | '.join(cells)} | {'-' if ratio is None else f'{ratio:.2f}'} |")
    base = statistics.median(samples["soft_targets"])
    print(f"\nsoft_targets: {base:.2f} ms a step; not timed: {missing or 'none'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
