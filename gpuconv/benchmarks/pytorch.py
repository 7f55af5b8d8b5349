"""PyTorch's side of a comparison: the same operations and training steps on the same numbers.

The only module of gpuconv that imports PyTorch, and only when :func:`load` is called.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gpuconv.benchmarks.pytorch_networks import NETWORKS
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
                return torch.nn.functional.conv2d(x, w, None, stride, pad, 1, shape.groups)

        return run
    mask = [operation == "backward_input", operation == "backward_weight", False]
    position = mask.index(True)
    backward = torch.ops.aten.convolution_backward
    ones, zeros = [1, 1], [0, 0]
    words = (stride, pad, ones, False, zeros, shape.groups, mask)
    return lambda: backward(dy, x, w, None, *words)[position]


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


def batch_norm(
    torch: Any, operation: str, x: Any, dy: Any, scale: Array, offset: Array, epsilon: float
) -> Callable[[], Any]:
    """Return normalisation by the batch's statistics, or its backward pass, as a function.

    Forward moves the running statistics too; backward also computes the gradients of ``scale`` and
    ``offset``. The result is a tensor.
    """
    aten = torch.ops.aten
    weight, bias = torch.from_numpy(scale), torch.from_numpy(offset)
    mean, variance = torch.zeros_like(weight), torch.ones_like(weight)
    words = (x, weight, bias, mean, variance, True, 0.01, epsilon)
    if operation == "forward":
        return lambda: aten.native_batch_norm(*words)[0]
    _, saved_mean, saved_deviation = aten.native_batch_norm(*words)
    kept = (mean, variance, saved_mean, saved_deviation, True, epsilon, [True] * 3)
    return lambda: aten.native_batch_norm_backward(dy, x, weight, *kept)[0]


def relu_backward(torch: Any, y: Any, dy: Any) -> Callable[[], Any]:
    """Return the gradient through ReLU from its output as a function; its result is a tensor."""
    return lambda: torch.ops.aten.threshold_backward(dy, y, 0)


def adam_step(
    torch: Any, values: Sequence[Array], gradients: Sequence[Array], fused: bool
) -> Callable[[], Any]:
    """Return a step of ``torch.optim.Adam`` as a function that returns the first parameter.

    Args:
        torch: the module.
        values: copied, as the steps change them.
        gradients: of the values, the same in every step.
        fused: one pass over each parameter, which must be asked for; else the default.
    """
    parameters = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in values]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient)
    optimizer = torch.optim.Adam(parameters, **({"fused": True} if fused else {}))

    def step() -> Any:
        optimizer.step()
        return parameters[0].detach()

    return step


def inference(
    torch: Any, x: Array, values: Sequence[Array], memory: str = "contiguous"
) -> Callable[[], Any]:
    """Return the seed network's probabilities as a function without arguments.

    Args:
        torch: the module.
        x: ``(N, 32, 32, 3)``.
        values: gpuconv's parameters in the order of the layers.
        memory: format of images and weights.
    """
    net = torch.nn.Sequential(*NETWORKS["seed_network"](torch), torch.nn.Softmax(1))
    side = 4  # of the last convolution's result, whose channels come first in a flattened tensor
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), values, strict=True):
            array = torch.from_numpy(value.copy())
            if array.ndim == 4:
                array = array.permute(3, 2, 0, 1)
            elif array.ndim == 2:
                if array.shape[0] > 64:
                    array = array.reshape(side, side, -1, array.shape[1]).permute(2, 0, 1, 3)
                    array = array.reshape(-1, array.shape[3])
                array = array.T
            parameter.copy_(array)
    return prediction(torch, net, x, memory)


def prediction(torch: Any, net: Any, x: Array, memory: str) -> Callable[[], Any]:
    """Return a network's outputs, in inference, as a function without arguments.

    Args:
        torch: the module.
        net: an ``nn.Module``, which is brought to the memory format.
        x: images ``(N, H, W, C)``, on the device to compute on.
        memory: format of images and weights.
    """
    tx = images(torch, x, memory)
    net = net.eval().to(memory_format=_format(torch, memory))

    def run() -> Any:
        with torch.inference_mode():
            return net(tx)

    return run


def training_step(
    torch: Any, network: str, x: Array, y: Array, memory: str = "contiguous"
) -> Callable[[], Any]:
    """Return an eager training step with Adam of a small network as a function.

    Args:
        torch: the module.
        network: ``"seed"`` or ``"digits"``, as in ``gpuconv.zoo``.
        x, y, memory: as in :func:`step_of`.
    """
    return step_of(torch, NETWORKS[f"{network}_network"](torch), x, y, memory)


def step_of(
    torch: Any,
    net: Any,
    x: Array,
    y: Array,
    memory: str = "contiguous",
    optimizer: str = "Adam",
    **settings: Any,
) -> Callable[[], Any]:
    """Return an eager step (forward, cross-entropy, backward, update) as a function: the loss.

    Args:
        torch: the module.
        net: an ``nn.Module`` that gives logits; it is brought to the device and the memory format.
        x: ``(N, H, W, C)``, on the device to compute on.
        y: class numbers, int64.
        memory: format of images and weights.
        optimizer: a class of ``torch.optim``, default ``"Adam"``; for what needs gradients.
        settings: of the optimizer.
    """
    tx, ty = images(torch, x, memory), torch.from_dlpack(y)
    net = net.to(tx.device).to(memory_format=_format(torch, memory))
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    update = getattr(torch.optim, optimizer)(learning, **settings)
    loss_of = torch.nn.CrossEntropyLoss()

    def step() -> Any:
        update.zero_grad()
        loss = loss_of(net(tx), ty)
        loss.backward()
        update.step()
        return loss.detach()

    return step


def network(torch: Any, name: str, classes: int, state: Mapping[str, Array]) -> Any:
    """Return a network of ``pytorch_networks.NETWORKS`` with weights.

    Args:
        torch: the module.
        name: of the network.
        classes: number of outputs.
        state: what ``gpuconv.io.torch_state`` returns; empty leaves the network as it begins.

    Raises:
        RuntimeError: the weights are those of another network.
    """
    net = NETWORKS[name](torch, classes)
    if state:
        tensors = {key: torch.from_numpy(value) for key, value in state.items()}
        found = net.load_state_dict(tensors, strict=False)
        missing = [key for key in found.missing_keys if not key.endswith("num_batches_tracked")]
        if missing or found.unexpected_keys:
            raise RuntimeError(f"{name}: missing {missing}, unexpected {found.unexpected_keys}")
    return net


def freeze_all_but(net: Any, layer: str) -> Any:
    """Let only one layer learn; normalisations then keep their moving statistics, as frozen do."""
    net.eval().requires_grad_(False)
    net.get_submodule(layer).requires_grad_(True)
    return net
