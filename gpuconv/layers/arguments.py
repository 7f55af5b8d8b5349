"""Numbers that a user passes to a layer, checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuconv.errors import InvalidArgumentError


def as_number(value: Any, name: str, lowest: float = -math.inf, highest: float = math.inf) -> float:
    """Return ``value`` as a float in ``[lowest, highest]``; NumPy numbers count, bools do not.

    Raises:
        InvalidArgumentError: not a number, NaN, or out of range.
    """
    number = isinstance(value, (int, float, np.integer, np.floating))
    if not number or isinstance(value, bool) or not lowest <= value <= highest:
        bounds = "" if lowest == -math.inf else f" of at least {lowest:g}"
        if highest != math.inf:
            bounds = f" from {lowest:g} to {highest:g}"
        raise InvalidArgumentError(f"{name} must be a number{bounds}. Received: {value!r}")
    return float(value)
