"""Networks of PyTorch, through files that PyTorch writes and reads: equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

import gpuconv as gc  # noqa: E402
from gpuconv import layers as L  # noqa: E402
from gpuconv.errors import FileFormatError  # noqa: E402
from gpuconv.io import (  # noqa: E402
    load_torch_state,
    read_torch_file,
    save_torch_state,
    torch_state,
)

tnn = torch.nn


def randomized(net: Any, seed: int = 0) -> Any:
    """Give parameters and statistics numbers that differ from every default."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            fan = max(1, value[0].numel()) if value.ndim > 1 else 4
            value.normal_(generator=generator).mul_(fan**-0.5)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
    return net.eval()


def torch_network() -> Any:
    return randomized(
        tnn.Sequential(
            tnn.Conv2d(3, 6, 3, padding=1, bias=False),
            tnn.BatchNorm2d(6),
            tnn.ReLU(),
            tnn.MaxPool2d(2),
            tnn.Conv2d(6, 5, (1, 3), stride=2),
            tnn.ReLU(),
            tnn.Flatten(),
            tnn.Dropout(),
            tnn.Linear(5 * 2 * 2, 9),
            tnn.BatchNorm1d(9),
            tnn.Linear(9, 4),
        )
    )


def network() -> gc.Sequential:
    return gc.Sequential(
        [
            L.Conv2D(6, 3, padding=1, use_bias=False, input_shape=(8, 11, 3)),
            L.BatchNormalization(epsilon=1e-5),
            L.ReLU(),
            L.MaxPooling2D(2),
            L.Conv2D(5, (1, 3), strides=2, activation="relu"),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(9),
            L.BatchNormalization(epsilon=1e-5),
            L.Dense(4),
        ]
    )


def compare(model: Any, net: Any, shape: tuple[int, ...] = (3, 3, 8, 11)) -> None:
    x = np.random.default_rng(9).standard_normal(shape).astype("f4")
    with torch.no_grad():
        expected = net(torch.tensor(x)).numpy()
    found = model(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    if expected.ndim > 2:
        expected = np.moveaxis(expected, 1, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_from_a_file_and_back(suffix: str, tmp_path: Path) -> None:
    net, model, path = torch_network(), network(), tmp_path / f"net.{suffix}"
    if suffix == "pt":
        torch.save(net.state_dict(), path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    assert load_torch_state(model, path).complete
    compare(model, net)
    names = [name for name, part in net.named_children() if part.state_dict()]
    ours = [layer.name for layer in model.layers if layer.state()]
    save_torch_state(
        model, tmp_path / "back.safetensors", rename=dict(zip(ours, names, strict=True))
    )
    other = torch_network()
    randomized(other, 1)
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "back.safetensors"))
    compare(model, other)


def test_a_state_dict_without_a_file() -> None:
    net, model = torch_network(), network()
    load_torch_state(model, net.state_dict())
    compare(model, net)
    load_torch_state(network(), dict(net.named_parameters()), partial=True)
    state = {name: torch.tensor(array) for name, array in torch_state(model).items()}
    other = tnn.Linear(9, 4)
    other.load_state_dict({key: state[f"dense_1.{key}"] for key in ("weight", "bias")})


class Block(tnn.Module):
    """A residual block whose attributes are not in the order of the computation."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.downsample = tnn.Sequential(
            tnn.Conv2d(channels, out, 1, stride, bias=False), tnn.BatchNorm2d(out)
        )
        self.conv1 = tnn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = tnn.BatchNorm2d(out)
        self.conv2 = tnn.Conv2d(out, out, 3, 1, 1, groups=2, bias=False)
        self.bn2 = tnn.BatchNorm2d(out)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Residual(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = tnn.Sequential(Block(3, 4, 1), Block(4, 6, 2))
        self.fc = tnn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        return self.fc(self.layer1(x).mean(dim=(2, 3)))


def residual() -> Any:
    def norm(name: str) -> Any:
        return L.BatchNormalization(epsilon=1e-5, name=name)

    def block(x: Any, name: str, out: int, stride: int) -> Any:
        conv = {"use_bias": False}
        y = L.Conv2D(out, 3, stride, 1, name=f"{name}.conv1", **conv)(x)
        y = L.ReLU()(norm(f"{name}.bn1")(y))
        y = L.Conv2D(out, 3, 1, 1, groups=2, name=f"{name}.conv2", **conv)(y)
        y = norm(f"{name}.bn2")(y)
        short = L.Conv2D(out, 1, stride, name=f"{name}.downsample.0", **conv)(x)
        return L.ReLU()(L.Add()([y, norm(f"{name}.downsample.1")(short)]))

    inputs = gc.Input((8, 11, 3))
    x = block(block(inputs, "layer1.0", 4, 1), "layer1.1", 6, 2)
    return gc.Model(inputs, L.Dense(5, name="fc")(L.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_graph_by_names(suffix: str, tmp_path: Path) -> None:
    net, model, path = randomized(Residual()), residual(), tmp_path / f"net.{suffix}"
    if suffix == "pt":
        torch.save({"epoch": 3, "model_state_dict": net.state_dict(), "best": 0.5}, path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    assert load_torch_state(model, path).complete
    compare(model, net)
    other = randomized(Residual(), 5)
    save_torch_state(model, tmp_path / "back.safetensors")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "back.safetensors"))
    compare(model, other)


def test_data_parallel_names() -> None:
    net, model = randomized(Residual()), residual()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    load_torch_state(model, state, rename={"module": ""})
    compare(model, net)


PAIRS = {
    "conv1d": (lambda: tnn.Conv1d(4, 6, 3), lambda: L.Conv1D(6, 3), (2, 4, 9)),
    "conv3d": (
        lambda: tnn.Conv3d(2, 3, (1, 2, 3)),
        lambda: L.Conv3D(3, (1, 2, 3)),
        (2, 2, 4, 5, 6),
    ),
    "grouped": (
        lambda: tnn.Conv2d(4, 6, (2, 3), groups=2),
        lambda: L.Conv2D(6, (2, 3), groups=2),
        (2, 4, 5, 6),
    ),
    "depthwise": (
        lambda: tnn.Conv2d(3, 6, (2, 3), groups=3),
        lambda: L.DepthwiseConv2D((2, 3), depth_multiplier=2),
        (2, 3, 5, 6),
    ),
    "transposed": (
        lambda: tnn.ConvTranspose2d(3, 4, (2, 3), 2, 1),
        lambda: L.Conv2DTranspose(4, (2, 3), 2, padding=1),
        (2, 3, 5, 6),
    ),
    "transposed, grouped": (
        lambda: tnn.ConvTranspose2d(4, 6, (2, 3), groups=2),
        lambda: L.Conv2DTranspose(6, (2, 3), groups=2, padding=0),
        (2, 4, 5, 6),
    ),
    "group norm": (
        lambda: tnn.GroupNorm(2, 4),
        lambda: L.GroupNormalization(2, epsilon=1e-5),
        (2, 4, 3, 3),
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_layers_alone(case: str) -> None:
    theirs, ours, shape = PAIRS[case]
    net, layer = randomized(theirs()), ours()
    layer.build((None, *shape[2:], shape[1]))
    load_torch_state(layer, net.state_dict())
    compare(layer, net, shape)
    other = randomized(theirs(), 4)
    other.load_state_dict({k: torch.tensor(v) for k, v in torch_state(layer).items()})
    compare(layer, other, shape)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_types_and_views(dtype: str, protocol: int, tmp_path: Path) -> None:
    base = (torch.arange(60) % 2 if dtype == "bool" else torch.arange(60)).to(getattr(torch, dtype))
    state = {"a": base.view(3, 4, 5), "b": base[7:].view(53), "c": base.view(6, 10).T[2:5, ::2]}
    torch.save(state, tmp_path / "net.pt", pickle_protocol=protocol)
    found = read_torch_file(tmp_path / "net.pt")
    for name, value in state.items():
        wide = value.float() if dtype == "bfloat16" else value
        np.testing.assert_array_equal(found[name], wide.numpy(), strict=True)
    if dtype != "bool":
        safetensors.torch.save_file(
            {k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "net.safetensors"
        )
        found = read_torch_file(tmp_path / "net.safetensors")
        np.testing.assert_array_equal(found["a"].astype("f8"), state["a"].double().numpy())


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    net = torch_network()
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(FileFormatError, match=r"wants to run 'torch\.nn\.modules"):
        read_torch_file(tmp_path / "net.pt")
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FileFormatError, match=r"before version 1\.6"):
        read_torch_file(tmp_path / "old.pt")
    torch.save({"w": torch.zeros(1).expand(1000, 1000)}, tmp_path / "expanded.pt")
    with pytest.raises(FileFormatError, match="repeats or overlaps"):
        read_torch_file(tmp_path / "expanded.pt")
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "complex.pt")
    with pytest.raises(FileFormatError, match="ComplexFloatStorage"):
        read_torch_file(tmp_path / "complex.pt")


def test_optimizers_and_parameters_beside_the_weights(tmp_path: Path) -> None:
    net = tnn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    torch.save(state, tmp_path / "net.pt")
    assert list(read_torch_file(tmp_path / "net.pt")) == ["weight", "bias"]
    torch.save(dict(net.named_parameters()), tmp_path / "net.pt")
    found = read_torch_file(tmp_path / "net.pt")
    np.testing.assert_array_equal(found["weight"], net.weight.detach().numpy())
