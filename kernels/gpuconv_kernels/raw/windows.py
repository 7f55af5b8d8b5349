"""``struct Window`` (window.cuh) from a geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from gpuconv_kernels.raw.source import WINDOW

MOST_POSITIONS = 2**31 - 1
"""Positions of one sample that a kernel counts in 32 bits."""


class Windowed(Protocol):
    """What a convolution and a pooling have in common: see ``gpuconv.geometry``."""

    def __hash__(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def input(self) -> tuple[int, ...]: ...
    @property
    def output(self) -> tuple[int, ...]: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def dilation(self) -> tuple[int, ...]: ...
    @property
    def pads(self) -> tuple[tuple[int, int], ...]: ...


@lru_cache(maxsize=1024)
def window(g: Windowed, kernel: tuple[int, ...]) -> Any:
    """The window of a convolution (its kernel) or of a pooling (its window)."""
    return describe(g.input, g.output, kernel, g.stride, g.dilation, g.pads)


def describe(
    input: Sequence[int],
    output: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Any:
    """One ``Window``; dimensions that are missing come first, with extent 1."""
    missing = 3 - len(input)
    made = np.empty((), WINDOW)
    for name, values, neutral in (
        ("input", input, 1),
        ("output", output, 1),
        ("kernel", kernel, 1),
        ("stride", stride, 1),
        ("dilation", dilation, 1),
        ("lo", [lo for lo, _ in pads], 0),
        ("hi", [hi for _, hi in pads], 0),
    ):
        made[name] = (neutral,) * missing + tuple(values)
    made.setflags(write=False)
    return made


def too_large(g: Windowed) -> str | None:
    """Say why the kernels cannot count this geometry's positions, or None if they can."""
    for what, extents in (("input", g.input), ("output", g.output)):
        if math.prod(extents) > MOST_POSITIONS:
            return f"one sample's {what} {extents} has more than 2^31 positions"
    return None
