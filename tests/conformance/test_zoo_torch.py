"""The zoo against the same networks in PyTorch, with random weights that come from a file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.benchmarks.pytorch_networks import NETWORKS

torch: Any = pytest.importorskip("torch")

CLASSES = 7
ZOO: dict[str, Callable[..., gc.Model]] = {
    "resnet18": gc.zoo.resnet18,
    "resnet50": gc.zoo.resnet50,
    "mobilenet_v2": gc.zoo.mobilenet_v2,
    "alexnet": gc.zoo.alexnet,
    "vgg11": gc.zoo.vgg11,
    "vgg11_bn": functools.partial(gc.zoo.vgg11, batch_norm=True),
}


def randomized(network: Any) -> Any:
    """Give moving statistics and scales values that matter; let dropout keep everything."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -0.1),
                (module.running_var, 0.8),
                (module.weight.data, 0.8),
                (module.bias.data, -0.1),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.3 + low)
    return network


def images(size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((2, size, size, 3)).astype("float32")


@pytest.mark.parametrize("name", ZOO)
def test_outputs_and_gradients(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = randomized(NETWORKS[name](torch, CLASSES))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    size = 64 if "vgg" in name or name == "alexnet" else 48
    model = ZOO[name](weights=tmp_path / "weights.pt", input_shape=(size, size, 3), classes=CLASSES)
    x = images(size)
    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        expected = network.eval()(given).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(model(x)), expected, atol=1e-4 * scale)

    if "vgg" in name:  # a stack as AlexNet; its dense layers would take most of a minute
        return
    # The gradient of every parameter, in training with batch statistics, but without dropout. In
    # float64: 50 layers of normalisation over two small images make much of float32's rounding.
    model = in_double(model)
    network.double().train()
    dy = np.random.default_rng(2).standard_normal((2, CLASSES))
    network(given.double()).backward(torch.from_numpy(dy))
    for layer in model.walk():
        if isinstance(layer, gc.layers.Dropout):
            layer.rate = 0.0
    _, backward = model.forward(x.astype("float64"), training=True)
    backward(dy, input_gradient=False)
    twin = in_double(model)
    gradients = {n: p.grad.numpy() for n, p in network.named_parameters()}
    gc.io.load_torch_state(twin, gradients, partial=True)  # brought into our order
    compared = 0
    for ours, there in zip(model.parameters, twin.parameters, strict=True):
        tolerance = 1e-8 * max(np.abs(there.value).max(), 1e-3)
        np.testing.assert_allclose(ours.grad, there.value, atol=tolerance, err_msg=ours.path)
        compared += 1
    assert compared == len(gradients)


def in_double(model: gc.Model) -> gc.Model:
    """The same network in float64."""
    config = json.loads(json.dumps(model.get_config()).replace('"float32"', '"float64"'))
    twin: gc.Model = type(model).from_config(config)
    twin.set_weights(model.get_weights())
    return twin


def test_without_the_top_the_rest_of_the_file_waits(tmp_path: Path) -> None:
    network = randomized(NETWORKS["resnet18"](torch, CLASSES)).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    model = gc.zoo.resnet18(
        weights=tmp_path / "weights.pt", include_top=False, input_shape=(48, 48, 3)
    )
    x = images(48)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(np.asarray(model(x)), expected, atol=1e-4 * np.abs(expected).max())
