"""Nested plain data with arrays in it, as JSON beside named arrays, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_ARRAY, _FLOAT = "__array__", "__float__"

Tensors = dict[str, np.ndarray[Any, Any]]


def pack(value: Any, prefix: str) -> tuple[Any, Tensors]:
    """Part a value into strict JSON and arrays.

    An array becomes ``{"__array__": name}``, and NaN or infinity, which JSON lacks,
    ``{"__float__": "nan"}``; everything else stays as it is.

    Args:
        value: dicts, lists, tuples, numbers, strings, booleans, None and NumPy arrays, nested.
        prefix: what the arrays' names begin with.

    Returns:
        The value for JSON, and the arrays by name.
    """
    tensors: Tensors = {}

    def plain(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            name = f"{prefix}{len(tensors)}"
            tensors[name] = part
            return {_ARRAY: name}
        if isinstance(part, np.generic):
            part = part.item()
        if isinstance(part, float) and not math.isfinite(part):
            return {_FLOAT: repr(part)}
        if isinstance(part, Mapping):
            return {key: plain(inner) for key, inner in part.items()}
        if isinstance(part, (list, tuple)):
            return [plain(inner) for inner in part]
        return part

    return plain(value), tensors


def unpack(value: Any, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    """Return what :func:`pack` was given, tuples as lists and NumPy scalars as Python numbers.

    Raises:
        KeyError: an array is missing.
    """
    if isinstance(value, Mapping):
        if value.keys() == {_ARRAY}:
            return tensors[value[_ARRAY]]
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: unpack(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [unpack(inner, tensors) for inner in value]
    return value
