"""Reading and setting the learning rate of the model in training."""

from __future__ import annotations

from gpuconv.callbacks.base import Callback
from gpuconv.errors import InvalidArgumentError


def rate_of(callback: Callback) -> float:
    """Return the learning rate of the next step."""
    optimizer = callback.model.optimizer
    assert optimizer is not None  # fit refuses a model that is not compiled
    return optimizer.learning_rate


def set_rate(callback: Callback, rate: float) -> None:
    """Set the learning rate.

    Raises:
        InvalidArgumentError: not a number of at least 0, or a schedule decides the rate.
    """
    optimizer = callback.model.optimizer
    assert optimizer is not None
    optimizer.learning_rate = rate


def require_settable_rate(callback: Callback) -> None:
    """Check that no schedule decides the rate.

    Raises:
        InvalidArgumentError: one does.
    """
    try:
        set_rate(callback, rate_of(callback))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"{type(callback).__name__} needs an optimizer with a number as learning rate. {error}"
        ) from error
