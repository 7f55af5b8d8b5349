"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuconv.callbacks.base import Callback
from gpuconv.errors import InvalidArgumentError, UnknownArgumentError, suggestion

_MOMENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Calls the functions that it is given, as in Keras.

    Args:
        functions: by the names of :class:`~gpuconv.callbacks.Callback`'s methods, such as
            ``on_epoch_end=lambda epoch, logs: ...``, and with their arguments.

    Raises:
        UnknownArgumentError: there is no such moment.
        InvalidArgumentError: not a function.
    """

    def __init__(self, **functions: Callable[..., Any] | None) -> None:
        for name, function in functions.items():
            if name not in _MOMENTS:
                raise UnknownArgumentError(
                    f"a callback has the moments {', '.join(_MOMENTS)}."
                    f"{suggestion(name, _MOMENTS)} Received: {name}={function!r}"
                )
            if function is None:
                continue
            if not callable(function):
                raise InvalidArgumentError(f"{name} must be a function. Received: {function!r}")
            setattr(self, name, function)
