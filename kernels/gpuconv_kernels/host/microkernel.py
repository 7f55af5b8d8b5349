"""The micro-kernel: a small matrix of sums in vector registers, which all products are made of.

``rows`` x ``vectors`` registers hold sums; each step of the reduction reads ``vectors`` vectors of
``b`` and, for every row, one number of ``a`` that is broadcast and multiplied with all of them::

                               b, step p     [ v0 | v1 | v2 | v3 ]    4 vectors of 16 floats
                                               |    |    |    |
    a, row 0, step p   [x] -- broadcast --> [ s00  s01  s02  s03 ]    6 x 4 sums = 24 registers,
    a, row 1, step p   [x] -- broadcast --> [ s10  s11  s12  s13 ]    + 4 for b, + 1 for a number:
      ...                                      ...                    29 of AVX-512's 32
    a, row 5, step p   [x] -- broadcast --> [ s50  s51  s52  s53 ]

The reduction runs in two loops: over ``segments``, for each of which the rows of ``a`` begin
somewhere else (the taps of a convolution, whose pixels lie apart in memory), and over ``steps``
numbers within one. That is the batch-reduce product of Georganas et al. 2019, "High-Performance
Deep Learning via a Single Building Block", with the addresses of Dukhan 2019, "The Indirect
Convolution Algorithm": a tap that falls into the padding points to zeros, and neither strides nor
dilation nor borders need code of their own.

Emitted as LLVM's vector instructions, so the same text serves every width: LLVM cuts vectors that
the CPU does not have into ones that it has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.target import INT, ITEMSIZE, REAL, Host, entry, inlined

RELU = 1
"""Of ``finish``: negative sums become 0 when they are stored; NaN stays."""

_UNROLLED = 4
_MOST_ROWS = 14


def most_vectors(host: Host) -> int:
    """Vectors across the widest micro-kernel of a CPU."""
    return 4 if host.registers >= 32 else 2


def rows_for(vectors: int, host: Host) -> int:
    """Rows of the micro-kernel with so many vectors: as many as the registers hold."""
    return min(_MOST_ROWS, (host.registers - 1 - vectors) // vectors)


def vectors_for(columns: int, dtype: str, host: Host) -> int:
    """Vectors across the micro-kernel for so many columns: few empty lanes first, then many."""
    lanes = host.lanes(dtype)
    candidates = range(1, most_vectors(host) + 1)
    return min(candidates, key=lambda v: (-(-columns // (v * lanes)) * v, -v))


@functools.cache
def micro_kernel(dtype: str, host: Host, rows: int, vectors: int, a_step: int = 0) -> Any:
    """Return the micro-kernel as a function that kernels call; it disappears in them.

    ``multiply(a, segments, a_shift, a_next, b, b_segment, b_next, steps,``
    ``c, bias, accumulate, finish)``

    With integers only; addresses and distances are in bytes:

    - ``a``: address of a table of ``segments`` x ``rows`` addresses, where the numbers of each row
      begin in each segment; ``a_shift`` is added to all of them, ``a_next`` leads to the
      row's number of the next step. If ``a_step`` is not 0, the table has one address a segment,
      and row ``m`` begins ``m * a_step`` bytes further.
    - ``b``: address of the first vector, or, if ``a_step`` is not 0, of a table of the first
      addresses of the segments; ``b_next`` leads to the next step's, ``b_segment`` to the next
      segment's.
    - ``c``: address of a table of the addresses of the rows of results.
    - ``bias``: address of what the sums begin with, a whole row of it; if ``accumulate``, they
      begin with what the results hold.
    - ``finish``: 0, or ``RELU``.

    Whole vectors of ``b`` and ``bias`` are read, and whole rows of results are read and written.
    Where there are fewer results, callers let the rest point to memory of their own.
    """
    inside = _intrinsic(functools.partial(_MicroKernel, dtype, host, rows, vectors, a_step, False))

    def in_order(  # type: ignore[no-untyped-def]
        a, segments, a_shift, a_next, b, b_segment, b_next, steps, c, bias, accumulate, finish
    ):
        inside(
            a, 0, segments, a_shift, a_next, b, b_segment, b_next, steps,
            c, bias, accumulate, finish,
        )  # fmt: skip

    return inlined(in_order)


@functools.cache
def pixel_kernel(dtype: str, host: Host, rows: int, vectors: int) -> int:
    """Return the address of the micro-kernel whose rows are pixels, for :func:`multiply`.

    ``multiply(address, a, order, segments, a_shift, b, steps, c, bias, accumulate, finish)``

    as in :func:`micro_kernel`, but that ``order`` is the address of a list of which segments there
    are: ``a`` has the addresses of all, and in ``b`` each has ``steps`` rows, packed without gaps.
    The numbers of a row follow each other. Compiled by itself, with distances that are constants:
    that spares the loop a pointer for each row and step, and its callers are compiled once.
    """
    inside = _intrinsic(functools.partial(_MicroKernel, dtype, host, rows, vectors, 0, True))
    a_next, b_next = ITEMSIZE[dtype], vectors * host.vector_bytes

    def pixels(a, order, segments, a_shift, b, steps, c, bias, accumulate, finish):  # type: ignore[no-untyped-def]
        inside(
            a, order, segments, a_shift, a_next, b, steps * b_next, b_next, steps,
            c, bias, accumulate, finish,
        )  # fmt: skip

    return entry(pixels, 10, dtype, host, rows, vectors)


@functools.cache
def channel_kernel(dtype: str, host: Host, rows: int, vectors: int) -> int:
    """Return the address of the micro-kernel whose rows are channels, for :func:`multiply`.

    ``multiply(address, a, segments, a_shift, a_next, b, steps, c, bias, accumulate, finish)``

    as in :func:`micro_kernel` with ``a_step`` the distance of two numbers; ``b`` has no gaps within
    a segment.
    """
    inside = micro_kernel(dtype, host, rows, vectors, ITEMSIZE[dtype])
    b_next = vectors * host.vector_bytes

    def channels(a, segments, a_shift, a_next, b, steps, c, bias, accumulate, finish):  # type: ignore[no-untyped-def]
        inside(a, segments, a_shift, a_next, b, 0, b_next, steps, c, bias, accumulate, finish)

    return entry(channels, 10, dtype, host, rows, vectors)


@intrinsic
def _multiply(  # type: ignore[no-untyped-def]
    typing_context, address, n0, n1, n2, n3, n4, n5, n6, n7, n8, n9
):
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.VoidType(), [INT] * 10)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 11), generate


multiply: Any = _multiply
"""Call a micro-kernel by its address, inside a kernel."""


def _intrinsic(emit: Callable[..., Any]) -> Any:
    @intrinsic
    def inside(  # type: ignore[no-untyped-def]
        typing_context, a, order, segments, a_shift, a_next, b, b_segment, b_next, steps,
        c, bias, accumulate, finish,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emit(builder, *arguments)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 13), generate

    return inside


Sums = dict[tuple[int, int], ir.Value]


class _MicroKernel:
    """Emits one micro-kernel where a builder stands."""

    def __init__(
        self,
        dtype: str,
        host: Host,
        rows: int,
        vectors: int,
        a_step: int,
        ordered: bool,
        builder: ir.IRBuilder,
        *arguments: ir.Value,
    ) -> None:
        self.rows, self.vectors, self.a_step, self.ordered = rows, vectors, a_step, ordered
        self.number, self.itemsize = REAL[dtype], ITEMSIZE[dtype]
        self.lanes = host.lanes(dtype)
        self.vector = ir.VectorType(self.number, self.lanes)
        self.cells = [(m, n) for m in range(rows) for n in range(vectors)]
        self.builder = builder
        suffix = f"v{self.lanes}f{8 * self.itemsize}"
        self.multiply_add = self._declare(f"llvm.fmuladd.{suffix}", self.vector, [self.vector] * 3)
        (
            self.a, self.order, self.segments, self.a_shift, self.a_next,
            self.b, self.b_segment, self.b_next, self.steps,
            self.c, self.bias, self.accumulate, self.finish,
        ) = arguments  # fmt: skip
        self._emit()

    # --- the parts -------------------------------------------------------------------

    def _emit(self) -> None:
        sums = self._begin()
        sums = self._all_segments(sums)
        self._store(self._finished(sums))

    def _begin(self) -> Sums:
        """The sums before the first step: the bias, or the results so far."""
        b = self.builder
        go_on, fresh, begun = (b.append_basic_block(n) for n in ("go_on", "fresh", "begun"))
        b.cbranch(b.icmp_signed("!=", self.accumulate, self._int(0)), go_on, fresh)
        b.position_at_end(go_on)
        rows = self._results()
        results = {(m, n): self._load(rows[m], n) for m, n in self.cells}
        b.branch(begun)
        b.position_at_end(fresh)
        bias = [self._load(self.bias, n) for n in range(self.vectors)]
        b.branch(begun)
        b.position_at_end(begun)
        sums = {cell: b.phi(self.vector) for cell in self.cells}
        for (m, n), phi in sums.items():
            phi.add_incoming(results[m, n], go_on)
            phi.add_incoming(bias[n], fresh)
        return sums

    def _all_segments(self, sums: Sums) -> Sums:
        b = self.builder
        start = b.block
        head, body, after = (b.append_basic_block(n) for n in ("segment", "rows", "summed"))
        b.branch(head)
        b.position_at_end(head)
        segment, sums = self._carried(start, sums, self._int(0))
        b.cbranch(b.icmp_signed("<", segment, self.segments), body, after)
        b.position_at_end(body)
        rows, b_first = self._segment(segment)
        new = self._all_steps(rows, b_first, sums)
        self._carry(segment, b.add(segment, self._int(1)), sums, new, b.block)
        b.branch(head)
        b.position_at_end(after)
        return sums

    def _segment(self, segment: ir.Value) -> tuple[list[ir.Value], ir.Value]:
        """Where the rows of ``a``, and ``b``, begin in a segment."""
        b = self.builder
        if self.a_step:
            at = b.mul(segment, self._int(8))
            first = b.add(self._word(b.add(self.a, at)), self.a_shift)
            rows = [b.add(first, self._int(m * self.a_step)) for m in range(self.rows)]
            return rows, self._word(b.add(self.b, at))
        if self.ordered:
            segment = self._word(b.add(self.order, b.mul(segment, self._int(8))))
        table = b.add(self.a, b.mul(segment, self._int(8 * self.rows)))
        rows = [
            b.add(self._word(b.add(table, self._int(8 * m))), self.a_shift)
            for m in range(self.rows)
        ]
        return rows, b.add(self.b, b.mul(segment, self.b_segment))

    def _all_steps(self, rows: list[ir.Value], b_first: ir.Value, sums: Sums) -> Sums:
        """Several steps at a time, then those that are left."""
        b = self.builder
        several = b.sdiv(self.steps, self._int(_UNROLLED))
        rows, b_now, sums = self._steps(several, _UNROLLED, rows, b_first, sums)
        left = b.sub(self.steps, b.mul(several, self._int(_UNROLLED)))
        return self._steps(left, 1, rows, b_now, sums)[-1]

    def _steps(
        self, count: ir.Value, unrolled: int, rows: list[ir.Value], b_now: ir.Value, sums: Sums
    ) -> tuple[list[ir.Value], ir.Value, Sums]:
        """A loop of ``count`` passes of ``unrolled`` steps."""
        b = self.builder
        start = b.block
        head, body, after = (b.append_basic_block(n) for n in ("steps", "step", "stepped"))
        b.branch(head)
        b.position_at_end(head)
        index, sums = self._carried(start, sums, self._int(0))
        moved = b.phi(INT)  # how far the rows have come
        moved.add_incoming(self._int(0), start)
        b_here = b.phi(INT)
        b_here.add_incoming(b_now, start)
        b.cbranch(b.icmp_signed("<", index, count), body, after)
        b.position_at_end(body)
        new, offset, b_at = dict(sums), moved, b_here
        for _ in range(unrolled):
            of_b = [self._load(b_at, n) for n in range(self.vectors)]
            for m in range(self.rows):
                number = self._broadcast(b.add(rows[m], offset))
                for n in range(self.vectors):
                    new[m, n] = b.call(self.multiply_add, [number, of_b[n], new[m, n]])
            offset, b_at = b.add(offset, self.a_next), b.add(b_at, self.b_next)
        self._carry(index, b.add(index, self._int(1)), sums, new, b.block)
        moved.add_incoming(offset, b.block)
        b_here.add_incoming(b_at, b.block)
        b.branch(head)
        b.position_at_end(after)
        return [b.add(row, moved) for row in rows], b_here, sums

    def _finished(self, sums: Sums) -> Sums:
        """What is stored: the sums, or their positive part."""
        b = self.builder
        relu = b.icmp_signed("==", self.finish, self._int(RELU))
        result = {}
        for cell, value in sums.items():
            negative = b.fcmp_ordered("<=", value, self._zeros())
            positive = b.select(negative, self._zeros(), value)
            result[cell] = b.select(relu, positive, value)
        return result

    def _store(self, sums: Sums) -> None:
        rows = self._results()
        for m, n in self.cells:
            self.builder.store(sums[m, n], self._pointer(rows[m], n), align=1)

    def _results(self) -> list[ir.Value]:
        b = self.builder
        return [self._word(b.add(self.c, self._int(8 * m))) for m in range(self.rows)]

    # --- small words -----------------------------------------------------------------

    def _declare(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        module = self.builder.module
        found = module.globals.get(name)
        return found or ir.Function(module, ir.FunctionType(result, arguments), name)

    def _int(self, value: int) -> ir.Constant:
        return ir.Constant(INT, value)

    def _zeros(self) -> ir.Constant:
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def _pointer(self, address: ir.Value, n: int = 0) -> ir.Value:
        b = self.builder
        at = b.add(address, self._int(n * self.lanes * self.itemsize))
        return b.inttoptr(at, self.vector.as_pointer())

    def _load(self, address: ir.Value, n: int) -> ir.Value:
        return self.builder.load(self._pointer(address, n), align=1)

    def _word(self, address: ir.Value) -> ir.Value:
        b = self.builder
        return b.load(b.inttoptr(address, INT.as_pointer()))

    def _broadcast(self, address: ir.Value) -> ir.Value:
        b = self.builder
        number = b.load(b.inttoptr(address, self.number.as_pointer()), align=1)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = b.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return b.shuffle_vector(first, undefined, lanes)

    def _carried(self, start: ir.Block, sums: Sums, first: ir.Value) -> tuple[ir.Value, Sums]:
        """A loop's counter and sums, as they come from the block before it."""
        b = self.builder
        index = b.phi(INT)
        index.add_incoming(first, start)
        inside = {cell: b.phi(self.vector) for cell in self.cells}
        for cell, phi in inside.items():
            phi.add_incoming(sums[cell], start)
        return index, inside

    def _carry(
        self, index: ir.Value, next_index: ir.Value, sums: Sums, new: Sums, end: ir.Block
    ) -> None:
        index.add_incoming(next_index, end)
        for cell, phi in sums.items():
            phi.add_incoming(new[cell], end)
