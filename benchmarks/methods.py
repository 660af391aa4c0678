"""What each method gains on CIFAR-10 over the same student from scratch, at 10 % of the data and at all of it.

Run: kd train-teacher --recipe cifar10 --data D --batch-size 128 --epochs 12 --out runs/cifar-teacher
     python benchmarks/methods.py --teacher runs/cifar-teacher --data D --out runs/methods
         [--share 0.1] [--methods soft_targets decoupled ...] [--repeats 3] [--second TEACHER]

Every run lies in OUT/<share>/<method>/seed-<k>: a run that was stopped goes on, one that has ended is read, and
other methods may be asked for later with the same OUT. Students of one seed start from the same weights and see
the same batches; `scratch` is the student on labels alone. The gain is the test accuracy minus that of scratch,
paired by seed: the 95 % t interval of each method alone, and `better` or `worse` where Holm's procedure over all
methods that were asked for says so too. Predicted, at 10 %: methods on outputs gain 2 to 3 points, hints and CRD
about as much, attention transfer and relations less; at all of it a point or nothing.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from statistics import fmean

import numpy as np

import kdcli
from kdcli.evaluation.statistics import decide_verdict, estimate_gain, holm_levels
from kdcli.lazy import tf

LABELS = {"kind": "labels", "weight": 1.0}
# Options are the defaults, which are the papers'; where soft labels join, `labels` weighs 0.1 as in the recipe.
METHODS = {
    "scratch": [LABELS],
    "soft_targets": [{**LABELS, "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9, "temperature": 2}],
    "standardized": [{**LABELS, "weight": 0.1}, {"kind": "soft_targets", "standardize": True}],
    "decoupled": [LABELS, {"kind": "decoupled", "warmup": 0.083}],
    "dist": [LABELS, {"kind": "dist"}],
    "multi_level": [LABELS, {"kind": "multi_level"}],
    "hint": [LABELS, {"kind": "hint"}],
    "attention_transfer": [LABELS, {"kind": "attention_transfer"}],
    "relational": [LABELS, {"kind": "relational"}],
    "similarity_preserving": [LABELS, {"kind": "similarity_preserving"}],
    "contrastive": [LABELS, {"kind": "contrastive"}],
    "variational_information": [LABELS, {"kind": "variational_information"}],
    "review": [LABELS, {"kind": "review"}],
    "classifier_reuse": [{"kind": "classifier_reuse"}],
    "instance_graph": [LABELS, {"kind": "instance_graph"}],
}
SOFT = METHODS["soft_targets"]
METHODS["adversarial"] = [*SOFT, {"kind": "adversarial"}]
# Not other losses but other teachers: two at once, and an assistant of a size between teacher and student.
METHODS |= {"ensemble": SOFT, "assistant": SOFT}
ASSISTANT = {"description": "the assistant", "student": {"model": {"kind": "zoo", "name": "cnn", "width": 32}}}
FAMILIES = (
    "scratch soft_targets decoupled dist hint attention_transfer relational contrastive classifier_reuse "
    "instance_graph"
).split()


def recipe(method, share, steps):
    """One method under the settings that all of them share."""
    return {
        "description": f"{method} at {share:g} of CIFAR-10",
        "data": {
            "augment": [{"kind": "flip"}, {"kind": "crop", "padding": 4}],
            "limit": share,
            "validation": 0.1 if share < 0.5 else 0.02,
            "seed": 0,
        },
        "teacher": {"views": 16 if share < 0.5 else 4},
        "student": {"model": {"kind": "zoo", "name": "cnn", "width": 16}, "start": "fresh"},
        "losses": METHODS[method],
        **({"stages": [ASSISTANT, {"description": "the student"}]} if method == "assistant" else {}),
        "train": {
            "steps": steps,
            "batch_size": 64,
            "optimizer": {"kind": "adam", "learning_rate": 2e-3},
            "schedule": {"kind": "cosine", "warmup": 0.05},
            "gradient_clip": 5.0,
        },
    }


def trained(arguments, method, seed):
    """The summary of one run, and which test examples it decides rightly."""
    run = kdcli.distill(
        teacher=[arguments.teacher, arguments.second] if method == "ensemble" else arguments.teacher,
        data=arguments.data,
        recipe=recipe(method, arguments.share, arguments.steps),
        seed=seed,
        out=arguments.out / f"{arguments.share:g}" / method / f"seed-{seed}",
        resume=True,
    )
    with np.load(run.run / "predictions.npz") as file:
        right = file["logits"].argmax(-1) == file["labels"]
    return json.loads((run.run / "summary.json").read_text()), right


def gain(ours, theirs, alpha=0.05):
    """The mean difference of the accuracy over seeds, with its interval."""
    differences = [np.mean(one) - np.mean(other) for one, other in zip(ours, theirs, strict=True)]
    by_example = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    return estimate_gain(differences, sampling=float(np.std(by_example) / np.sqrt(len(by_example))), alpha=alpha)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--second", help="another teacher, for the method `ensemble`")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=FAMILIES)
    parser.add_argument("--steps", type=int, help="3000 below half of the data, else 6000")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (3000 if arguments.share < 0.5 else 6000)
    methods = list(dict.fromkeys(["scratch", *arguments.methods]))
    summaries, right = {name: [] for name in methods}, {name: [] for name in methods}
    for seed in range(arguments.repeats):
        for method in methods:
            summary, decisions = trained(arguments, method, seed)
            summaries[method].append(summary)
            right[method].append(decisions)
            figures = f"{summary['test']['accuracy']:.4f}  {summary['seconds']}"
            print(f"seed {seed}  {method:24} {figures}", flush=True)
    others = [method for method in methods if method != "scratch"]
    gains = {method: gain(right[method], right["scratch"]) for method in others}
    levels = holm_levels([gains[method].p for method in others])
    teacher = next(s["teacher"]["accuracy"] for m in others for s in summaries[m] if s["teacher"]["accuracy"])
    print(
        f"TensorFlow {tf.__version__}, {platform.machine()}, {os.cpu_count()} cores; {arguments.share:g} of the "
        f"training examples, {arguments.steps} steps, {arguments.repeats} repeats; teacher {100 * teacher:.2f} %"
    )
    print(
        "\n| method | parameters | test accuracy % | gain, points [95 %] | over all methods (Holm) | training s |"
    )
    print("|---|---|---|---|---|---|")
    document = {}
    for method in methods:
        scores = [100 * np.mean(decisions) for decisions in right[method]]
        seconds = float(np.median([summary["seconds"]["training"] for summary in summaries[method]]))
        parameters = summaries[method][0]["parameters"]
        mean = f"{fmean(scores):.2f} ({', '.join(f'{score:.2f}' for score in scores)})"
        cells = [method, f"{parameters:,}", mean, "", ""]
        document[method] = {"parameters": parameters, "accuracies": scores, "seconds": seconds}
        if method in gains:
            one = gains[method]
            wide = gain(right[method], right["scratch"], levels[others.index(method)])
            cells[3:] = (
                "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in (one.mean, one.low, one.high))),
                decide_verdict(wide.low, wide.high),
            )
            document[method]["gain"] = [one.mean, one.low, one.high]
        print(f"| {' | '.join(cells)} | {seconds:.0f} |")
    (arguments.out / f"methods-{arguments.share:g}.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
