"""Every feature kind between real networks: convolutional, residual, depthwise, transformer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs
from four_networks import BUILDS, network, small

from kdcli.data.feed import Batch
from kdcli.distillation.objective import Objective
from kdcli.distillation.pairing import pair_layers
from kdcli.distillation.targets import LiveTargets
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.errors import ModelError, UsageError
from kdcli.formulas.map_sizes import match_sizes
from kdcli.loss import FeatureLoss
from kdcli.losses import LOSS_KINDS, make
from kdcli.zoo import Cnn, Mlp

X, Y = blobs(6, size=16)
FEATURES = sorted(
    kind for kind, member in LOSS_KINDS.items() if issubclass(member, FeatureLoss) and not member.grows_student
)
ON_SCORES = [kind for kind in FEATURES if LOSS_KINDS[kind].attention_scores]
ON_FEATURES = [kind for kind in FEATURES if kind not in ON_SCORES]
BATCH = Batch({"x": tf.convert_to_tensor(X)}, tf.constant(Y), None, tf.range(6), tf.constant(0), 6)


def trained_together(losses, *, student, teacher):
    """The terms of losses in one step, their values, and the norm of the gradient in the student."""
    keras.utils.set_random_seed(0)
    terms = build_terms(losses, student=student, teacher=teacher, examples=6, batch=6)
    objective = Objective(terms, student=student, targets=LiveTargets(teacher, list_teacher_taps(terms)))
    with tf.GradientTape() as tape:
        total, values = objective(BATCH, tf.constant(0.0))
    slopes = tape.gradient(total, [variable.value for variable in student.trainable_variables])
    return terms, values.numpy(), float(tf.linalg.global_norm([slope for slope in slopes if slope is not None]))


def trained_by(loss, **sides):
    """The term of a loss, its value, and the norm of its gradient in the student."""
    terms, values, norm = trained_together([loss], **sides)
    return terms[0], float(values[0]), norm


def shown(term):
    return [
        (pair.student, pair.teacher, made.text if made else None)
        for pair, made in zip(term.pairs, term.projections, strict=True)
    ]


# Teacher and student of different widths; the transformer has 16 tokens of twice the width.
HINTS = {
    ("cnn", "cnn"): ("block3", "block3", "1×1 convolution 8 → 12"),
    ("cnn", "residual"): ("stage3", "block3", "1×1 convolution 8 → 12"),
    ("cnn", "depthwise"): ("block5", "block3", "1×1 convolution 16 → 12"),
    ("cnn", "transformer"): ("normalization", "block3", "16 tokens as a map 4×4, 1×1 convolution 4 → 12"),
    ("residual", "cnn"): ("block3", "stage3", "1×1 convolution 8 → 12"),
    ("residual", "residual"): ("stage3", "stage3", "1×1 convolution 8 → 12"),
    ("residual", "depthwise"): ("block5", "stage3", "1×1 convolution 16 → 12"),
    ("residual", "transformer"): ("normalization", "stage3", "16 tokens as a map 4×4, 1×1 convolution 4 → 12"),
    ("depthwise", "cnn"): ("block3", "block5", "1×1 convolution 8 → 24"),
    ("depthwise", "residual"): ("stage3", "block5", "1×1 convolution 8 → 24"),
    ("depthwise", "depthwise"): ("block5", "block5", "1×1 convolution 16 → 24"),
    ("depthwise", "transformer"): ("normalization", "block5", "16 tokens as a map 4×4, 1×1 convolution 4 → 24"),
    ("transformer", "cnn"): ("block3", "normalization", "map 4×4 as 16 tokens, dense 8 → 6"),
    ("transformer", "residual"): ("stage3", "normalization", "map 4×4 as 16 tokens, dense 8 → 6"),
    ("transformer", "depthwise"): ("block5", "normalization", "map 4×4 as 16 tokens, dense 16 → 6"),
    ("transformer", "transformer"): ("normalization", "normalization", "dense 4 → 6"),
}


@pytest.mark.parametrize(("teacher", "student"), [(one, other) for one in BUILDS for other in BUILDS])
def test_a_hint_goes_from_every_architecture_to_every_other(teacher, student):
    term, value, norm = trained_by(make("hint"), student=small(student), teacher=small(teacher, width=3, seed=1))
    assert shown(term) == [HINTS[teacher, student]]
    assert value > 0
    assert norm > 0


def test_class_tokens_and_different_patches_are_matched():
    teacher = small("transformer", width=3, seed=1, token=True)
    cases = {
        ("cnn", ()): "map 4×4 as 16 tokens, dense 8 → 6, without the class token of the teacher",
        ("transformer", (("patch", 8),)): "4 tokens as a map 2×2, resize 2×2 → 4×4, map 4×4 as 16 tokens, "
        "dense 4 → 6, without the class token of the teacher",
    }
    for (name, options), text in cases.items():
        term, value, norm = trained_by(make("hint"), student=small(name, **dict(options)), teacher=teacher)
        assert shown(term)[0][2] == text
        assert value > 0 and norm > 0


def test_every_kind_works_across_convolutions_and_depthwise_convolutions():
    # Of these widths the stages have equal channels: 4, 8 and 16.
    student, teacher = small("depthwise"), small("cnn", width=4, seed=1)
    terms, values, norm = trained_together([make(kind) for kind in ON_FEATURES], student=student, teacher=teacher)
    assert np.isfinite(values).all() and np.isfinite(norm) and norm > 0
    for term in terms:
        assert all(pair.automatic for pair in term.pairs)
        several = term.loss.pairing == "several" and 3 in term.loss.axes
        if term.pairs and 3 in term.loss.axes:
            assert len(term.pairs) == (3 if several else 1), term.loss.kind
        stages = [(pair.student, pair.teacher) for pair in term.pairs]
        if several and not term.loss.before_activation:
            assert stages == [("block1", "block1"), ("block3", "block2"), ("block5", "block3")]
        if several and term.loss.before_activation:
            assert stages[-1] == ("block5_pointwise_normalization", "block3_normalization")


def test_different_channels_are_projected_or_refused_by_name():
    student, teacher = small("depthwise"), small("cnn", width=3, seed=1)
    equal = [kind for kind in ON_FEATURES if "channels" in LOSS_KINDS[kind].equal]
    for kind in equal:
        with pytest.raises(ModelError, match=r"of equal channels.*16×16×4, 8×8×8, 4×4×16.*16×16×3, 8×8×6, 4×4×12"):
            trained_by(make(kind), student=student, teacher=teacher)
    others = [make(kind) for kind in ON_FEATURES if kind not in equal]
    assert len(others) > len(equal) > 0
    _, values, norm = trained_together(others, student=student, teacher=teacher)
    assert np.isfinite(values).all() and np.isfinite(norm) and norm > 0


def test_every_kind_compares_transformers_or_gives_the_reason():
    student, teacher = small("transformer", blocks=2), small("transformer", seed=1, blocks=4)
    able = []
    for kind in ON_FEATURES:
        if {2, 1} & set(LOSS_KINDS[kind].axes) and not LOSS_KINDS[kind].needs_normalization:
            able.append(make(kind))
            continue
        with pytest.raises(ModelError) as caught:
            build_terms([make(kind)], student=student, teacher=teacher)
        assert caught.value.message.startswith(f"losses.{kind}: ")
        assert caught.value.hint
    terms, values, norm = trained_together(able, student=student, teacher=teacher)
    assert np.isfinite(values).all() and np.isfinite(norm) and norm > 0
    blocks = {term.loss.kind: [(pair.student, pair.teacher) for pair in term.pairs] for term in terms}
    for term in terms:
        if term.loss.pairing == "several" and 2 in term.loss.axes:
            assert blocks[term.loss.kind] == [("block1", "block2"), ("block2", "block4")]


@pytest.mark.parametrize("kind", ON_SCORES)
def test_attention_scores_are_paired_by_block_for_any_number_of_heads(kind):
    student = small("transformer", blocks=2)
    teacher = small("transformer", seed=1, blocks=4, dropout=0.1, heads=3)
    term, value, norm = trained_by(make(kind), student=student, teacher=teacher)
    blocks = [(pair.student.split("_")[0], pair.teacher.split("_")[0]) for pair in term.pairs]
    assert blocks == [("block1", "block2"), ("block2", "block4")]
    assert value > 0 and norm > 0
    with pytest.raises(
        ModelError, match=r"compares attention scores .*none in the student and the teacher$"
    ) as caught:
        trained_by(make(kind), student=small("cnn"), teacher=small("cnn", seed=1))
    assert "MultiHeadAttention" in caught.value.hint


def test_subclassed_and_sequential_models_are_paired_too():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            sizes = [keras.layers.Conv2D(n, 3, strides=2, padding="same", name=f"stage{n}") for n in (4, 8, 16)]
            self.stages, self.last = sizes, keras.layers.Dense(3)
            self.pooling = keras.layers.GlobalAveragePooling2D()

        def call(self, inputs):
            for stage in self.stages:
                inputs = keras.ops.relu(stage(inputs))
            return self.last(self.pooling(inputs))

    model = Subclassed()
    model(np.zeros((1, 16, 16, 1), np.float32))
    layers = [keras.layers.Conv2D(n, 3, strides=2, padding="same", name=f"layer{n}") for n in (4, 8, 16)]
    sequential = keras.Sequential(
        [keras.Input((16, 16, 1)), *layers, keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    term, _, norm = trained_by(make("attention_transfer"), student=network(sequential), teacher=network(model))
    assert [(pair.student, pair.teacher) for pair in term.pairs] == [
        (f"layer{n}", f"stage{n}") for n in (4, 8, 16)
    ]
    assert norm > 0


def test_at_most_four_pairs_are_made_and_the_deepest_of_them():
    sides = (8, 7, 6, 5, 4, 3)
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(2, 3, strides=2, padding="same", name="map8")(inputs)
    for side in sides[1:]:
        x = keras.layers.Conv2D(2, 2, name=f"map{side}")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    pairs = pair_layers(make("attention_transfer"), student=network(model), teacher=network(model))
    assert [(pair.student, pair.teacher) for pair in pairs] == [(f"map{n}", f"map{n}") for n in sides[-4:]]


def named(teacher, student):
    return {"teacher_layer": teacher, "student_layer": student}


TWO = named(["block1", "block2"], ["block1", "block2"])
VECTORS = named("pooling", "pooling")
MAPS = named("block3", "block3")
REFUSED = [
    ("relational", {"teacher_layer": "blok1"}, UsageError, ["no layer 'blok1'", "did you mean 'block1'?"]),
    (
        "channel_wise",
        VECTORS,
        ModelError,
        ["1 axes without the batch, (12,)", "compares maps (h, w, channels) or"],
    ),
    (
        "hidden_states",
        MAPS,
        ModelError,
        ["3 axes without the batch, (4, 4, 12)", "sequences (steps, channels) or vec"],
    ),
    ("attention_transfer", VECTORS, ModelError, ["1 axes without the batch, (", "compares maps"]),
    ("solution_flow", TWO, ModelError, ["(16, 16, 2) and (16, 16, 3)", "needs equal channels"]),
    ("hint", named("block3", "pooling"), ModelError, ["shape (8,) cannot be projected to (4, 4, 12)"]),
]


@pytest.mark.parametrize(("kind", "options", "error", "said"), REFUSED)
def test_layers_that_a_kind_cannot_compare_are_refused_with_the_reason(kind, options, error, said):
    student, teacher = small("cnn"), small("cnn", width=3, seed=1)
    with pytest.raises(error) as caught:
        build_terms([make(kind, **options)], student=student, teacher=teacher)
    assert caught.value.message.startswith(f"losses.{kind}: ")
    for text in said:
        assert text in caught.value.message
    assert caught.value.hint or error is UsageError


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("solution_flow", MAPS, "one layer is named, but solution_flow compares lists of at least 2"),
        ("review", {"teacher_layer": ["block1", "block2"]}, "student_layer must name the same number"),
        ("hint", named(["block1", "block2"], "block1"), "teacher_layer names 2, student_layer 1"),
    ],
)
def test_wrong_numbers_of_layers_are_recipe_errors(kind, options, said):
    with pytest.raises(UsageError, match=said):
        make(kind, **options)


def test_features_of_unknown_size_are_refused():
    def any_size():
        inputs = keras.Input((None, None, 1))
        x = keras.layers.Conv2D(2, 3, name="map")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))

    from kdcli.models.keras.network import KerasNetwork

    unknown = KerasNetwork(any_size(), name="given")
    loss = make("attention_transfer", teacher_layer="block3", student_layer="map")
    with pytest.raises(
        ModelError, match=r"\(None, None, 2\) and \(4, 4, 8\) are not fixed before the first batch"
    ) as caught:
        build_terms([loss], student=unknown, teacher=small("cnn"))
    assert "fixed" in caught.value.hint


def test_error_of_a_kind_names_the_kind():
    student, teacher = network(Mlp(width=4).build((16, 16, 1), 3)), network(Cnn(width=2).build((16, 16, 1), 3))
    loss = make("variational_information", teacher_layer="block3", student_layer="hidden2")
    with pytest.raises(ValueError, match="cannot be brought to one size"):
        match_sizes(np.zeros((1, 4)), np.zeros((1, 4, 4, 4)))
    with pytest.raises(
        ModelError, match=r"losses\.variational_information: features of shapes .* cannot be brought to one size"
    ):
        trained_by(loss, student=student, teacher=teacher)
