"""The fully connected layer under PyTorch 2.13's signature."""

from __future__ import annotations

from typing import Any

from gpuconv.geometry import as_int
from gpuconv.initializers import TorchUniform
from gpuconv.layers.dense import Dense
from gpuconv.nn.arguments import built, constructor, dtype_or_default


@constructor
def Linear(
    in_features: int,
    out_features: int,
    bias: bool = True,
    device: str | None = None,
    dtype: Any = None,
) -> Dense:
    """``y = x @ kernel + bias`` over the last axis, as ``torch.nn.Linear``.

    Args:
        in_features, out_features: extents of the last axis before and after.
        bias: whether there is one; default True.
        device: ``"cpu"``, ``"cuda"``; None is the backend in force.
        dtype: ``"float32"`` (also for None) or ``"float64"``.

    Returns:
        A ``gpuconv.layers.Dense``, its parameters created: ``kernel`` (in, out), the transpose
        of PyTorch's weight, and ``bias`` (out,), both from U(+-1/sqrt(in)), as PyTorch.

    Raises:
        InvalidArgumentError: an impossible argument.
        DTypeError, BackendUnavailableError: an impossible dtype or device.
    """
    inputs = as_int(in_features, "in_features", 1)
    layer = Dense(
        as_int(out_features, "out_features", 1),
        use_bias=bias,
        kernel_initializer=TorchUniform(inputs),
        bias_initializer=TorchUniform(inputs),
        dtype=dtype_or_default(dtype),
    )
    return built(layer, (None, inputs), device)
