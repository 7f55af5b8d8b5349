"""What tests of compiled convolutions share: guarded arrays, and a geometry as words."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.geometry import ConvGeometry


def guarded(values: Any) -> tuple[Any, Any]:
    """A copy of an array between numbers that spoil every sum, and all of that memory."""
    memory = np.full(values.size + 128, np.nan, values.dtype)
    inside = memory[64:-64].reshape(values.shape)
    inside[...] = values
    return inside, memory


def words(g: ConvGeometry) -> dict[str, Any]:
    """The arguments of the reference functions."""
    return {"stride": g.stride, "padding": g.pads, "dilation": g.dilation, "groups": g.groups}
