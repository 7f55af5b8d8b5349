"""Losses under PyTorch 2.13's signatures and with its order of arguments: output, then target.

Each is a loss of ``gpuconv.losses`` seen the other way round: the arithmetic is there, and those
are what ``model.compile`` takes. Losses of PyTorch that differ in their numbers (BCELoss clips at
another place) or have no twin (NLLLoss, weights of classes) do not exist here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from gpuconv import losses
from gpuconv.backends.arrays import array_module
from gpuconv.backends.base import Array
from gpuconv.containers import require_float
from gpuconv.errors import ShapeError, one_of
from gpuconv.losses.targets import bring_together, class_numbers
from gpuconv.nn.arguments import constructor, refuse

_OBSOLETE = "use reduction"
_NO_WEIGHTS = "weights of classes do not exist here; gpuconv.losses take sample_weight"


class TorchLoss(ABC):
    """A loss that is called with ``(output, target)``.

    Attributes:
        loss: what computes it, a loss of ``gpuconv.losses``.
    """

    def __init__(self, loss: losses.Loss) -> None:
        self.loss = loss

    def __call__(self, input: Any, target: Any) -> Any:
        """Return the value alone; arguments and errors as in :meth:`forward`."""
        return self.forward(input, target)[0]

    def forward(self, input: Any, target: Any) -> tuple[Any, Any]:
        """Return the loss and its gradient with respect to the outputs.

        Args:
            input: the model's outputs, float32 or float64: an array or Tensor.
            target: what they should be.

        Returns:
            ``(value, dy)``: a 0-d array (one value for each sample or element with
            reduction "none", and ``dy`` then that of their sum), and an array like ``input``;
            both are Tensors if ``input`` is one.

        Raises:
            ShapeError: the two do not belong together.
            DTypeError: the outputs are not float32 or float64.
            InvalidArgumentError: class numbers out of range.
        """
        target, input, _, wrap = bring_together(target, input, None)
        require_float(input, "input")
        value, dy = self.compute(input, target)
        return wrap(value), wrap(dy)

    @abstractmethod
    def compute(self, input: Array, target: Array) -> tuple[Array, Array]:
        """:meth:`forward` for arrays on one device."""


class Elementwise(TorchLoss):
    """A mean, sum or array over all elements, whatever their axes."""

    def compute(self, input: Array, target: Array) -> tuple[Array, Array]:
        if tuple(input.shape) != tuple(target.shape):
            raise ShapeError(
                f"target must have the shape of the outputs. Received: outputs of shape "
                f"{tuple(input.shape)}, target of shape {tuple(target.shape)}"
            )
        # With a last axis of 1 every element is a loss of its own.
        value, dy = self.loss.compute(target.reshape(-1, 1), input.reshape(-1, 1))
        if self.loss.reduction == "none":
            value = value.reshape(input.shape)
        return value, dy.reshape(input.shape)


class CrossEntropy(TorchLoss):
    """Cross-entropy of logits (N, C, ...): classes on axis 1."""

    loss: losses.CategoricalCrossentropy

    def compute(self, input: Array, target: Array) -> tuple[Array, Array]:
        if input.ndim < 2:
            raise ShapeError(
                f"expected logits (N, C, ...). Received: outputs of shape {tuple(input.shape)}"
            )
        xp = array_module(input)
        logits = xp.moveaxis(input, 1, -1)
        if target.shape == input.shape:
            value, dy = self.loss.compute(xp.moveaxis(target, 1, -1), logits)
        elif self.loss.label_smoothing:
            numbers = class_numbers(target, tuple(logits.shape))
            one_hot = xp.eye(logits.shape[-1], dtype=logits.dtype)[numbers]
            value, dy = self.loss.compute(one_hot, logits)
        else:
            sparse = losses.SparseCategoricalCrossentropy(True, self.loss.reduction)
            value, dy = sparse.compute(target, logits)
        return value, xp.moveaxis(dy, -1, 1)


@constructor
def CrossEntropyLoss(
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> CrossEntropy:
    """Cross-entropy of logits (N, C, ...), as ``torch.nn.CrossEntropyLoss``.

    Targets are class numbers (N, ...) in [0, C), or probabilities (N, C, ...).

    Args:
        weight, size_average, reduce: must be None.
        ignore_index: must be -100; a class number of -100 is an error here, like every other
            that is out of range.
        reduction: ``"mean"`` (default), ``"sum"`` or ``"none"``.
        label_smoothing: ``s`` in [0, 1]: targets become ``target * (1 - s) + s / C``.

    Raises:
        InvalidArgumentError: an argument that is impossible, or not possible here.
    """
    refuse("weight", weight, None, _NO_WEIGHTS)
    refuse("ignore_index", ignore_index, -100, "no class is ignored")
    loss = losses.CategoricalCrossentropy(
        from_logits=True,
        label_smoothing=label_smoothing,
        reduction=_reduction(reduction, size_average, reduce),
    )
    return CrossEntropy(loss)


@constructor
def MSELoss(size_average: Any = None, reduce: Any = None, reduction: str = "mean") -> Elementwise:
    """``(output - target)^2``, as ``torch.nn.MSELoss``.

    Args:
        size_average, reduce: must be None.
        reduction: ``"mean"`` (default) or ``"sum"`` of all elements, or ``"none"``.

    Raises:
        InvalidArgumentError: an impossible argument.
    """
    return Elementwise(losses.MeanSquaredError(_reduction(reduction, size_average, reduce)))


@constructor
def L1Loss(size_average: Any = None, reduce: Any = None, reduction: str = "mean") -> Elementwise:
    """``|output - target|``, as ``torch.nn.L1Loss``; the derivative at 0 is 0.

    Args:
        size_average, reduce: must be None.
        reduction: ``"mean"`` (default) or ``"sum"`` of all elements, or ``"none"``.

    Raises:
        InvalidArgumentError: an impossible argument.
    """
    return Elementwise(losses.MeanAbsoluteError(_reduction(reduction, size_average, reduce)))


@constructor
def HuberLoss(reduction: str = "mean", delta: float = 1.0) -> Elementwise:
    """``e^2 / 2`` for ``|e| <= delta``, else ``delta (|e| - delta / 2)``, as PyTorch's HuberLoss.

    Args:
        reduction: ``"mean"`` (default) or ``"sum"`` of all elements, or ``"none"``.
        delta: positive.

    Raises:
        InvalidArgumentError: an impossible argument.
    """
    return Elementwise(losses.Huber(delta, _reduction(reduction)))


@constructor
def BCEWithLogitsLoss(
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Elementwise:
    """Binary cross-entropy of logits, as ``torch.nn.BCEWithLogitsLoss``.

    Args:
        weight, size_average, reduce, pos_weight: must be None.
        reduction: ``"mean"`` (default) or ``"sum"`` of all elements, or ``"none"``.

    Raises:
        InvalidArgumentError: an argument that is impossible, or not possible here.
    """
    refuse("weight", weight, None, _NO_WEIGHTS)
    refuse("pos_weight", pos_weight, None, _NO_WEIGHTS)
    reduction = _reduction(reduction, size_average, reduce)
    return Elementwise(losses.BinaryCrossentropy(from_logits=True, reduction=reduction))


def _reduction(reduction: str, size_average: Any = None, reduce: Any = None) -> str:
    refuse("size_average", size_average, None, _OBSOLETE)
    refuse("reduce", reduce, None, _OBSOLETE)
    return one_of(reduction, ("mean", "sum", "none"), "reduction")
