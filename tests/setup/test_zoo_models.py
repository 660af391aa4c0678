"""Zoo models in a run: input shape, input scale, weights, clones."""

from __future__ import annotations

import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import blobs

import kdcli
from kdcli.data.dataset import open_dataset
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note
from kdcli.recipe.model_sections import StudentSection, TeacherSection
from kdcli.recipe.sections import DataSection
from kdcli.setup.open_models import open_model
from kdcli.setup.zoo_models import published_scale
from kdcli.zoo import Application, Clone, Cnn


def colours(examples=12, size=8):
    images, labels = blobs(examples, size=size)
    return np.repeat(images, 3, axis=-1), labels


def opened(source, *, role="student", start="file", data=None, section=None, notes=None, teacher=None, seed=0):
    dataset = open_dataset(DataSection(), seed=0, arrays=data or blobs(12))
    return open_model(
        role,
        given=None,
        source=source,
        start=start,
        dataset=dataset,
        section=section or StudentSection(),
        seed=seed,
        on_event=(notes if notes is not None else []).append,
        teacher=teacher,
    )


def with_input(**options):
    return StudentSection.model_validate({"input": options})


@pytest.fixture
def small(monkeypatch):
    """One convolution and a head under a name of `keras.applications`; `imagenet` fills it with ones."""

    def make(*, include_top, weights, input_shape, classes=1000, classifier_activation=None, pooling=None):
        inputs = keras.Input(input_shape)
        ones = "ones" if weights else "glorot_uniform"
        x = keras.layers.Conv2D(2, 3, kernel_initializer=ones, name="inside")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(classes)(x) if include_top else x)

    monkeypatch.setattr(keras.applications, "MobileNet", make)


def test_resize_sets_the_input_shape_of_a_zoo_model():
    found = opened(Cnn(width=2, blocks=1), section=with_input(resize=[12, 10]))
    assert found.network.inputs[0].shape == (12, 10, 1)
    assert found.network.preprocessing["x"].preprocessed_shape == (12, 10, 1)
    assert opened(Cnn(width=2, blocks=1)).network.inputs[0].shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("architecture", "scale"),
    [
        ("MobileNetV2", "signed"),
        ("ResNet50", "caffe"),
        ("DenseNet121", "imagenet"),
        ("EfficientNetB0", "raw"),
        ("MobileNetV3Small", "raw"),
        ("ConvNeXtTiny", "raw"),
        ("VGG16", "caffe"),
        ("InceptionV3", "signed"),
    ],
)
def test_the_published_scale_of_an_architecture_is_found(architecture, scale):
    assert published_scale(Application(architecture=architecture)) == scale


def test_an_application_uses_its_published_scale_unless_one_is_set(small):
    notes, source = [], Application(architecture="MobileNet")
    found = opened(source, data=colours(), notes=notes)
    assert found.network.preprocessing["x"].scale == "signed"
    assert [note.text for note in notes if isinstance(note, Note)] == [
        "student: input.scale is signed, as in the preprocessing of MobileNet"
    ]
    assert (
        opened(source, data=colours(), section=with_input(scale="raw")).network.preprocessing["x"].scale == "raw"
    )
    # Color channel statistics do not apply to gray images.
    grey = opened(Application(architecture="MobileNet"), data=blobs(12))
    assert grey.network.preprocessing["x"].scale == "signed"


def test_published_weights_count_as_a_start_from_a_file(small):
    trained = opened(Application(architecture="MobileNet", weights="imagenet"), data=colours())
    assert (trained.start, trained.path, len(trained.sha256)) == ("file", None, 64)
    assert (trained.network.model.get_layer("inside").kernel.numpy() == 1).all()
    assert trained.to_json()["name"] == "zoo application MobileNet (imagenet)"
    fresh = opened(Application(architecture="MobileNet"), data=colours())
    assert (fresh.start, fresh.sha256) == ("fresh", None)


def test_fresh_and_published_weights_contradict_each_other(small):
    source = Application(architecture="MobileNet", weights="imagenet")
    with pytest.raises(UsageError, match=r"student.start is fresh, but .*weights is imagenet") as caught:
        opened(source, data=colours(), start="fresh")
    assert "student.start=file" in caught.value.hint
    # A teacher's `fresh` is only the default of its section.
    assert opened(source, role="teacher", start="fresh", data=colours(), section=TeacherSection()).start == "file"


def test_weights_of_a_file_are_recorded(small, tmp_path):
    path = tmp_path / "w.weights.h5"
    model = Application(architecture="MobileNet").build((8, 8, 3), 3)
    model.save_weights(path)

    def make(*, include_top, weights, input_shape, classes, classifier_activation):
        model.load_weights(weights)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "MobileNet", make)
        found = opened(Application(architecture="MobileNet", weights=str(path)), data=colours())
    assert (found.start, found.path, len(found.sha256)) == ("file", path, 64)


def teacher_of(**options):
    return opened(Cnn(width=2, blocks=2), role="teacher", section=TeacherSection(), **options).network


def test_a_clone_has_the_architecture_of_the_teacher_and_weights_from_its_seed():
    teacher = teacher_of()
    one, same, other = (opened(Clone(), teacher=teacher, seed=seed) for seed in (5, 5, 6))
    layers = [(layer.name, type(layer)) for layer in teacher.model.layers]
    assert [(layer.name, type(layer)) for layer in one.network.model.layers] == layers
    assert (one.start, one.to_json()["name"]) == ("fresh", "zoo clone")
    assert dict(one.network.taps) == dict(teacher.taps)
    kernels = [found.network.model.get_layer("logits").kernel.numpy() for found in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert not np.array_equal(kernels[0], teacher.model.get_layer("logits").kernel.numpy())


def test_a_clone_uses_the_preprocessing_of_its_teacher():
    teacher = teacher_of().with_scale("raw")
    assert opened(Clone(), teacher=teacher).network.preprocessing["x"].scale == "raw"
    own = opened(Clone(), teacher=teacher, section=with_input(scale="signed"))
    assert own.network.preprocessing["x"].scale == "signed"


def test_a_clone_as_the_teacher_is_refused(tmp_path):
    recipe = {"teacher": {"model": {"kind": "zoo", "name": "clone"}}, "train": {"epochs": 1}}
    with pytest.raises(UsageError, match="only a student can be one"):
        kdcli.train_teacher(recipe=recipe, data=blobs(24), out=tmp_path / "a")
    student = {"model": {"kind": "zoo", "name": "mlp"}}
    recipe |= {"student": student, "losses": [{"kind": "soft_targets"}]}
    with pytest.raises(UsageError, match=r"teacher\.model is clone.* only a student can be a clone"):
        kdcli.distill(recipe=recipe, data=blobs(24), out=tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_clone_is_distilled_and_resumed_from_its_recorded_recipe(tmp_path):
    teacher = Cnn(width=2, blocks=1).build((8, 8, 1), 3)
    given = {
        "teacher": teacher,
        "recipe": {"student": {"model": {"kind": "zoo", "name": "clone"}}, "losses": [{"kind": "soft_targets"}]},
        "data": blobs(48),
        "out": tmp_path / "a",
        "epochs": 1,
        "preflight": False,
    }
    run = kdcli.distill(**given)
    assert run.parameters == teacher.count_params()
    assert "name: clone" in (run.run / "recipe.yaml").read_text()
    assert "start: fresh" in (run.run / "recipe.yaml").read_text()
    assert kdcli.distill(**given, resume=True).to_json()["epochs"] == 1


def test_weights_are_opened_in_the_format_that_was_screened(small, tmp_path):
    path = tmp_path / "both.weights.h5"
    with h5py.File(path, "w", userblock_size=512):
        pass
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ModelError, match=r"not a \.h5 file"):
        opened(Application(architecture="MobileNet", weights=str(path)), data=colours())
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(60))
    with pytest.raises(ModelError, match=r"refused|not a Keras weights file"):
        opened(Application(architecture="MobileNet", weights=str(tmp_path / "m.tflite")), data=colours())
