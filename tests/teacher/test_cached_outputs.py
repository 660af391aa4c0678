"""Cached outputs are used again by runs with the same teacher, examples and views, and by no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import bar_reader, blobs, save_npz

import kdcli
from kdcli.cache.layout import Layout
from kdcli.distillation.targets import MappedTargets
from kdcli.errors import Interrupted, ModelError, StorageError, UsageError
from kdcli.events import EpochEnded, Note, Progress
from kdcli.runs import writer
from kdcli.runs.results import Plan
from kdcli.teacher.inference import TeacherPass
from kdcli.training.step import Stepper
from kdcli.zoo import Cnn

SOFT = [{"kind": "labels"}, {"kind": "soft_targets", "temperature": 2.0}]
HINT = [*SOFT, {"kind": "hint", "teacher_layer": "flatten_features", "student_layer": "pooling"}]
CROP = [{"kind": "flip"}, {"kind": "shift", "pixels": 1}]


def build_teacher(scale: float = 1.0) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten(name="flatten_features")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(flat))
    model.set_weights([weight * scale for weight in bar_reader().get_weights()])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cached")
    build_teacher().save(folder / "teacher.keras")
    keras.utils.set_random_seed(0)
    Cnn(width=2, blocks=1).build((8, 8, 1), 3).save(folder / "student.keras")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def first_run(folder):
    """A run with the default settings, and the cache that it has filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_CACHE_DIR", str(folder / "cache"))
        return distill(folder, folder / "run"), folder / "cache"


@pytest.fixture
def filled_cache(first_run, own_cache):
    """A copy of the cache after the first run."""
    return shutil.copytree(first_run[1], own_cache)


@pytest.fixture
def teacher_passes(monkeypatch) -> list[int]:
    """The number of examples in each call of a teacher pass."""
    counts: list[int] = []
    call = TeacherPass.__call__

    def counting(self, view, start, stop, **options):
        counts.append(stop - start)
        return call(self, view, start, stop, **options)

    monkeypatch.setattr(TeacherPass, "__call__", counting)
    return counts


def distill(
    folder, out, *, losses=SOFT, data=None, section=None, train=None, notes=None, examples="data.npz", **options
):
    recipe = {"losses": losses, "data": data or {}, "teacher": section or {}}
    recipe["train"] = {"epochs": 2, "batch_size": 16, **(train or {})}
    if notes is not None:
        options["on_event"] = lambda event: notes.append(event.text) if isinstance(event, Note) else None
    files = {role: folder / f"{role}.keras" for role in ("teacher", "student")}
    options = {**files, "data": folder / examples, **options}
    return kdcli.distill(recipe=recipe, out=out, **options)


def load_weights(run):
    return keras.saving.load_model(run.model_path).get_weights()


def are_equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(load_weights(one), load_weights(other), strict=True))


@pytest.mark.parametrize("losses", [SOFT, HINT], ids=["logits", "features"])
def test_a_second_run_uses_the_cache_and_trains_the_same_student(
    folder, own_cache, tmp_path, teacher_passes, losses
):
    first = distill(folder, tmp_path / "a", losses=losses)
    assert (first.targets["mode"], first.targets["hit"]) == ("disk", False)
    assert 86 in teacher_passes
    teacher_passes.clear()
    second = distill(folder, tmp_path / "b", losses=losses)
    assert (second.targets["hit"], teacher_passes) == (True, [])
    assert are_equal(first, second)
    assert second.teacher == first.teacher
    assert second.test == first.test


def test_a_teacher_saved_again_uses_the_cache(folder, filled_cache, tmp_path, teacher_passes):
    # Saving again changes the bytes of the file, not the model.
    keras.saving.load_model(folder / "teacher.keras").save(tmp_path / "again.keras")
    assert distill(folder, tmp_path / "b", teacher=tmp_path / "again.keras").targets["hit"]
    assert teacher_passes == []


OTHERS = {
    # Another file is expected to need other outputs: there is no note.
    "weights": ({"teacher": "other.keras"}, None),
    "preparation": ({"section": {"input": {"scale": "signed"}}}, "the teacher's preprocessing"),
    "views": ({"data": {"augment": CROP}, "section": {"views": 2}}, "the number of views"),
    "seed of the views": (
        {"data": {"augment": CROP, "seed": 5}, "section": {"views": 3}},
        "the seed of the augmentation",
    ),
    "taps": ({"losses": HINT}, "the stored features"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_outputs_are_computed_again_with_the_reason(folder, filled_cache, tmp_path, teacher_passes, other):
    options, named = OTHERS[other]
    if "seed" in other:
        distill(folder, tmp_path / "a", data={"augment": CROP, "seed": 4}, section={"views": 3})
    build_teacher(2.0).save(tmp_path / "other.keras")
    options = {**options, **({"teacher": tmp_path / "other.keras"} if "teacher" in options else {})}
    teacher_passes.clear()
    notes: list[str] = []
    run = distill(folder, tmp_path / "b", notes=notes, **options)
    assert not run.targets["hit"]
    assert teacher_passes
    reasons = [note for note in notes if note.startswith("cache entry ")]
    assert [named in note for note in reasons] == [True] * (named is not None)


def test_outputs_for_other_examples_are_computed_again(folder, filled_cache, tmp_path):
    x, y = blobs(96, seed=9)
    save_npz(folder / "other.npz", x_train=x, y_train=y)
    assert not distill(folder, tmp_path / "b", examples="other.npz").targets["hit"]
    assert not distill(folder, tmp_path / "c", limit=40).targets["hit"]


def test_disk_memory_and_live_train_the_same_student(folder, own_cache, tmp_path):
    runs = [distill(folder, tmp_path / mode, section={"targets": mode}) for mode in ("disk", "memory", "live")]
    assert [run.targets["mode"] for run in runs] == ["disk", "memory", "live"]
    assert are_equal(runs[0], runs[1])
    for a, b in zip(load_weights(runs[0]), load_weights(runs[2]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_mapped_outputs_train_the_same_student(folder, own_cache, tmp_path, monkeypatch):
    first = distill(folder, tmp_path / "a", losses=HINT)
    monkeypatch.setattr("kdcli.teacher.outputs.RESIDENT_BYTES", 0)
    calls = []
    monkeypatch.setattr(
        MappedTargets, "at", lambda self, batch, at=MappedTargets.at: calls.append(batch) or at(self, batch)
    )
    second = distill(folder, tmp_path / "b", losses=HINT)
    assert calls and are_equal(first, second)
    monkeypatch.setattr("kdcli.teacher.build.RESIDENT_BYTES", 0)
    with pytest.raises(UsageError, match="XLA needs the teacher's outputs in memory"):
        distill(folder, tmp_path / "c", losses=HINT, train={"jit": "on"})


def test_memory_and_live_write_nothing_to_the_cache(folder, own_cache, tmp_path):
    for mode in ("memory", "live"):
        distill(folder, tmp_path / mode, section={"targets": mode})
    assert not own_cache.exists()


def test_a_dry_run_writes_nothing_and_shows_the_fingerprint(folder, own_cache, tmp_path):
    plan = distill(folder, tmp_path / "a", dry_run=True)
    assert isinstance(plan, Plan)
    assert not own_cache.exists()
    # There are too few examples to choose half precision.
    assert plan.targets["precision"] == "float32"
    assert plan.targets["fingerprint"] == distill(folder, tmp_path / "a").targets["fingerprint"]
    warm = distill(folder, tmp_path / "b", dry_run=True)
    assert warm.seconds["teacher"] == 0.0


def test_the_teacher_is_live_if_the_cache_limit_is_too_small(folder, own_cache, tmp_path):
    plan = distill(folder, tmp_path / "b", cache_limit=1000, dry_run=True)
    assert plan.targets["mode"] == "live"
    assert "the cache may take" in plan.targets["why"] and "--cache-limit" in plan.targets["why"]
    with pytest.raises(StorageError, match=r"teacher\.targets=disk: the outputs need 1,032 bytes"):
        distill(folder, tmp_path / "c", cache_limit=1000, section={"targets": "disk"})


def test_cached_outputs_need_no_space(folder, filled_cache, tmp_path):
    assert distill(folder, tmp_path / "b", cache_limit=0).targets["hit"]


def read_files(cache: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in cache.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_dry_run_does_not_change_a_filled_cache(folder, filled_cache, tmp_path, damaged):
    if damaged:
        (shard,) = find_training_shards(filled_cache)
        shard.write_bytes(shard.read_bytes()[:-1])
    before = read_files(filled_cache)
    assert isinstance(distill(folder, tmp_path / "b", dry_run=True), Plan)
    assert read_files(filled_cache) == before


def test_inputs_are_identified_by_name(own_cache, tmp_path):
    inputs = {name: keras.Input((4,), name=name) for name in ("a", "b")}
    keras.utils.set_random_seed(1)
    joined = keras.layers.Concatenate()([inputs["a"], keras.layers.Rescaling(2.0)(inputs["b"])])
    model = keras.Model(inputs, keras.layers.Dense(3)(joined))
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 40, 4)).astype(np.float32)
    labels = np.arange(40) % 3
    hits = []
    for number, (a, b) in enumerate([(one, other), (one, other), (other, one)]):
        data = {"x_train.a": a, "x_train.b": b, "y_train": labels, "x_test.a": a, "x_test.b": b, "y_test": labels}
        # The second run has the same inputs in reverse order.
        ordered = dict(sorted(data.items(), reverse=number == 1))
        student = {"kind": "zoo", "name": "clone"}
        recipe = {"losses": SOFT, "train": {"epochs": 1, "batch_size": 8}, "student": {"model": student}}
        run = kdcli.distill(
            teacher=model, recipe=recipe, data=ordered, out=tmp_path / str(number), preflight=False
        )
        hits.append(run.targets["hit"])
    assert hits == [False, True, False]


@keras.saving.register_keras_serializable(package="cached_outputs")
class Sign(keras.layers.Layer):
    """Its config does not say what it computes."""

    sign = 1.0

    def call(self, x):
        return x * Sign.sign


def test_a_teacher_with_custom_layers_is_not_cached(folder, own_cache, tmp_path, monkeypatch):
    def build_custom_teacher():
        inputs = keras.Input((8, 8, 1))
        return keras.Model(inputs, Sign()(build_teacher()(inputs)))

    model = build_custom_teacher()
    right = distill(folder, tmp_path / "a", teacher=model)
    monkeypatch.setattr(Sign, "sign", -1.0)
    wrong = distill(folder, tmp_path / "b", teacher=build_custom_teacher(), preflight=False)
    assert [run.targets["mode"] for run in (right, wrong)] == ["memory", "memory"]
    assert right.teacher["accuracy"] > 0.9 > wrong.teacher["accuracy"]
    assert not own_cache.exists() or not list(own_cache.glob("answers/*/*.answers"))
    with pytest.raises(StorageError, match="no serializable config"):
        distill(folder, tmp_path / "c", teacher=model, section={"targets": "disk"})


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_a_value_that_overflows_outside_the_sample_is_stored_as_bfloat16(
    folder, own_cache, tmp_path, teacher_passes, mode
):
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten(name="flatten_features")(keras.layers.Rescaling(1000.0)(inputs))
    outputs = keras.layers.Dense(3, kernel_initializer="zeros")(flat)
    keras.Model(inputs, outputs).save(tmp_path / "large.keras")
    x, y = blobs(400)
    # The bright examples are outside the sample of features, the first 256.
    x = np.minimum(x, 50)
    x[390:] = 255
    save_npz(tmp_path / "data.npz", x_train=x, y_train=y)
    options = {
        "teacher": tmp_path / "large.keras",
        "examples": tmp_path / "data.npz",
        "preflight": False,
        "losses": HINT,
    }
    section = {"input": {"scale": "raw"}, "targets": mode, "output_kind": "logits"}
    notes: list[str] = []
    run = distill(folder, tmp_path / "a", section=section, notes=notes, **options)
    assert run.targets["kept"] == {"logits": "float32", "flatten_features": "bfloat16"}
    assert sum("stored as bfloat16" in note for note in notes) == 1
    if mode == "disk":
        teacher_passes.clear()
        again = distill(folder, tmp_path / "b", section=section, **options)
        assert (again.targets["hit"], teacher_passes) == (True, [])
        assert are_equal(run, again)


def test_a_resumed_run_keeps_the_seconds_of_teacher_inference(folder, own_cache, tmp_path):
    epochs = []

    def collect(event):
        if isinstance(event, EpochEnded):
            epochs.append(event)

    options = {"train": {"epochs": 3}, "section": {"precision": "auto"}}
    with pytest.raises(Interrupted, match="stopped at step"):
        distill(folder, tmp_path / "a", on_event=collect, stop=lambda: 130 if epochs else None, **options)
    earlier = json.loads((tmp_path / "a" / "environment.json").read_text())["answers"]
    assert earlier["hit"] is False
    run = distill(folder, tmp_path / "a", resume=True, **options)
    assert run.targets["hit"] is False
    assert run.seconds["teacher"] >= earlier["seconds"]


def find_training_shards(cache: Path) -> list[Path]:
    found = []
    for about in cache.glob("answers/*/about.json"):
        if json.loads(about.read_text())["described"]["split"] == "train":
            found += sorted(about.parent.glob("*.answers"))
    return found


@pytest.mark.parametrize("damage", ["truncated", "a flipped bit", "empty"])
def test_a_damaged_shard_is_computed_again_with_a_note(
    folder, first_run, filled_cache, tmp_path, teacher_passes, damage
):
    (shard,) = find_training_shards(filled_cache)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    contents = {"truncated": content[:-7], "a flipped bit": content, "empty": b""}
    shard.write_bytes(contents[damage])
    notes: list[str] = []
    second = distill(folder, tmp_path / "b", notes=notes)
    assert not second.targets["hit"]
    assert teacher_passes
    assert any(shard.name in note and "computed again" in note for note in notes)
    assert are_equal(first_run[0], second)


def test_outputs_computed_before_a_stop_are_used_again(folder, own_cache, tmp_path, teacher_passes, monkeypatch):
    monkeypatch.setattr(Layout, "examples_per_shard", 20)
    done = []

    def collect(event):
        # Three views of the training examples.
        if isinstance(event, Progress) and event.total == 3 * 86:
            done.append(event.done)

    def stop():
        return 143 if done and done[-1] >= 100 else None

    options = {"section": {"views": 3}, "data": {"augment": CROP}, "train": {"epochs": 3}}
    with pytest.raises(Interrupted, match="stopped during teacher inference on the training examples"):
        distill(folder, tmp_path / "a", stop=stop, on_event=collect, **options)
    assert not (tmp_path / "a").exists()
    teacher_passes.clear()
    run = distill(folder, tmp_path / "a", **options)
    assert not run.targets["hit"]
    # Computed again: the sample of 86, validation, test, and the views except the first, which is cached.
    assert sum(teacher_passes) - 86 - 48 - 10 <= 3 * 86 - 86


def test_a_teacher_that_computes_nan_is_refused_and_not_cached(folder, own_cache, tmp_path):
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.full((64, 3), 3e38, np.float32), np.zeros(3, np.float32)])
    model.save(tmp_path / "nan.keras")
    with pytest.raises(ModelError, match="NaN or infinity"):
        distill(folder, tmp_path / "a", teacher=tmp_path / "nan.keras")
    assert list(own_cache.glob("answers/*/*.answers")) == []


def test_a_requested_cache_that_is_a_file_is_refused(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="it is a file") as caught:
        distill(folder, tmp_path / "a")
    assert caught.value.exit_code == 5
    assert "teacher.targets=memory" in caught.value.hint
    assert not (tmp_path / "a").exists()
    assert distill(folder, tmp_path / "a", section={"targets": "memory"}).targets["mode"] == "memory"


def test_outputs_stay_in_memory_if_the_default_cache_cannot_be_used(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("KD_CACHE_DIR")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    plan = distill(folder, tmp_path / "a", dry_run=True)
    assert plan.targets["mode"] == "memory"
    assert "the cache cannot be used" in plan.targets["why"]


def test_a_full_disk_is_an_error_and_does_not_damage_the_cache(folder, filled_cache, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in filled_cache.rglob("*.answers")}

    def full(step, path):
        if step == "write" and path.suffix == ".answers":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "hook", full)
    with pytest.raises(StorageError, match="disk full"):
        distill(folder, tmp_path / "b", limit=50)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before


def test_a_cache_on_another_file_system_works(folder, tmp_path, monkeypatch):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system to write to")
    cache = shm / f"kd-test-{tmp_path.name}"
    monkeypatch.setenv("KD_CACHE_DIR", str(cache))
    try:
        distill(folder, tmp_path / "a")
        assert distill(folder, tmp_path / "b").targets["hit"]
    finally:
        shutil.rmtree(cache, ignore_errors=True)


@pytest.mark.parametrize(("epochs", "views"), [(2, 2), (9, 8)])
def test_auto_stores_a_view_for_each_epoch_and_at_most_eight(folder, own_cache, tmp_path, epochs, views):
    plan = distill(folder, tmp_path / "a", data={"augment": CROP}, train={"epochs": epochs}, dry_run=True)
    assert (plan.targets["mode"], plan.targets["views"]) == ("disk", views)


def test_half_precision_is_used_on_request(folder, own_cache, tmp_path):
    run = distill(folder, tmp_path / "a", section={"precision": "mixed_bfloat16"})
    assert run.targets["precision"] == "mixed_bfloat16"
    plan = distill(folder, tmp_path / "b", section={"precision": "mixed_bfloat16"}, dry_run=True)
    assert any("agree with float32" in finding for finding in plan.findings)
    with pytest.raises(UsageError, match="mixed_float16 needs a GPU"):
        distill(folder, tmp_path / "c", section={"precision": "mixed_float16"})


@pytest.mark.parametrize(("requested", "used"), [("auto", "float32"), ("mixed_bfloat16", "mixed_bfloat16")])
def test_a_live_teacher_computes_in_float32_unless_set(folder, own_cache, tmp_path, requested, used):
    section = {"targets": "live", "precision": requested}
    plan = distill(folder, tmp_path / "a", section=section, dry_run=True)
    assert (plan.targets["mode"], plan.targets["precision"]) == ("live", used)
    assert distill(folder, tmp_path / "a", section=section).targets["precision"] == used


def build_pixel_hash() -> keras.Model:
    """A model with different outputs for every image: sums of its bytes with integer weights."""
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([np.random.default_rng(0).integers(-40, 40, (64, 3)).astype(np.float32)])
    return model


@pytest.mark.parametrize("augment", [CROP, [*CROP, {"kind": "mixup", "alpha": 1.0}], [{"kind": "cutmix"}]])
def test_student_and_teacher_see_the_same_pixels(folder, own_cache, tmp_path, monkeypatch, augment):
    build_pixel_hash().save(tmp_path / "pixels.keras")
    compared = []
    start = Stepper.start

    def start_and_compare(self, order, *, table, slot):
        start(self, order, table=table, slot=slot)
        batch = self.feed.gather(order[0], table, slot=slot, total=len(order[0]))
        outputs = self.objective.targets.at(batch)["logits"]
        # The weights are integers and the sums small, so float32 is exact.
        expected = build_pixel_hash()(np.asarray(batch.inputs["x"], np.float32))
        compared.append((np.array_equal(outputs, expected), np.asarray(batch.inputs["x"]).tobytes()))

    monkeypatch.setattr(Stepper, "start", start_and_compare)
    section = {"views": 3, "input": {"scale": "raw"}, "output_kind": "logits"}
    options = {"teacher": tmp_path / "pixels.keras", "preflight": False, "train": {"epochs": 6}}
    distill(folder, tmp_path / "a", data={"augment": augment}, section=section, **options)
    assert [equal for equal, _ in compared] == [True] * 6
    assert len({pixels for _, pixels in compared}) == 6
