"""Arrays seen as a few runs of axes, and operands that are broadcast along some of them.

Neighbouring axes that are treated alike are one longer axis, a run: (N, H, W, C) normalised over
N, H and W is (N*H*W, C) with one reduced run and one kept. A kernel steps along one run and
takes those before it as ``outer`` and those after it as ``inner``, up to three each::

    element      o0  o1  o2 | r | i0  i1  i2        row-major
    operand      o0       . | r |     i1            extents of 1 where it is broadcast

An operand's index is the row-major number of the runs that it keeps. Which ones is known when a
kernel is compiled, so that what is not needed costs nothing; the extents are arguments.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gpuconv_kernels.device.reductions import division
from gpuconv_kernels.device.target import inlined

Array = Any
Flags = tuple[bool, ...]

_MOST = 3
"""Runs before, and after, the one along which a kernel steps."""


@dataclass(frozen=True)
class Runs:
    """A shape as runs.

    Attributes:
        extents: of the runs.
        sets: for each of the sets of axes asked about, which runs are in it.
    """

    extents: tuple[int, ...]
    sets: tuple[Flags, ...]

    def longest(self, among: Iterable[int]) -> int:
        """The longest of some runs along which a kernel can step.

        Raises:
            ValueError: none of them has at most three runs before it and three after it.
        """
        last = len(self.extents) - 1
        possible = [j for j in among if j <= _MOST and last - j <= _MOST]
        if not possible:
            raise ValueError(
                f"a kernel takes up to {_MOST} runs of axes before and after one run. "
                f"Received: runs of extents {self.extents}, one of {sorted(among)}"
            )
        return max(possible, key=lambda j: self.extents[j])

    def around(self, j: int) -> tuple[int, int, int]:
        """``(outer, reduced, inner)`` for a step along run ``j``."""
        return math.prod(self.extents[:j]), self.extents[j], math.prod(self.extents[j + 1 :])


@functools.lru_cache(maxsize=1024)
def runs_of(shape: tuple[int, ...], *sets: tuple[int, ...]) -> Runs:
    """Merge neighbouring axes that are in the same of the ``sets`` of axes; extents of 1 go."""
    positive = [{axis % len(shape) for axis in axes} for axes in sets]
    extents: list[int] = []
    flags: list[Flags] = []
    for axis, extent in enumerate(shape):
        mine = tuple(axis in axes for axes in positive)
        if extent == 1:
            continue
        if flags and flags[-1] == mine:
            extents[-1] *= extent
        else:
            extents.append(extent)
            flags.append(mine)
    if not extents:
        extents, flags = [1], [(True,) * len(sets)]
    by_set = tuple(tuple(run[s] for run in flags) for s in range(len(sets)))
    return Runs(tuple(extents), by_set)


def chain(extents: tuple[int, ...], order: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """``(outer, reduced, inner)`` of each step that sums one of the runs, in the given order."""
    left = list(extents)
    for j in order:
        yield math.prod(left[:j]), left[j], math.prod(left[j + 1 :])
        left[j] = 1


class Scratch:
    """Hands out parts of one flat array; without one, counts what would be handed out."""

    def __init__(self, array: Array | None, counting: bool = False) -> None:
        self._array, self.counting, self.used = array, counting, 0

    def pair(self, count: int) -> tuple[Array, Array]:
        """Two parts of ``count`` elements each.

        Raises:
            ValueError: the array is too small.
        """
        return self.part(count), self.part(count)

    def part(self, count: int) -> Array:
        """A part of ``count`` elements.

        Raises:
            ValueError: the array is too small.
        """
        start, self.used = self.used, self.used + count
        if self.counting:
            return None
        if self._array is None or self._array.size < self.used:
            size = 0 if self._array is None else self._array.size
            raise ValueError(f"expected {self.used} elements of scratch or more. Received: {size}")
        return self._array[start : self.used]


@dataclass(frozen=True)
class Operand:
    """Which runs an operand keeps: those before a kernel's run, that run, those after it."""

    outer: Flags
    along: bool
    inner: Flags

    @classmethod
    def of(cls, kept: Flags, j: int) -> Operand:
        """Return how an operand that varies along the runs ``kept`` is found, stepping by ``j``."""
        return cls(kept[:j], kept[j], kept[j + 1 :])


def inner_extents(extents: tuple[int, ...], j: int) -> tuple[int, int, int, int]:
    """The arguments ``o1, o2, i1, i2`` of an index function: all runs but each side's first."""
    before, after = extents[:j], extents[j + 1 :]
    o1, o2 = ((1,) * (_MOST - len(before)) + before)[1:]
    i1, i2 = ((1,) * (_MOST - len(after)) + after)[1:]
    return o1, o2, i1, i2


@functools.cache
def index_function(operand: Operand) -> Any:
    """Return the device function ``index(o, i, reduced, inner, o1, o2, i1, i2)``.

    It gives the operand's element that belongs to element ``(o, 0, i)``; along the kernel's run
    it moves on by :func:`stride_function` elements.
    """
    before = (False,) * (_MOST - len(operand.outer)) + operand.outer
    after = (False,) * (_MOST - len(operand.inner)) + operand.inner
    a0, a1, a2 = before
    b0, b1, b2 = after
    along, outers, inners = operand.along, len(operand.outer), len(operand.inner)

    def index(o, i, reduced, inner, o1, o2, i1, i2):  # type: ignore[no-untyped-def]
        at = 0
        if outers == 1 and a2:
            at = o
        elif a0 or a1 or a2:
            rest, third = division(o, o2)
            first, second = division(rest, o1)
            if a0:
                at = first
            if a1:
                at = at * o1 + second
            if a2:
                at = at * o2 + third
        if along:
            at = at * reduced
        if inners == 1 and b2:
            at = at * inner + i
        elif b0 or b1 or b2:
            rest, third = division(i, i2)
            first, second = division(rest, i1)
            if b0:
                at = at * division(inner, i1 * i2)[0] + first
            if b1:
                at = at * i1 + second
            if b2:
                at = at * i2 + third
        return at

    return inlined(index)


@functools.cache
def stride_function(operand: Operand) -> Any:
    """Return the device function ``stride(inner, i1, i2)``: see :func:`index_function`."""
    b0, b1, b2 = (False,) * (_MOST - len(operand.inner)) + operand.inner
    along = operand.along

    def stride(inner, i1, i2):  # type: ignore[no-untyped-def]
        length = 1 if along else 0
        if b0:
            length = length * division(inner, i1 * i2)[0]
        if b1:
            length = length * i1
        if b2:
            length = length * i2
        return length

    return inlined(stride)
