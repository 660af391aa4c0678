"""Memory of a distillation against the number of examples: it must stay flat.

Run: python benchmarks/memory.py [--examples 10000 1000000] [--steps 300] [--folder DIR] [--encoded]

Writes pictures of 32×32×3 bytes to an uncompressed `.npz` (3 GB for a million; with `--encoded` JPEGs to a
TFRecord file), trains a small teacher on them and distils it into a smaller student, in a fresh process for each
size, with the same number of steps. Counted is the resident memory of that process and its children, pages of
mapped files included, sampled every 20 ms; the stage is what the run had told last. Expected: less than 400 MB
between the sizes. What grows: labels, the order of an epoch, the split (8 bytes an example each, while they are
made a few times that), a view's random numbers, kept answers (40 bytes an example) where they are in memory.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil

from kdcli.lazy import tf

SIDE, CLASSES, TEST = 32, 10, 2000
PART = 10_000


def pictures(count, seed):
    """Noise with a bright bar in the place of the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.integers(0, 100, (count, SIDE, SIDE, 3), np.uint8)
    for label in range(CLASSES):
        images[labels == label, 3 * label : 3 * label + 3] += 100
    return images, labels


def parts(count):
    return [(seed, min(PART, count - seed * PART)) for seed in range(-(-count // PART))]


def splits(count):
    """The seeds and sizes of the parts of each split."""
    return {"train": parts(count), "validation": [(10**6, TEST)], "test": [(10**6 + 1, TEST)]}


def write_arrays(path, count):
    """A `.npz` file, written part by part."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for split, sizes in splits(count).items():
            labels = []
            with archive.open(f"x_{split}.npy", "w", force_zip64=True) as file:
                shape = (sum(size for _, size in sizes), SIDE, SIDE, 3)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for seed, size in sizes:
                    images, truth = pictures(size, seed)
                    labels.append(truth)
                    file.write(images.data)
            with archive.open(f"y_{split}.npy", "w") as file:
                np.lib.format.write_array(file, np.concatenate(labels))


def write_records(folder, count):
    """TFRecord files of JPEGs."""
    folder.mkdir()
    for split, sizes in splits(count).items():
        with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord")) as writer:
            for image, label in (pair for seed, size in sizes for pair in zip(*pictures(size, seed), strict=True)):
                picture = tf.train.BytesList(value=[tf.io.encode_jpeg(image).numpy()])
                number = tf.train.Int64List(value=[int(label)])
                features = {
                    "image/encoded": tf.train.Feature(bytes_list=picture),
                    "image/class/label": tf.train.Feature(int64_list=number),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


class Sampling:
    """The largest resident memory of this process and its children, by stage."""

    def __init__(self):
        self.phase, self.peaks = "start", {}
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        own = self._process.cmdline()
        while True:
            resident = self._process.memory_info().rss
            for child in self._process.children(recursive=True):
                try:
                    # Until it runs another program, a new child shares the memory of its parent.
                    resident += child.memory_info().rss if child.cmdline() != own else 0
                except psutil.NoSuchProcess:
                    continue
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), resident)
            time.sleep(0.02)

    def told(self, event):
        """A listener of `on_event`."""
        self.phase = getattr(event, "stage", None) or f"after {type(event).__name__}"


def run(data, out, steps):
    """Train and distil in this process; prints its peaks as JSON."""
    import kdcli

    sampling = Sampling()
    settings = [f"train.steps={steps}", "train.batch_size=64"]
    teacher = {"model": {"kind": "zoo", "name": "cnn", "width": 8, "blocks": 2}}
    student = {"model": {"kind": "zoo", "name": "cnn", "width": 4, "blocks": 2}}
    losses = [{"kind": "labels", "weight": 0.1}, {"kind": "soft_targets", "weight": 0.9}]
    recipe = {"version": 1, "teacher": teacher, "student": student, "losses": losses}
    given = {"recipe": recipe, "data": data, "settings": settings, "on_event": sampling.told}
    sampling.phase = "opening the teacher's run"
    first = kdcli.train_teacher(out=out / "teacher", **given)
    sampling.phase = "opening the student's run"
    began = time.perf_counter()
    second = kdcli.distill(teacher=first.model_path, out=out / "student", **given)
    seconds = time.perf_counter() - began
    found = {"peaks": sampling.peaks, "seconds": seconds, "targets": second.to_json()["targets"]}
    # What the system itself remembers, in kilobytes: short peaks may lie between two samples.
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**found, "highest": highest, "accuracy": second.test.accuracy}))


def measured(count, folder, *, steps, encoded):
    """What a fresh process needed for so many examples."""
    print(f"{count} examples ...", file=sys.stderr)
    data = folder / (f"records-{count}" if encoded else f"arrays-{count}.npz")
    (write_records if encoded else write_arrays)(data, count)
    words = [sys.executable, __file__, "--child", str(data), "--folder", str(folder / f"runs-{count}")]
    environment = {**os.environ, "KD_CACHE_DIR": str(folder / f"cache-{count}")}
    ran = subprocess.run(
        [*words, "--steps", str(steps)], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    return {"examples": count, "peak": max(found["highest"], *found["peaks"].values()), **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where the data is written and removed again")
    parser.add_argument("--encoded", action="store_true", help="JPEGs in TFRecord files instead of arrays")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run(arguments.child, arguments.folder, arguments.steps)
        return
    with tempfile.TemporaryDirectory(prefix="kd-memory-", dir=arguments.folder) as folder:
        rows = [
            measured(count, Path(folder), steps=arguments.steps, encoded=arguments.read_encoded)
            for count in arguments.examples
        ]
    print(f"TensorFlow {tf.__version__}, {platform.machine()}, {os.cpu_count()} cores")
    print(f"{'examples':>10} {'peak MB':>9} {'distill s':>10}  stage of the peak")
    for row in rows:
        stage = max(row["peaks"], key=row["peaks"].get)
        print(f"{row['examples']:>10} {row['peak'] / 1e6:>9.0f} {row['seconds']:>10.1f}  {stage}")
    for stage in rows[0]["peaks"]:
        print(f"  {stage:32}" + "".join(f"{row['peaks'].get(stage, 0) / 1e6:>9.0f}" for row in rows))
    grown = rows[-1]["peak"] - rows[0]["peak"]
    print(f"grown by {grown / 1e6:.0f} MB from {rows[0]['examples']} to {rows[-1]['examples']} examples")
    print(json.dumps({"rows": rows, "grown_bytes": grown}))


if __name__ == "__main__":
    main()
