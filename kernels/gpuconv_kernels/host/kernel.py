"""Kernels as plain C functions, whose arguments lie in memory as words.

A thread that runs such a function needs nothing of Python: not its lock, which threads would fight
for whenever a kernel ends, and no conversion of arguments, which takes Numba some 10 us for tuples.

The words of a call, 64 bits each::

    0         the number of the next task (a line of the cache of its own: all threads add to it)
    8         how many tasks there are
    9         whether a thread found no memory
    10 ...    the arguments, one after the other, tuples number by number
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.memory import address, view
from gpuconv_kernels.host.target import INT, LINE, entry, inlined

_TASKS, _FAILED, _ARGUMENTS = LINE // 8, LINE // 8 + 1, LINE // 8 + 2
_MOST_ARGUMENTS = 118

Form = tuple[Any, ...]
"""What arguments look like: ``q`` for an integer, ``d`` for a float, a tuple of these."""


class Words:
    """The memory of one call; used again for others."""

    def __init__(self) -> None:
        room = np.zeros(_ARGUMENTS + _MOST_ARGUMENTS + LINE // 8, np.int64)
        first = -address(room) % LINE // 8
        self.numbers: Any = room[first:]
        self.address = address(self.numbers)


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
        self._code = 0
        self._layout = struct.Struct("")

    def prepare(self, words: Words, tasks: int, arguments: tuple[Any, ...]) -> int:
        """Write down a call; return the address of the function that takes the words' address."""
        if not self._code:
            self._compile(arguments)
        numbers: list[Any] = []
        for argument in arguments:
            if type(argument) is tuple:
                numbers += argument
            else:
                numbers.append(argument)
        self._layout.pack_into(words.numbers, 0, 0, tasks, 0, *numbers)
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
        self._layout = struct.Struct(f"=q{LINE - 8}xqq{flat}")
        self._code = entry(_from_words(self._function, form), 1, self._choices, form)


def check(words: Words) -> None:
    """Raise what a kernel could not.

    Raises:
        MemoryError: there was not enough for what it works on; its results are not whole.
    """
    if words.numbers[_FAILED]:
        raise MemoryError("no memory for what a kernel works on; its results are not whole")


def _letter(number: object) -> str:
    return "d" if isinstance(number, float | np.floating) else "q"


def _from_words(function: Callable[..., None], form: Form) -> Callable[[int], None]:
    """Return ``function`` with all of its arguments in memory."""
    body, arguments, integers = inlined(function), _unpack(("q", *form)), view("int64")

    @inlined
    def call(words):  # type: ignore[no-untyped-def]
        body(words, *arguments(words))

    def kernel(words):  # type: ignore[no-untyped-def]
        try:
            call(words)
        except Exception:  # np.empty's: nothing else that kernels do can fail
            integers(words + 8 * _FAILED, 1)[0] = 1

    kernel.__name__ = function.__name__
    kernel.__module__ = function.__module__
    return kernel


def _unpack(form: Form) -> Any:
    """Return a function that reads the number of tasks and the arguments."""
    kinds = [
        types.Tuple([_NUMBA[f] for f in of]) if isinstance(of, tuple) else _NUMBA[of] for of in form
    ]
    whole = types.Tuple(kinds)

    @intrinsic
    def unpack(typing_context, words):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            places = iter((_TASKS, *range(_ARGUMENTS, _ARGUMENTS + _MOST_ARGUMENTS)))

            def load(letter: str) -> ir.Value:
                at = builder.add(arguments[0], ir.Constant(INT, 8 * next(places)))
                return builder.load(builder.inttoptr(at, _LLVM[letter].as_pointer()))

            values = [
                context.make_tuple(builder, kind, [load(letter) for letter in of])
                if isinstance(of, tuple)
                else load(of)
                for of, kind in zip(form, kinds, strict=True)
            ]
            return context.make_tuple(builder, whole, values)

        return whole(types.intp), generate

    return unpack


_NUMBA = {"q": types.int64, "d": types.float64}
_LLVM = {"q": INT, "d": ir.DoubleType()}
