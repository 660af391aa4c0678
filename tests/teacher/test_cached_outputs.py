"""A teacher that answers once: what is kept is used again, and only where it is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import bar_reader, blobs, save_npz

import kdcli
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


def teacher(scale: float = 1.0) -> keras.Model:
    model = bar_reader()
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten(name="flatten_features")(inputs)
    made = keras.Model(inputs, keras.layers.Dense(3, name="out")(flat))
    made.set_weights([weight * scale for weight in model.get_weights()])
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    teacher().save(folder / "teacher.keras")
    keras.utils.set_random_seed(0)
    Cnn(width=2, blocks=1).build((8, 8, 1), 3).save(folder / "student.keras")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture
def request(monkeypatch) -> list[int]:
    """How many examples teachers answer, pass by pass."""
    counts: list[int] = []
    call = TeacherPass.__call__

    def counting(self, view, start, stop, **options):
        counts.append(stop - start)
        return call(self, view, start, stop, **options)

    monkeypatch.setattr(TeacherPass, "__call__", counting)
    return counts


def distill(
    folder, out, *, losses=SOFT, data=None, section=None, train=None, notes=None, examples="data.npz", **given
):
    recipe = {"losses": losses, "data": data or {}, "teacher": section or {}}
    recipe["train"] = {"epochs": 2, "batch_size": 16, **(train or {})}
    told = (
        (lambda event: notes.append(event.text) if isinstance(event, Note) else None)
        if notes is not None
        else None
    )
    files = {role: folder / f"{role}.keras" for role in ("teacher", "student")}
    given = {**files, "data": folder / examples, **given}
    return kdcli.distill(recipe=recipe, out=out, **given, **({"on_event": told} if told else {}))


def weights(run):
    return keras.saving.load_model(run.model_path).get_weights()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.mark.parametrize("losses", [SOFT, HINT], ids=["logits", "features"])
def test_a_second_run_asks_the_teacher_nothing_and_trains_the_same(folder, own_cache, tmp_path, request, losses):
    first = distill(folder, tmp_path / "a", losses=losses)
    assert (first.targets["mode"], first.targets["hit"]) == ("disk", False)
    # The training examples, validation, test, and looks before.
    assert request and request.count(86) >= 1
    request.clear()
    second = distill(folder, tmp_path / "b", losses=losses)
    assert (second.targets["hit"], request) == (True, [])
    assert same(first, second)
    assert second.teacher == {**first.teacher}
    assert second.test == first.test


def test_the_same_teacher_in_another_file_is_the_same_teacher(folder, own_cache, tmp_path, request):
    distill(folder, tmp_path / "a")
    request.clear()
    # Saved anew: other bytes, the same model.
    keras.saving.load_model(folder / "teacher.keras").save(tmp_path / "again.keras")
    assert distill(folder, tmp_path / "b", teacher=tmp_path / "again.keras").targets["hit"]
    assert request == []


OTHERS = {
    # Of another file other answers are no surprise.
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
def test_answers_to_anything_else_are_not_used_and_it_is_said_why(folder, own_cache, tmp_path, request, other):
    given, named = OTHERS[other]
    before = {"data": {"augment": CROP, "seed": 4}, "section": {"views": 3}} if "seed" in other else {}
    distill(folder, tmp_path / "a", **before)
    teacher(2.0).save(tmp_path / "other.keras")
    given = {**given, **({"teacher": tmp_path / "other.keras"} if "teacher" in given else {})}
    request.clear()
    notes: list[str] = []
    run = distill(folder, tmp_path / "b", notes=notes, **given)
    assert not run.targets["hit"]
    assert request
    said = [note for note in notes if note.startswith("cache entry ")]
    assert [named in note for note in said] == [True] * (named is not None)


def test_other_examples_are_answered_anew(folder, own_cache, tmp_path):
    distill(folder, tmp_path / "a")
    x, y = blobs(96, seed=9)
    save_npz(folder / "other.npz", x_train=x, y_train=y)
    assert not distill(folder, tmp_path / "b", examples="other.npz").targets["hit"]
    assert not distill(folder, tmp_path / "c", limit=40).targets["hit"]


def test_disk_memory_and_live_train_the_same_student(folder, own_cache, tmp_path):
    runs = [distill(folder, tmp_path / mode, section={"targets": mode}) for mode in ("disk", "memory", "live")]
    assert [run.targets["mode"] for run in runs] == ["disk", "memory", "live"]
    assert same(runs[0], runs[1])
    for a, b in zip(weights(runs[0]), weights(runs[2]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_answers_that_stay_on_disk_train_the_same_student(folder, own_cache, tmp_path, monkeypatch):
    first = distill(folder, tmp_path / "a", losses=HINT)
    monkeypatch.setattr("kdcli.teacher.outputs.RESIDENT_BYTES", 0)
    made = []
    monkeypatch.setattr(
        MappedTargets, "at", lambda self, batch, at=MappedTargets.at: made.append(1) or at(self, batch)
    )
    second = distill(folder, tmp_path / "b", losses=HINT)
    assert made and same(first, second)
    with pytest.raises(UsageError, match="XLA needs the teacher's answers in memory"):
        monkeypatch.setattr("kdcli.teacher.resolve.RESIDENT_BYTES", 0)
        distill(folder, tmp_path / "c", losses=HINT, train={"jit": "on"})


def test_answers_in_memory_or_asked_live_leave_nothing_on_disk(folder, own_cache, tmp_path):
    for mode in ("memory", "live"):
        distill(folder, tmp_path / mode, section={"targets": mode})
    assert not own_cache.exists()


def test_a_dry_run_writes_nothing_and_knows_the_fingerprint_of_the_run(folder, own_cache, tmp_path):
    plan = distill(folder, tmp_path / "a", dry_run=True)
    assert isinstance(plan, Plan)
    assert not own_cache.exists()
    assert plan.targets["fingerprint"] == distill(folder, tmp_path / "a").targets["fingerprint"]
    warm = distill(folder, tmp_path / "b", dry_run=True)
    assert warm.seconds["teacher"] == 0.0


def test_a_limit_that_is_too_small_leaves_the_teacher_live_and_the_plan_says_so(folder, own_cache, tmp_path):
    run = distill(folder, tmp_path / "a", cache_limit=1000)
    assert run.targets["mode"] == "live"
    plan = distill(folder, tmp_path / "b", cache_limit=1000, dry_run=True)
    assert "too many: the cache may take" in plan.targets["why"] and "--cache-limit" in plan.targets["why"]
    with pytest.raises(StorageError, match=r"teacher\.targets: disk cannot be"):
        distill(folder, tmp_path / "c", cache_limit=1000, section={"targets": "disk"})


def test_what_is_kept_already_needs_no_room(folder, own_cache, tmp_path):
    distill(folder, tmp_path / "a")
    assert distill(folder, tmp_path / "b", cache_limit=0).targets["hit"]


def files_of(cache: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in cache.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_dry_run_leaves_a_filled_cache_as_it_is(folder, own_cache, tmp_path, damaged):
    distill(folder, tmp_path / "a")
    if damaged:
        (shard,) = shards(own_cache)
        shard.write_bytes(shard.read_bytes()[:-1])
    before = files_of(own_cache)
    assert isinstance(distill(folder, tmp_path / "b", dry_run=True), Plan)
    assert files_of(own_cache) == before


def test_inputs_are_known_by_their_names(own_cache, tmp_path):
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
        # In the order in which the second one is named first, too.
        given = dict(sorted(data.items(), reverse=number == 1))
        student = {"kind": "zoo", "name": "clone"}
        recipe = {"losses": SOFT, "train": {"epochs": 1, "batch_size": 8}, "student": {"model": student}}
        run = kdcli.distill(teacher=model, recipe=recipe, data=given, out=tmp_path / str(number), preflight=False)
        hits.append(run.targets["hit"])
    assert hits == [False, True, False]


@keras.saving.register_keras_serializable(package="kept")
class Turning(keras.layers.Layer):
    """What it does is in no configuration."""

    sign = 1.0

    def call(self, x):
        return x * Turning.sign


def test_a_teacher_with_layers_of_its_own_is_kept_in_memory_only(folder, own_cache, tmp_path, monkeypatch):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, Turning()(teacher()(inputs)))
    right = distill(folder, tmp_path / "a", teacher=model)
    monkeypatch.setattr(Turning, "sign", -1.0)
    inputs = keras.Input((8, 8, 1))
    turned = distill(
        folder, tmp_path / "b", teacher=keras.Model(inputs, Turning()(teacher()(inputs))), preflight=False
    )
    assert [run.targets["mode"] for run in (right, turned)] == ["memory", "memory"]
    assert right.teacher["accuracy"] > 0.9 > turned.teacher["accuracy"]
    assert not own_cache.exists() or not list(own_cache.glob("answers/*/*.answers"))
    with pytest.raises(StorageError, match="is not known again"):
        distill(folder, tmp_path / "c", teacher=model, section={"targets": "disk"})


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_a_value_that_the_first_examples_did_not_show_is_kept_in_another_type(
    folder, own_cache, tmp_path, request, mode
):
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten(name="flatten_features")(keras.layers.Rescaling(1000.0)(inputs))
    outputs = keras.layers.Dense(3, kernel_initializer="zeros")(flat)
    keras.Model(inputs, outputs).save(tmp_path / "large.keras")
    x, y = blobs(400)
    # Bright only where no example of the look lies: most of the first 256 of the sample are others.
    x = np.minimum(x, 50)
    x[390:] = 255
    save_npz(tmp_path / "data.npz", x_train=x, y_train=y)
    given = {
        "teacher": tmp_path / "large.keras",
        "examples": tmp_path / "data.npz",
        "preflight": False,
        "losses": HINT,
    }
    section = {"input": {"scale": "raw"}, "targets": mode, "output_kind": "logits"}
    notes: list[str] = []
    run = distill(folder, tmp_path / "a", section=section, notes=notes, **given)
    assert run.targets["kept"] == {"logits": "float32", "flatten_features": "bfloat16"}
    assert sum("kept as bfloat16" in note for note in notes) == 1
    if mode == "disk":
        request.clear()
        again = distill(folder, tmp_path / "b", section=section, **given)
        assert (again.targets["hit"], request) == (True, [])
        assert same(run, again)


def test_a_run_that_goes_on_says_what_its_answers_took_when_it_began(folder, own_cache, tmp_path):
    epochs = []

    def told(event):
        if isinstance(event, EpochEnded):
            epochs.append(event)

    given = {"train": {"epochs": 3}, "section": {"precision": "auto"}}
    with pytest.raises(Interrupted, match="stopped at step"):
        distill(folder, tmp_path / "a", on_event=told, stop=lambda: 130 if epochs else None, **given)
    began = json.loads((tmp_path / "a" / "environment.json").read_text())["answers"]
    assert began["hit"] is False
    run = distill(folder, tmp_path / "a", resume=True, **given)
    assert run.targets["hit"] is False
    assert run.seconds["teacher"] >= began["seconds"]


def shards(cache: Path) -> list[Path]:
    """Those of the training examples."""
    found = []
    for about in cache.glob("answers/*/about.json"):
        if json.loads(about.read_text())["described"]["split"] == "train":
            found += sorted(about.parent.glob("*.answers"))
    return found


@pytest.mark.parametrize("harm", ["cut off", "a flipped bit", "emptied"])
def test_a_damaged_shard_is_answered_again_and_it_is_said(folder, own_cache, tmp_path, request, harm):
    first = distill(folder, tmp_path / "a")
    (shard,) = shards(own_cache)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    harms = {"cut off": content[:-7], "a flipped bit": content, "emptied": b""}
    shard.write_bytes(harms[harm])
    request.clear()
    notes: list[str] = []
    second = distill(folder, tmp_path / "b", notes=notes)
    assert not second.targets["hit"]
    assert request
    assert any(shard.name in note and "answered again" in note for note in notes)
    assert same(first, second)


def test_what_was_answered_before_a_stop_is_not_asked_again(folder, own_cache, tmp_path, request, monkeypatch):
    from kdcli.cache.layout import Layout

    monkeypatch.setattr(Layout, "shard", property(lambda self: 20))
    answered = []

    def told(event):
        # Of the three views of the training examples.
        if isinstance(event, Progress) and event.total == 3 * 86:
            answered.append(event.done)

    def stop():
        return 143 if answered and answered[-1] >= 100 else None

    given = {"section": {"views": 3}, "data": {"augment": CROP}, "train": {"epochs": 3}}
    with pytest.raises(Interrupted, match="stopped while the teacher was answering the training examples"):
        distill(folder, tmp_path / "a", stop=stop, on_event=told, **given)
    assert not (tmp_path / "a").exists()
    request.clear()
    run = distill(folder, tmp_path / "a", **given)
    assert not run.targets["hit"]
    # Answered anew: a look at all 86, test, and the views but for what was kept of them: 86 and more.
    assert sum(request) - 86 - 48 - 10 <= 3 * 86 - 86


def test_a_teacher_that_answers_nan_is_refused_and_nothing_of_it_is_kept(folder, own_cache, tmp_path):
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.full((64, 3), 3e38, np.float32), np.zeros(3, np.float32)])
    model.save(tmp_path / "nan.keras")
    with pytest.raises(ModelError, match="NaN or infinity"):
        distill(folder, tmp_path / "a", teacher=tmp_path / "nan.keras")
    assert list(own_cache.glob("answers/*/*.answers")) == []


def test_a_cache_that_cannot_be_one_is_refused(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="it is a file") as caught:
        distill(folder, tmp_path / "a")
    assert caught.value.exit_code == 5
    assert "teacher.targets=memory" in caught.value.hint
    assert not (tmp_path / "a").exists()
    assert distill(folder, tmp_path / "a", section={"targets": "memory"}).targets["mode"] == "memory"


def test_a_usual_cache_that_cannot_be_used_is_done_without(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("KD_CACHE_DIR")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    plan = distill(folder, tmp_path / "a", dry_run=True)
    assert plan.targets["mode"] == "memory"
    assert "the cache cannot be used" in plan.targets["why"]


def test_a_full_disk_is_told_and_leaves_the_good_cache_alone(folder, own_cache, tmp_path, monkeypatch):
    distill(folder, tmp_path / "a")
    before = {path: path.read_bytes() for path in own_cache.rglob("*.answers")}

    def full(step, path):
        if step == "write" and path.suffix == ".answers":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "hook", full)
    with pytest.raises(StorageError, match="disk full"):
        distill(folder, tmp_path / "b", limit=50)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before


def test_a_cache_on_another_file_system_works(folder, tmp_path, monkeypatch):
    place = Path("/dev/shm")
    if not place.is_dir() or place.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system to write to")
    cache = place / f"kd-test-{tmp_path.name}"
    monkeypatch.setenv("KD_CACHE_DIR", str(cache))
    try:
        distill(folder, tmp_path / "a")
        assert distill(folder, tmp_path / "b").targets["hit"]
    finally:
        shutil.rmtree(cache, ignore_errors=True)


@pytest.mark.parametrize(("epochs", "views"), [(2, 2), (9, 8)])
def test_auto_keeps_a_view_for_each_epoch_and_eight_at_most(folder, own_cache, tmp_path, epochs, views):
    plan = distill(folder, tmp_path / "a", data={"augment": CROP}, train={"epochs": epochs}, dry_run=True)
    assert (plan.targets["mode"], plan.targets["views"]) == ("disk", views)


def test_half_precision_is_obeyed_and_told(folder, own_cache, tmp_path):
    run = distill(folder, tmp_path / "a", section={"precision": "mixed_bfloat16"})
    assert run.targets["precision"] == "mixed_bfloat16"
    plan = distill(folder, tmp_path / "b", section={"precision": "mixed_bfloat16"}, dry_run=True)
    assert any("decisions agree with float32" in finding for finding in plan.findings)
    with pytest.raises(UsageError, match="mixed_float16 needs a GPU"):
        distill(folder, tmp_path / "c", section={"precision": "mixed_float16"})


def test_few_examples_are_answered_in_float32(folder, own_cache, tmp_path):
    assert distill(folder, tmp_path / "a", dry_run=True).targets["precision"] == "float32"


@pytest.mark.parametrize(("asked_for", "used"), [("auto", "float32"), ("mixed_bfloat16", "mixed_bfloat16")])
def test_a_live_teacher_answers_in_float32_unless_it_is_written(folder, own_cache, tmp_path, asked_for, used):
    section = {"targets": "live", "precision": asked_for}
    plan = distill(folder, tmp_path / "a", section=section, dry_run=True)
    assert (plan.targets["mode"], plan.targets["precision"]) == ("live", used)
    assert distill(folder, tmp_path / "a", section=section).targets["precision"] == used


def pixel_reader() -> keras.Model:
    """Answers with numbers that tell every picture from every other: sums of its bytes by whole-number weights."""
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(3, use_bias=False)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([np.random.default_rng(0).integers(-40, 40, (64, 3)).astype(np.float32)])
    return model


@pytest.mark.parametrize("augment", [CROP, [*CROP, {"kind": "mixup", "alpha": 1.0}], [{"kind": "cutmix"}]])
def test_the_student_sees_exactly_the_pixels_that_the_teacher_saw(
    folder, own_cache, tmp_path, monkeypatch, augment
):
    pixel_reader().save(tmp_path / "pixels.keras")
    compared = []
    started = Stepper.start

    def comparing(self, order, *, table, slot):
        started(self, order, table=table, slot=slot)
        batch = self.feed.gather(order[0], table, slot=slot, total=len(order[0]))
        answered = self.objective.targets.at(batch)["logits"]
        # The weights are whole numbers and the sums small: float32 holds them exactly.
        seen = pixel_reader()(np.asarray(batch.inputs["x"], np.float32))
        compared.append((np.array_equal(answered, seen), np.asarray(batch.inputs["x"]).tobytes()))

    monkeypatch.setattr(Stepper, "start", comparing)
    section = {"views": 3, "input": {"scale": "raw"}, "output_kind": "logits"}
    given = {"teacher": tmp_path / "pixels.keras", "preflight": False, "train": {"epochs": 6}}
    distill(folder, tmp_path / "a", data={"augment": augment}, section=section, **given)
    assert [equal for equal, _ in compared] == [True] * 6
    assert len({seen for _, seen in compared}) == 6
