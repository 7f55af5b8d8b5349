"""Parts of kernels that are compiled by themselves, and that kernels call by their addresses.

What a kernel calls by name is compiled into it: once for itself and once more wherever it is
called. That is right for a few instructions in an inner loop. What runs once for hundreds of pixels
becomes a part: compiled once, kept once on the disk, whatever kernels call it.

The addresses are arguments of kernels, never constants in them: what is kept on the disk is read by
other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.target import INT, entry

_INTEGERS = 12


def part(function: Callable[..., None], *choices: object) -> int:
    """Compile a function of 12 integers; return its address, for :func:`call`.

    Args:
        function: made by a factory.
        choices: all that the factory made it for: equal choices mean equal code.
    """
    return entry(function, _INTEGERS, *choices)


@intrinsic
def _call(  # type: ignore[no-untyped-def]
    typing_context, address, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11
):
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.VoidType(), [INT] * _INTEGERS)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*(types.intp,) * (_INTEGERS + 1)), generate


call: Any = _call
"""``call(address, n0, ..., n11)``: call a part, inside a kernel."""
