"""A whole distillation: kd against `keras.distillation.Distiller`, the documentation's, and its own parts.

Run: python benchmarks/distill_speed.py --data mnist.npz [--epochs 3] [--rounds 3] [--sides kd keras] [--json F]

The Keras documentation's teacher and student, batch 64, Adam, labels 0.1 and soft targets 0.9 at temperature 3.
Every measurement is a process of its own with an empty cache (but for `warm`), all sides in turn in each round;
counted is the time from opened files to the test accuracy of student and teacher, without imports. The teacher is
trained first, for one epoch, and not counted. The sides:

    kd         kd distill, the teacher in float32
    kd-bf16    the same with the teacher in mixed_bfloat16
    warm       kd distill again, the answers of an earlier run in the cache
    scratch    the student alone from labels, by kd's loop
    pass       the teacher's answers alone, to training and test examples
    keras      keras.distillation.Distiller with LogitsDistillation(loss=KLDivergence())
    documentation   a Distiller written as the documentation does
    hint       kd distill with a hint on the last convolution, answers kept
    hint-live  the same, the teacher asked in every step

Predicted before it was run, on two cores with AMX: keras / kd 2.5 (3 epochs) and 5.7 (10), keras / kd-bf16 4.9
and 8.5, kd / (pass + scratch) 1, warm / scratch 1. The results are in docs/results.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDES = ("kd", "kd-bf16", "warm", "scratch", "pass", "keras", "documentation", "hint", "hint-live")
BATCH, TEMPERATURE = 64, 3.0
SOFT = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": TEMPERATURE}]
# On the last convolution of both.
HINT = [{"kind": "labels", "weight": 0.1}, {"kind": "hint", "weight": 1.0}]


def recipe(side, epochs):
    teacher = {"precision": "mixed_bfloat16" if side == "kd-bf16" else "float32"}
    if side == "hint-live":
        teacher["targets"] = "live"
    return {
        "data": {"validation": 0.0},
        "teacher": teacher,
        "losses": HINT if side.startswith("hint") else SOFT,
        "train": {"epochs": epochs, "batch_size": BATCH},
    }


def with_kd(side, folder, data, epochs):
    import kdcli
    from kdcli.lazy import tf

    asked, given = recipe(side, epochs), {"data": str(data), "out": folder / "out"}
    if side.startswith("hint"):
        import keras

        for role in ("teacher", "student"):
            model = keras.saving.load_model(folder / f"{role}.keras")
            asked["losses"][1][f"{role}_layer"] = [one.name for one in model.layers if "conv" in one.name][-1]
    # TensorFlow is loaded before the clock runs, on both sides.
    tf.constant(0)
    if side == "scratch":
        since = time.perf_counter()
        run = kdcli.train_teacher(teacher=folder / "student.keras", recipe=asked, **given)
    else:
        since = time.perf_counter()
        run = kdcli.distill(
            teacher=folder / "teacher.keras", student=folder / "student.keras", recipe=asked, **given
        )
    seconds = time.perf_counter() - since
    parts = {"stages": run.seconds, "targets": run.targets} if run.targets else {"stages": run.seconds}
    return {"seconds": seconds, "accuracy": run.test.accuracy, **parts}


def teacher_alone(folder, data):
    """The pass over the training and the test examples, with opening the files, as a distillation does it."""
    import numpy as np

    from kdcli.data.named_arrays import splits_from_arrays
    from kdcli.data.views import Views
    from kdcli.models.files.open import open_file
    from kdcli.models.preprocessing import Preprocessing
    from kdcli.teacher.inference import TeacherPass

    since = time.perf_counter()
    with np.load(data) as file:
        splits = splits_from_arrays({name: file[name] for name in file.files}, name="data")
    network = open_file(folder / "teacher.keras").network.with_preprocessing(
        {"x": Preprocessing((28, 28), "uint8", (28, 28, 1), "float32")}
    )
    for split in (splits.train, splits.test):
        views = Views((), seed=0, count=1, examples=len(split))
        with TeacherPass(network, (), split, views) as answer:
            answer(0, 0, len(split))
    return {"seconds": time.perf_counter() - since}


def with_keras(side, folder, data, epochs):
    import keras
    import numpy as np

    since = time.perf_counter()
    with np.load(data) as file:
        x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = (part.astype("float32")[..., None] / 255 for part in (x, x_test))
    teacher, student = (keras.saving.load_model(folder / f"{role}.keras") for role in ("teacher", "student"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if side == "keras":
        soft = keras.distillation.LogitsDistillation(temperature=TEMPERATURE, loss=keras.losses.KLDivergence())
        distiller = keras.distillation.Distiller(teacher, student, soft, student_loss_weight=0.1)
        distiller.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=["accuracy"])
    else:
        distiller = documented(keras)(teacher, student)
        distiller.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=["accuracy"])
    distiller.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    for model in (teacher, student):
        model.compile(loss=loss, metrics=["accuracy"])
    teacher.evaluate(x_test, y_test, batch_size=256, verbose=0)
    accuracy = student.evaluate(x_test, y_test, batch_size=256, verbose=0)[1]
    return {"seconds": time.perf_counter() - since, "accuracy": accuracy}


def documented(keras):
    """A model whose loss asks the teacher in every step, the way the documentation teaches."""

    class Distilled(keras.Model):
        def __init__(self, teacher, student):
            super().__init__()
            self.teacher, self.student = teacher, student
            self.teacher.trainable = False

        def call(self, x, training=None):
            return self.student(x, training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            answers = self.teacher(x, training=False)
            soft, own = (keras.ops.softmax(logits / TEMPERATURE) for logits in (answers, y_pred))
            divergence = keras.ops.mean(keras.losses.kl_divergence(soft, own)) * TEMPERATURE**2
            labels = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
            return 0.1 * keras.ops.mean(labels) + 0.9 * divergence

    return Distilled


def prepare(folder, data):
    """Both models as files, the teacher trained for an epoch."""
    from documentation_models import build_student, build_teacher

    import kdcli

    build_student().save(folder / "student.keras")
    build_teacher().save(folder / "fresh.keras")
    train = {"train": {"epochs": 1, "batch_size": BATCH}}
    run = kdcli.train_teacher(teacher=folder / "fresh.keras", recipe=train, data=str(data), out=folder / "teacher")
    os.replace(run.model_path, folder / "teacher.keras")


def one(side, folder, data, epochs):
    if side == "prepare":
        prepare(folder, data)
        return {}
    if side == "pass":
        return teacher_alone(folder, data)
    return (
        with_keras(side, folder, data, epochs)
        if side in ("keras", "documentation")
        else with_kd(side, folder, data, epochs)
    )


def measured(side, folder, data, epochs, cache):
    """One side in a process of its own."""
    words = [sys.executable, __file__, "--one", side, "--folder", folder, "--data", data, "--epochs", epochs]
    environment = {**os.environ, "KD_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "2"}
    ran = subprocess.run([str(word) for word in words], env=environment, stdout=subprocess.PIPE, check=True)
    subprocess.run(["rm", "-rf", str(folder / "out")], check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=["kd", "kd-bf16", "warm", "scratch", "pass", "keras"]
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    data, epochs = arguments.data.resolve(), arguments.epochs
    if arguments.one:
        sys.path.insert(0, str(Path(__file__).parent))
        print(json.dumps(one(arguments.one, arguments.folder, data, epochs)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured("prepare", folder, data, epochs, folder / "cache-prepare")
        found = {side: [] for side in arguments.sides}
        if "warm" in found:
            measured("kd", folder, data, epochs, folder / "cache-warm")
        for number in range(arguments.rounds):
            for side in found:
                cache = folder / ("cache-warm" if side == "warm" else f"cache-{side}-{number}")
                found[side].append(measured(side, folder, data, epochs, cache))
                print(f"round {number + 1}  {side:14} {found[side][-1]}", file=sys.stderr, flush=True)
                if side != "warm":
                    subprocess.run(["rm", "-rf", str(cache)], check=True)
    report(found, epochs, arguments.json)


def report(found, epochs, path):
    medians = {side: statistics.median(one["seconds"] for one in runs) for side, runs in found.items()}
    print(f"{epochs} epochs, {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for side, runs in found.items():
        seconds = sorted(one["seconds"] for one in runs)
        accuracy = (
            f"   accuracy {statistics.fmean(o['accuracy'] for o in runs):.4f}" if "accuracy" in runs[0] else ""
        )
        print(f"{side:14} median {medians[side]:7.1f} s   {seconds[0]:.1f} to {seconds[-1]:.1f}{accuracy}")
    ratios = {}
    for slow, fast in (
        ("keras", "kd"),
        ("keras", "kd-bf16"),
        ("documentation", "kd"),
        ("warm", "scratch"),
        ("hint-live", "hint"),
    ):
        if slow in medians and fast in medians:
            ratios[f"{slow} / {fast}"] = medians[slow] / medians[fast]
    if {"kd", "pass", "scratch"} <= set(medians):
        ratios["kd / (pass + scratch)"] = medians["kd"] / (medians["pass"] + medians["scratch"])
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    document = {"epochs": epochs, "medians": medians, "ratios": ratios, "runs": found}
    if path:
        path.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps({"epochs": epochs, "medians": medians, "ratios": ratios}))


if __name__ == "__main__":
    main()
