"""Activation functions and dropout under PyTorch 2.13's signatures.

``inplace`` is accepted where PyTorch has it and changes nothing: inputs are never modified here,
and PyTorch's result is the same either way. These layers have no parameters and keep the dtype
of floating inputs.
"""

from __future__ import annotations

from gpuconv import layers
from gpuconv.errors import InvalidArgumentError, one_of
from gpuconv.geometry import as_int
from gpuconv.layers.arguments import as_number
from gpuconv.nn.arguments import constructor, refuse


@constructor
def ReLU(inplace: bool = False) -> layers.ReLU:
    """``max(x, 0)``."""
    return layers.ReLU(dtype=None)


@constructor
def LeakyReLU(negative_slope: float = 0.01, inplace: bool = False) -> layers.LeakyReLU:
    """``x`` where it is positive, else ``negative_slope * x``; the slope is not negative.

    Raises:
        InvalidArgumentError: a negative slope.
    """
    return layers.LeakyReLU(negative_slope, dtype=None)


@constructor
def ELU(alpha: float = 1.0, inplace: bool = False) -> layers.ELU:
    """``x`` where it is positive, else ``alpha * (exp(x) - 1)``; ``alpha`` is not negative.

    Raises:
        InvalidArgumentError: a negative ``alpha``.
    """
    return layers.ELU(alpha, dtype=None)


@constructor
def GELU(approximate: str = "none") -> layers.GELU:
    """``x`` times the normal distribution function of ``x``.

    Args:
        approximate: ``"none"`` (default), or ``"tanh"`` for the approximation.

    Raises:
        InvalidArgumentError: another word.
    """
    return layers.GELU(one_of(approximate, ("none", "tanh"), "approximate") == "tanh", dtype=None)


@constructor
def SiLU(inplace: bool = False) -> layers.SiLU:
    """``x / (1 + exp(-x))``."""
    return layers.SiLU(dtype=None)


@constructor
def Sigmoid() -> layers.Sigmoid:
    """``1 / (1 + exp(-x))``."""
    return layers.Sigmoid(dtype=None)


@constructor
def Tanh() -> layers.Tanh:
    """The hyperbolic tangent."""
    return layers.Tanh(dtype=None)


@constructor
def Softmax(dim: int | None = None) -> layers.Softmax:
    """Exponentials divided by their sum over axis ``dim``.

    Args:
        dim: an axis other than the batch. It must be given: PyTorch's None, which is
            deprecated there, depends on the input.

    Raises:
        InvalidArgumentError: None, or not an integer.
    """
    return layers.Softmax(_dim(dim), dtype=None)


@constructor
def LogSoftmax(dim: int | None = None) -> layers.Activation:
    """The logarithm of the softmax over the last axis, stable for large inputs.

    Args:
        dim: must be -1.

    Raises:
        InvalidArgumentError: anything but -1.
    """
    refuse("dim", _dim(dim), -1, "the log-softmax here runs over the last axis")
    return layers.Activation("log_softmax", dtype=None)


def _dim(dim: int | None) -> int:
    if dim is None:
        raise InvalidArgumentError("dim must be given, such as dim=1. Received: None")
    return as_int(dim, "dim")


@constructor
def Identity() -> layers.Activation:
    """The input itself. PyTorch's arguments, which have no meaning there, do not exist."""
    return layers.Activation("linear", dtype=None)


@constructor
def Dropout(p: float = 0.5, inplace: bool = False) -> layers.Dropout:
    """In training, sets elements to 0 with probability ``p`` and divides the rest by ``1 - p``.

    Raises:
        InvalidArgumentError: ``p`` is not a number from 0 to 1.
    """
    return layers.Dropout(as_number(p, "p", 0.0, 1.0), dtype=None)


@constructor
def Dropout2d(p: float = 0.5, inplace: bool = False) -> layers.SpatialDropout2D:
    """:func:`Dropout` of whole channels of (N, C, H, W).

    Raises:
        InvalidArgumentError: ``p`` is not a number from 0 to 1.
    """
    return layers.SpatialDropout2D(
        as_number(p, "p", 0.0, 1.0), data_format="channels_first", dtype=None
    )
