"""Fresh copies of whole Keras models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small_models import BUILDS, X

from kdcli.errors import UsageError
from kdcli.models.keras.model import make_fresh_copy


class Stubborn(keras.Model):
    """A subclassed model that cannot be built from its configuration."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, x):
        return self.layer(x)


@pytest.fixture(params=BUILDS.values(), ids=list(BUILDS))
def build(request):
    keras.utils.set_random_seed(0)
    return request.param


def test_a_fresh_copy_follows_from_the_seed(build):
    model = build()
    original = model(X).numpy()
    copies = [make_fresh_copy(model, seed=seed)(X).numpy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(copies[0], copies[1])
    assert not np.allclose(copies[0], copies[2])
    assert not np.allclose(copies[0], original)
    np.testing.assert_array_equal(model(X), original)


def test_a_fresh_copy_has_the_same_weights_by_shape_and_shares_none(build):
    model = build()
    copy = make_fresh_copy(model, seed=1)
    assert [tuple(v.shape) for v in copy.weights] == [tuple(v.shape) for v in model.weights]
    assert not {id(v) for v in copy.weights} & {id(v) for v in model.weights}


def test_a_model_that_cannot_be_rebuilt_is_refused_with_a_hint():
    model = Stubborn(keras.layers.Dense(2))
    model(X)
    with pytest.raises(UsageError, match="start: fresh needs a model that can be built from its") as caught:
        make_fresh_copy(model, seed=0)
    assert "--set student.start=file" in caught.value.hint
