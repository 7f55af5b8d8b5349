"""PyTorch's side of a comparison: the same operations and training steps on the same numbers.

The only module of gpuconv that imports PyTorch, and only when :func:`load` is called.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from gpuconv.benchmarks.shapes import ConvShape, PoolShape

Array = Any
FORMATS = ("contiguous", "channels_last")


def load(device: str = "cpu") -> Any:
    """Return the module ``torch``, or None if it is not installed or does not reach ``device``."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if device == "cuda":
        if not torch.cuda.is_available():
            return None
        torch.backends.cudnn.benchmark = True
    return torch


@contextlib.contextmanager
def tensor_cores(torch: Any, allowed: bool) -> Iterator[None]:
    """Let float32 products be computed in TF32 inside the block, or forbid it."""
    backends = torch.backends
    before = (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before


def images(torch: Any, array: Array, memory: str) -> Any:
    """Return ``(N, H, W, C)`` as a tensor ``(N, C, H, W)`` in a memory format."""
    return (
        torch.from_dlpack(array)
        .permute(0, 3, 1, 2)
        .contiguous(memory_format=_format(torch, memory))
    )


def weights(torch: Any, array: Array, memory: str) -> Any:
    """Return ``(kh, kw, C, F)`` as a tensor ``(F, C, kh, kw)`` in a memory format."""
    return (
        torch.from_dlpack(array)
        .permute(3, 2, 0, 1)
        .contiguous(memory_format=_format(torch, memory))
    )


def _format(torch: Any, memory: str) -> Any:
    return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[memory]


def convolution(
    torch: Any, operation: str, shape: ConvShape, x: Any, w: Any, dy: Any
) -> Callable[[], Any]:
    """Return the operation on tensors as a function without arguments."""
    stride, pad = [shape.stride] * 2, [shape.pad] * 2
    if operation == "forward":

        def run() -> Any:
            with torch.no_grad():
                return torch.nn.functional.conv2d(x, w, None, stride, pad)

        return run
    mask = [operation == "backward_input", operation == "backward_weight", False]
    position = mask.index(True)
    backward = torch.ops.aten.convolution_backward
    ones, zeros = [1, 1], [0, 0]
    return lambda: backward(dy, x, w, None, stride, pad, ones, False, zeros, 1, mask)[position]


def convolution_result(operation: str, tensor: Any) -> Any:
    """Return a result's tensor with the axes in gpuconv's order."""
    return tensor.permute((2, 3, 1, 0) if operation == "backward_weight" else (0, 2, 3, 1))


def pooling(torch: Any, operation: str, shape: PoolShape, x: Any, dy: Any) -> Callable[[], Any]:
    """Return the operation on tensors as a function without arguments; its result is a tensor."""
    window, stride, pad = [shape.window] * 2, [shape.stride] * 2, [shape.pad] * 2
    aten = torch.ops.aten
    if shape.kind == "avg":
        words = (window, stride, pad, False, True, None)
        if operation == "forward":
            return lambda: aten.avg_pool2d(x, *words)
        return lambda: aten.avg_pool2d_backward(dy, x, *words)
    with_indices = (window, stride, pad, [1, 1], False)
    if operation == "forward":
        return lambda: aten.max_pool2d_with_indices(x, *with_indices)[0]
    _, indices = aten.max_pool2d_with_indices(x, *with_indices)
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, *with_indices, indices)


def training_step(
    torch: Any, network: str, x: Array, y: Array, memory: str = "contiguous"
) -> Callable[[], Any]:
    """Return an eager training step (forward, cross-entropy, backward, Adam) of a small network.

    Args:
        torch: the module.
        network: ``"seed"`` or ``"digits"``, as in ``gpuconv.zoo``.
        x: ``(N, H, W, C)``, on the device to compute on.
        y: class numbers, int64.
        memory: format of images and weights.
    """
    nn = torch.nn
    tx, ty = images(torch, x, memory), torch.from_dlpack(y)
    net = {"seed": _seed_network, "digits": _digits_network}[network](nn)
    net = net.to(tx.device).to(memory_format=_format(torch, memory))
    optimizer = torch.optim.Adam(net.parameters())
    loss_of = nn.CrossEntropyLoss()

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of(net(tx), ty)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _seed_network(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _digits_network(nn: Any) -> Any:
    class Rescaling(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x * (1 / 16)

    return nn.Sequential(
        Rescaling(),
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10),
    )  # fmt: skip
