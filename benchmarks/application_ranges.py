"""What reaches the first layer with weights in every `keras.applications` class, beside plain Keras.

For each class, untrained: the zoo student under the scale that it gets, and a fresh student that has the class's
own `preprocess_input` in its graph. Both are compared with `preprocess_input` and plain Keras on the same images.

    python benchmarks/application_ranges.py [--only MobileNetV2 ...]
"""

from __future__ import annotations

import argparse
import gc

import keras
import numpy as np

from kdcli.data.named_arrays import splits_from_arrays
from kdcli.evaluation.input_scale import choose_scale
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.setup.zoo_models import published_scale
from kdcli.zoo.application import Application

SHAPE, CLASSES = (96, 96, 3), 10
# Classes whose smallest image is larger.
LARGER = {"NASNetLarge": (331, 331, 3), "NASNetMobile": (224, 224, 3)}


def plain(model, images):
    """What plain Keras gives to the first layer with weights."""
    normalization = keras.layers.Normalization
    first = next(layer for layer in model.layers if layer.weights and not isinstance(layer, normalization))
    return keras.Model(model.inputs, first.input).predict(images, verbose=0)


def check(name):
    """A row: the range, and whether each of the two ways gives just that."""
    source = Application(architecture=name)
    shape = LARGER.get(name, SHAPE)
    model, preprocess = source.build(shape, CLASSES), source.preprocessing()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, *shape), dtype=np.uint8)
    expected = plain(model, preprocess(images.astype(np.float32)))
    examples = splits_from_arrays({"x": images, "y": np.arange(4) % CLASSES}, name="images").train
    preparation = {"x": Preprocessing(shape, "uint8", shape, "float32")}

    def reached(built, scale):
        network = KerasNetwork(built, name=name).with_preprocessing(preparation)
        if scale is None:
            scale = choose_scale(network, examples, task="classification", measured=False, seed=0).scale
        given = network.with_scale(scale).compute_before_weights({"x": images})
        return scale, bool(np.allclose(given, expected, atol=1e-3))

    zoo = reached(model, published_scale(source))
    inputs = keras.Input(shape)
    inside = reached(keras.Model(inputs, model(preprocess(inputs))), None)
    return expected, zoo, inside


def main():
    """Print the table; exit 1 when a range is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*")
    known = [name for name in dir(keras.applications) if name[0].isupper()]
    wrong = 0
    print("| class | reaches the first layer | zoo student | preprocessing in the graph |\n|---|---|---|---|")
    for name in parser.parse_args().only or known:
        expected, zoo, inside = check(name)
        cells = [f"{scale}: {'equal' if equal else 'WRONG'}" for scale, equal in (zoo, inside)]
        wrong += sum(not equal for _, equal in (zoo, inside))
        print(f"| {name} | {expected.min():.3g} .. {expected.max():.3g} | {cells[0]} | {cells[1]} |", flush=True)
        keras.backend.clear_session()
        gc.collect()
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
