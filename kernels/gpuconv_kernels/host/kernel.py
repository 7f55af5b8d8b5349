"""Kernels as plain C functions, whose arguments lie in memory as words.

A thread that runs such a function needs nothing of Python: not its lock, which threads would fight
for whenever a kernel ends, and no conversion of arguments, which takes Numba some 10 us for tuples.

The words of a call, 64 bits each::

    0         the number of the next task (a line of the cache of its own: all threads add to it)
    8         the address of the compiled kernel
    9         whether a thread found no memory
    10        how many tasks there are
    11 ...    the arguments, one after the other, tuples number by number

Numba compiles the kernel as a function of its arguments; a small function of the words alone, one
for all kernels that take as many numbers of the same kinds, calls it. (To compile the kernel
into that function would optimise its code once more, which is what compiling takes its time for.)
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.callconv import RETCODE_NONE
from numba.extending import intrinsic

from gpuconv_kernels.host.memory import address
from gpuconv_kernels.host.target import INT, LINE, entry, native

_FAILED, _ARGUMENTS = LINE // 8 + 1, LINE // 8 + 3
_MOST_ARGUMENTS = 117


def argument(number: int) -> int:
    """Return how many bytes behind a kernel's ``counter`` its argument of that number lies.

    Numbers of tuples count one by one. For parts that are given many of a kernel's arguments: they
    read them where they are.
    """
    return 8 * (_ARGUMENTS + number)


class Words:
    """The memory of one call; used again for others.

    Attributes:
        address: where it is; ``failed``: of the word that says whether a thread found no memory.
    """

    def __init__(self) -> None:
        room = np.zeros(_ARGUMENTS + _MOST_ARGUMENTS + LINE // 8, np.int64)
        first = -address(room) % LINE // 8
        self.numbers: Any = room[first:]
        self.address = address(self.numbers)
        self.failed = self.address + 8 * _FAILED


class Kernel:
    """A kernel, compiled when it is first run or taken from the cache on disk."""

    def __init__(self, function: Callable[..., None], *choices: object) -> None:
        """Make a kernel.

        Args:
            function: ``function(counter, tasks, *arguments)``, of integers, floats and tuples of
                integers; made by a factory; what it calls is compiled into it. The arguments have
                the same form in every call.
            choices: all that the factory made it for: equal choices mean equal code.
        """
        self._function, self._choices = function, choices
        self._native = self._code = 0
        self._write: Callable[..., None]  # these two once it is compiled
        self._flat: Callable[..., tuple[Any, ...]]

    def prepare(self, words: Words, tasks: int, arguments: tuple[Any, ...]) -> int:
        """Write down a call; return the address of the function that takes the words' address."""
        if not self._code:
            self._compile(arguments)
        self._write(words.numbers, 0, 0, self._native, 0, tasks, *self._flat(*arguments))
        return self._code

    def _compile(self, arguments: tuple[Any, ...]) -> None:
        form = tuple(
            tuple(map(_letter, a)) if isinstance(a, tuple) else _letter(a) for a in arguments
        )
        flat = "".join("".join(f) for f in form)
        if len(flat) > _MOST_ARGUMENTS:
            raise ValueError(
                f"a kernel takes at most {_MOST_ARGUMENTS} numbers. Received: {len(flat)}"
            )
        kinds: list[Any] = [types.int64, types.int64]  # the counter's address, and how many tasks
        kinds += [
            types.Tuple([_NUMBA[f] for f in of]) if isinstance(of, tuple) else _NUMBA[of]
            for of in form
        ]
        self._native = native(self._function, tuple(kinds), *self._choices)
        self._write = struct.Struct(f"=q{LINE - 8}xqqq{flat}").pack_into
        self._flat = _flattening(tuple(isinstance(a, tuple) for a in arguments))
        self._code = _caller(flat)


@functools.cache
def _flattening(tuples: tuple[bool, ...]) -> Callable[..., tuple[Any, ...]]:
    """Return a function that lays its arguments out in one tuple, those that are tuples opened.

    Written out for each form of arguments: a loop over them takes longer than small kernels.
    """
    names = ", ".join(f"a{n}" for n in range(len(tuples)))
    items = ", ".join(f"*a{n}" if is_tuple else f"a{n}" for n, is_tuple in enumerate(tuples))
    function: Callable[..., tuple[Any, ...]] = eval(f"lambda {names}: ({items},)")
    return function


def _letter(number: object) -> str:
    return "d" if isinstance(number, float | np.floating) else "q"


@functools.cache
def _caller(flat: str) -> int:
    """Return the address of the function that calls kernels with such arguments from words."""
    call = _call(flat)

    def from_words(words):  # type: ignore[no-untyped-def]
        call(words)

    return entry(from_words, 1, flat)


def _call(flat: str) -> Any:
    kinds = (types.int64, types.int64, *(_NUMBA[letter] for letter in flat))

    @intrinsic
    def call(typing_context, words):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            def place(number: int, kind: ir.Type) -> ir.Value:
                at = builder.add(arguments[0], ir.Constant(INT, 8 * number))
                return builder.inttoptr(at, kind.as_pointer())

            values = [arguments[0]]
            for number, kind in enumerate(("q", *flat), _ARGUMENTS - 1):
                values.append(builder.load(place(number, _LLVM[kind])))
            # As Numba's functions call each other: places for a result and an error come first.
            kernel = context.call_conv.get_function_type(types.none, kinds)
            slots = [cgutils.alloca_once(builder, kind.pointee) for kind in kernel.args[:2]]
            code = builder.load(place(LINE // 8, kernel.as_pointer()))
            status = builder.call(code, [*slots, *values])
            fine = [
                builder.icmp_signed("==", status, ir.Constant(status.type, returned))
                for returned in (0, RETURNED_NONE)
            ]
            with builder.if_then(builder.not_(builder.or_(*fine))):
                builder.store(ir.Constant(INT, 1), place(_FAILED, INT))
            return context.get_dummy_value()

        return types.void(types.intp), generate

    return call


_NUMBA = {"q": types.int64, "d": types.float64}
_LLVM = {"q": INT, "d": ir.DoubleType()}
RETURNED_NONE = int(RETCODE_NONE.constant)
"""What a function of Numba's says where it went well; all else but 0 is an error. Of what kernels
do only ``np.empty`` can fail."""
