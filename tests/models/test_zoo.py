"""The zoo: numbers of parameters, shapes with and without the top, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from model_makers import uniform

import gpuconv as gc
from gpuconv.errors import InvalidArgumentError

COUNTS = {
    "lenet5": 61_706,
    "alexnet": 61_100_840,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_as_published(name: str) -> None:
    model = getattr(gc.zoo, name)()
    assert sum(int(np.prod(p.shape)) for p in model.parameters) == COUNTS[name]
    assert model.output_shape == (None, 10 if name == "lenet5" else 1000)


@pytest.mark.parametrize(
    ("name", "batch_norm", "convolutions"),
    [
        ("vgg11", False, 9_220_480),
        ("vgg16", False, 14_714_688),
        ("vgg11", True, 9_220_480 + 2 * 2752),
        ("vgg16", True, 14_714_688 + 2 * 4224),
    ],
)
def test_the_convolutions_of_vgg(name: str, batch_norm: bool, convolutions: int) -> None:
    model = getattr(gc.zoo, name)(include_top=False, batch_norm=batch_norm)
    assert sum(int(np.prod(p.shape)) for p in model.parameters) == convolutions
    # The top has 25088 x 4096, 4096 x 4096 and 4096 x 1000 weights and their biases.
    top = 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    if name == "vgg16" and not batch_norm:
        assert convolutions + top == 138_357_544


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "alexnet", "vgg11"])
def test_features_without_the_top(name: str) -> None:
    maker: Any = getattr(gc.zoo, name)
    size = 64
    x = uniform((2, size, size, 3), 1).astype("float32")
    maps = maker(include_top=False, input_shape=(size, size, 3), pooling=None)
    assert len(maps.output_shape) == 4
    average = maker(include_top=False, input_shape=(size, size, 3))
    average.set_weights(maps.get_weights())
    expected = np.asarray(maps(x)).mean(axis=(1, 2))
    np.testing.assert_allclose(np.asarray(average(x)), expected, rtol=1e-4, atol=1e-5)
    assert maker(include_top=False, input_shape=(size, size, 3), pooling="max").output_shape == (
        None,
        maps.output_shape[-1],
    )


def test_a_small_residual_network_learns() -> None:
    model = gc.zoo.resnet18(
        input_shape=(32, 32, 1), classes=2, classifier_activation="softmax", backend="cpu"
    )
    x = uniform((16, 32, 32, 1), 3).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > np.median(x.mean(axis=(1, 2, 3)))).astype("int64")
    model.compile(gc.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    losses = model.fit(x, y, epochs=6, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_layers_have_the_names_of_torchvision() -> None:
    names = [layer.name for layer in gc.zoo.resnet50().layers]
    for name in ("conv1", "bn1", "layer1.0.downsample.0", "layer3.5.bn2", "layer4.2.conv3", "fc"):
        assert name in names
    names = [layer.name for layer in gc.zoo.mobilenet_v2().layers]
    for name in ("features.0.0", "features.1.conv.1", "features.17.conv.2", "classifier.1"):
        assert name in names
    names = [layer.name for layer in gc.zoo.vgg16(batch_norm=True, include_top=False).layers]
    assert {"features.0", "features.1", "features.40"} <= set(names)


def test_what_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="at least 32 x 32"):
        gc.zoo.resnet18(input_shape=(16, 64, 3))
    with pytest.raises(InvalidArgumentError, match="height, width, channels"):
        gc.zoo.vgg16(input_shape=(224, 224))
    with pytest.raises(InvalidArgumentError, match="pooling"):
        gc.zoo.mobilenet_v2(include_top=False, pooling="mean")
    with pytest.raises(FileNotFoundError):
        gc.zoo.lenet5(weights="nowhere.safetensors")
