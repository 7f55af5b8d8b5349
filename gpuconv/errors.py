"""Every error that gpuconv raises on purpose, and the helpers that word them.

All of them derive from :class:`GpuconvError` and from the built-in class that a
NumPy or PyTorch user would catch (``ValueError``, ``TypeError``, ``RuntimeError``).
Messages say what was expected and end in ``Received: ...``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GpuconvError(Exception):
    """Base class of all gpuconv errors."""


class InvalidArgumentError(GpuconvError, ValueError):
    """An argument has an impossible value."""


class ShapeError(InvalidArgumentError):
    """An array has the wrong rank, extent or number of channels."""


class DTypeError(GpuconvError, TypeError):
    """An array has a dtype that the operation does not compute in."""


class UnknownArgumentError(GpuconvError, TypeError):
    """A keyword argument does not exist; the message suggests the nearest that does."""


class NotBuiltError(GpuconvError, RuntimeError):
    """A layer, model or metric was used before it had what it needs (a shape, compile, data)."""


class BackendUnavailableError(GpuconvError, RuntimeError):
    """A backend or engine was asked for by name and cannot run here; the message says why."""


class UnsupportedError(GpuconvError, RuntimeError):
    """An engine that was asked for by name cannot do this operation; says which can."""


class FileFormatError(GpuconvError, ValueError):
    """A file is damaged, truncated, or not what its reader expects."""


class MissingDependencyError(GpuconvError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """Return ``value`` as a message shows it: arrays by shape and dtype, long texts cut short."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and shape and dtype is not None:
        return f"{type(value).__name__} of shape {shape} and dtype {dtype}"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def one_of(value: object, known: Iterable[str], what: str) -> str:
    """Return ``value`` if it is one of the ``known`` words, else raise with a suggestion.

    Raises:
        InvalidArgumentError: ``value`` is not among ``known``.
    """
    words = list(known)
    if isinstance(value, str) and value in words:
        return value
    hint = suggestion(value, words) if isinstance(value, str) else ""
    raise InvalidArgumentError(
        f"{what} must be one of {', '.join(repr(w) for w in words)}.{hint} Received: {shown(value)}"
    )
