"""What convolutions do to results as they store them: a residual and an activation.

ReLU and ReLU6 cost next to nothing in registers, where micro-kernels and transforms apply them;
what else there is would make each of those many. Other functions are a part that kernels call
behind a store of a few rows, as long as these lie in the nearest cache::

    sums in registers --> rows of y in L1 --> part, by its address: y = f(y) --> memory

The functions are those of :mod:`activations`, so that a pass over all of y gives the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuconv_kernels.array.activations import Function
from gpuconv_kernels.host.functions import functions
from gpuconv_kernels.host.memory import float_of, number_at, put_at
from gpuconv_kernels.host.microkernel import RELU, SIX
from gpuconv_kernels.host.parts import part
from gpuconv_kernels.host.target import inlined


class Finish(NamedTuple):
    """How kernels are told what to do as they store.

    Attributes:
        bits: of ``microkernel``: ``RELU``, ``SIX``, both or neither.
        function: address of the part for what is not done in registers, or 0.
        alpha: the function's parameter, for the part.
    """

    bits: int
    function: int
    alpha: int


NOTHING = Finish(0, 0, 0)
_IN_REGISTERS = {
    None: NOTHING,
    "relu": Finish(RELU, 0, 0),
    "relu6": Finish(RELU | SIX, 0, 0),
}


def finish_of(dtype: str, activation: Function | None, adds: bool = False) -> Finish:
    """Return how a kernel applies an activation of a kind of ``activations.FORWARD``, or none.

    ``adds``: whether the part adds a residual too, before the function.
    """
    kind = None if activation is None else activation.kind
    if not adds and kind in _IN_REGISTERS:
        return _IN_REGISTERS[kind]
    alpha = 0.0 if activation is None else float(activation.alpha)
    return Finish(0, finishing(dtype, kind), int(np.float64(alpha).view(np.int64)))


@functools.cache
def finishing(dtype: str, kind: str | None) -> int:
    """Return the address of the part that finishes rows of results, for ``parts.call``.

    ``call(address, rows, count, shift, numbers, added, alpha, 0, 0, 0, 0, 0, 0)``: ``y = f(y + r)``
    IN PLACE; a ``kind`` of None only adds.

    - ``rows``: address of ``count`` addresses; ``shift`` bytes behind each, ``numbers`` results
      begin.
    - ``added``: how many bytes behind them ``r`` lies; 0: nothing is added.
    - ``alpha``: of a :class:`Finish`.
    """
    return part(define(dtype, kind), dtype, kind)


def define(dtype: str, kind: str | None) -> Callable[..., None]:
    """Return the part as a plain function; see :func:`finishing`."""
    number, put, word = number_at(dtype), put_at(dtype), number_at("int64")
    narrow: Any = np.dtype(dtype).type
    apply = inlined(_same if kind is None else functions(dtype)[kind])

    def finish(rows, count, shift, numbers, added, alpha, n6, n7, n8, n9, n10, n11):  # type: ignore[no-untyped-def]
        slope = narrow(float_of(alpha))
        for row in range(count):
            at = word(rows, row) + shift
            if added:
                for i in range(numbers):
                    put(at, i, apply(number(at, i) + number(at + added, i), slope))
            else:
                for i in range(numbers):
                    put(at, i, apply(number(at, i), slope))

    return finish


@functools.cache
def bounded(dtype: str) -> Any:
    """Return ``f(value, finish)``: what is done in registers, for one number."""
    number: Any = np.dtype(dtype).type
    zero, six = number(0), number(6)

    def inside(value, finish):  # type: ignore[no-untyped-def]
        if finish & RELU and value < zero:
            return zero
        return six if finish & SIX and value > six else value

    return inlined(inside)


def _same(x, alpha):  # type: ignore[no-untyped-def]
    return x
