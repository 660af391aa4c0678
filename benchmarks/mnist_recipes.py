"""The shipped recipes on MNIST: the Keras documentation's student under one teacher, over several seeds.

Run: kd train-teacher --recipe mnist --out runs/mnist-teacher          (99.58 % here, 342 s on two cores)
     python benchmarks/mnist_recipes.py --teacher runs/mnist-teacher   (about 20 minutes on two cores)

Without a recipe the student learns from labels alone, with the same seeds, batches, steps and selection. The test
split is read once a run; best weights are chosen on validation.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from documentation_models import build_student

import kdcli

RECIPES = {
    "labels alone": {"losses": [{"kind": "labels"}]},
    "soft-targets": "soft-targets",
    "soft-labels": "soft-labels",
    "feature": "feature",
    "feature-kl": "feature-kl",
    "combined": "combined",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        student = Path(folder) / "student.keras"
        build_student().save(student)
        for name in arguments.recipes:
            results[name] = []
            for seed in range(arguments.seeds):
                run = kdcli.distill(
                    teacher=arguments.teacher,
                    student=student,
                    recipe=RECIPES[name],
                    data=arguments.data,
                    epochs=arguments.epochs,
                    seed=seed,
                    settings=["student.start=fresh"],
                    out=Path(folder) / f"{name}-{seed}",
                )
                results[name].append(run.test.accuracy)
            shown = "  ".join(f"{100 * value:.2f}" for value in results[name])
            print(f"{name:14} mean {100 * statistics.mean(results[name]):.2f} %   seeds {shown}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
