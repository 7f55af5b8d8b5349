"""What LLVM is given for the micro-kernels: see microkernel.py for what they compute.

Emitted as LLVM's vector instructions, so the same text serves every width: LLVM cuts vectors that
the CPU does not have into ones that it has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from gpuconv_kernels.host.target import INT, ITEMSIZE, LINE, REAL, Host
from gpuconv_kernels.host.vectors import SHORT, fetch_line, loop

RELU = 1
"""Of ``finish``: negative sums become 0 when they are stored; NaN stays."""
SIX = 2
"""Of ``finish``: sums above 6 become 6."""
DISTANCE = -4
"""Of ``finish``: the bits of a distance in bytes, a multiple of the numbers' size."""
LEFT_OUT = 2**32
"""Of ``accumulate``: as often as there are lanes in the last vector that are no results."""
UNROLLED = 4
"""Steps of a pass of the inner loop."""

Sums = dict[tuple[int, int], ir.Value]
"""A vector for each cell: its row, and which of the row's vectors."""


def bounds(builder: ir.IRBuilder, vector: ir.VectorType, finish: ir.Value) -> list[ir.Value]:
    """Vectors of the least and the largest number that ``finish`` leaves, for :func:`bounded`."""

    def either(bit: int, bound: float, otherwise: float) -> ir.Value:
        is_set = builder.icmp_signed("!=", builder.and_(finish, INT(bit)), INT(0))
        both = (ir.Constant(vector, [value] * vector.count) for value in (bound, otherwise))
        return builder.select(is_set, *both)

    return [either(RELU, 0.0, -math.inf), either(SIX, 6.0, math.inf)]


def bounded(builder: ir.IRBuilder, value: ir.Value, bounds: Sequence[ir.Value]) -> ir.Value:
    """A vector whose numbers are not beyond the bounds; NaN stays. Two instructions."""
    low, high = bounds
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


class _MicroKernel:
    """What both have in common: the loops over segments and over steps, and small words."""

    a_next: ir.Value
    b_next: ir.Value
    steps: ir.Value
    segments: ir.Value
    ahead_next: ir.Value
    sets: int = 1
    """Sums of a cell, which the steps of a pass take turns with; each set has rows of its own."""
    lines: int
    """That are fetched in a pass."""
    nearness: int
    """Of the cache that they are fetched into: 3 for L1, 2 for L2."""

    def __init__(
        self,
        dtype: str,
        host: Host,
        rows: int,
        vectors: int,
        builder: ir.IRBuilder,
        arguments: Sequence[ir.Value],
    ) -> None:
        self.vector_bytes = host.vector_bytes
        self.rows, self.vectors = rows, vectors
        self.number, self.itemsize = REAL[dtype], ITEMSIZE[dtype]
        self.lanes = host.lanes(dtype)
        self.vector = ir.VectorType(self.number, self.lanes)
        self.cells = [(m, n) for m in range(self.sets * rows) for n in range(vectors)]
        self.builder = builder
        suffix = f"v{self.lanes}f{8 * self.itemsize}"
        self.multiply_add = self._declare(f"llvm.fmuladd.{suffix}", self.vector, [self.vector] * 3)
        self._emit(arguments)

    def _emit(self, arguments: Sequence[ir.Value]) -> None:
        """Emit the whole kernel, whose arguments these are."""
        raise TypeError(f"{type(self).__name__} must define _emit")

    def _row(self, rows: list[ir.Value], m: int) -> ir.Value:
        """The address of a row's number, of ``rows`` that are carried along."""
        raise TypeError(f"{type(self).__name__} must define _row")

    def _all_segments(self, sums: Sums) -> Sums:
        """A loop over segments, the sums of all of which are added up."""

        def one(segment: ir.Value, sums: Sums) -> Sums:
            return self._all_steps(*self._segment(segment), sums)

        return self._repeat(self.segments, sums, one)

    def _segment(self, segment: ir.Value) -> tuple[list[ir.Value], ir.Value, ir.Value]:
        """Where the rows of ``a``, ``b``, and what is to be fetched, begin in a segment."""
        raise TypeError(f"{type(self).__name__} must define _segment")

    def _all_steps(
        self, rows: list[ir.Value], b_first: ir.Value, ahead: ir.Value, sums: Sums
    ) -> Sums:
        """Several steps at a time, then those that are left; ``rows`` as :meth:`_row` has them."""
        b = self.builder
        several = b.sdiv(self.steps, self._int(UNROLLED))
        rows, b_now, sums = self._steps(several, UNROLLED, rows, b_first, ahead, sums)
        left = b.sub(self.steps, b.mul(several, self._int(UNROLLED)))
        return self._steps(left, 1, rows, b_now, None, sums)[-1]

    def _steps(
        self,
        count: ir.Value,
        unrolled: int,
        rows: list[ir.Value],
        b_now: ir.Value,
        ahead: ir.Value | None,
        sums: Sums,
    ) -> tuple[list[ir.Value], ir.Value, Sums]:
        """A loop of ``count`` passes of ``unrolled`` steps, which fetch from ``ahead``."""
        b, cells = self.builder, len(self.cells)

        def one(index: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            sums = dict(zip(self.cells, state[:cells], strict=True))
            *rows_at, b_at = state[cells:]  # how far they have come
            for step in range(unrolled):
                if ahead is not None and step < self.lines:
                    line = b.add(b.mul(index, self._int(self.lines)), self._int(step))
                    fetch_line(b, b.add(ahead, b.mul(line, self.ahead_next)), self.nearness)
                of_b = [self._load(b_at, n) for n in range(self.vectors)]
                for m in range(self.rows):
                    number = self._broadcast(self._row(rows_at, m))
                    for n in range(self.vectors):
                        cell = step % self.sets * self.rows + m, n
                        sums[cell] = b.call(self.multiply_add, [number, of_b[n], sums[cell]])
                rows_at = [b.add(row, self.a_next) for row in rows_at]
                b_at = b.add(b_at, self.b_next)
            return [*(sums[cell] for cell in self.cells), *map(self._opaque, rows_at), b_at]

        state = loop(b, count, [*(sums[cell] for cell in self.cells), *rows, b_now], one)
        *rows, b_now = state[cells:]
        return rows, b_now, dict(zip(self.cells, state[:cells], strict=True))

    def _repeat(self, count: ir.Value, sums: Sums, body: Callable[[ir.Value, Sums], Sums]) -> Sums:
        """A loop of ``count`` passes; ``body`` emits one, from its number and the sums so far."""

        def one(index: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            new = body(index, dict(zip(self.cells, state, strict=True)))
            return [new[cell] for cell in self.cells]

        state = loop(self.builder, count, [sums[cell] for cell in self.cells], one)
        return dict(zip(self.cells, state, strict=True))

    def _opaque(self, value: ir.Value) -> ir.Value:
        """The same value, of which LLVM does not know how it came about; no instruction.

        Where it knows that all rows move alike, it adds one common offset to each row's address in
        each instruction. CPUs of Intel's cut such instructions in two.
        """
        return self.builder.asm(ir.FunctionType(INT, [INT]), "", "=r,0", [value], False)

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

    def _fetch_row(self, address: ir.Value) -> None:
        """Ask for the lines that a row of results will be stored to."""
        for at in range(0, self.vectors * self.vector_bytes, LINE):
            fetch_line(self.builder, self.builder.add(address, self._int(at)), 3, write=True)

    def _broadcast(self, address: ir.Value) -> ir.Value:
        b = self.builder
        number = b.load(b.inttoptr(address, self.number.as_pointer()), align=1)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = b.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return b.shuffle_vector(first, undefined, lanes)

    def _either(self, sums: Sums, from_block: ir.Block, others: Sums, from_other: ir.Block) -> Sums:
        """The sums of the block from which this one was reached."""
        result = {}
        for cell, value in sums.items():
            result[cell] = self.builder.phi(self.vector)
            result[cell].add_incoming(value, from_block)
            result[cell].add_incoming(others[cell], from_other)
        return result


class PixelKernel(_MicroKernel):
    """Rows are pixels, and the sum runs over the steps of several segments."""

    lines, nearness = 1, 3
    c: ir.Value
    c_shift: ir.Value
    is_whole: ir.Value | None = None
    """Whether all lanes are results; None: they always are."""

    def _emit(self, arguments: Sequence[ir.Value]) -> None:
        (
            self.a, self.order, self.segments, self.a_shift, self.ahead, self.b, self.steps,
            self.c, self.c_shift, self.bias, self.accumulate, self.finish,
        ) = arguments  # fmt: skip
        b = self.builder
        self.a_next, self.ahead_next = self._int(self.itemsize), self._int(LINE)
        self.b_next = self._int(self.vectors * self.vector_bytes)
        left_out = b.lshr(self.accumulate, self._int(LEFT_OUT.bit_length() - 1))
        self.is_whole = b.icmp_signed("==", left_out, self._int(0))
        self.stored = b.sub(self._int(self.lanes), left_out)  # lanes of the last vector
        self._store_finished(self._all_segments(self._begin()))

    def _store_finished(self, sums: Sums) -> None:
        """Store what is made of the sums."""
        sums = self._finished(sums)
        if self.is_whole is None:
            self._store(sums)
            return
        self._split(functools.partial(self._store, sums), functools.partial(self._store_some, sums))

    def _split(self, whole: Callable[[], Sums | None], some: Callable[[], Sums | None]) -> Sums:
        """Emit both, for results of whole vectors and others; the sums of the one that was run."""
        b = self.builder
        blocks = [b.append_basic_block(n) for n in ("whole", "some", "either")]
        b.cbranch(self.is_whole, *blocks[:2])
        sums = []
        for at, emit in zip(blocks, (whole, some), strict=False):
            b.position_at_end(at)
            sums.append((emit() or {}, b.block))
            b.branch(blocks[2])
        b.position_at_end(blocks[2])
        return self._either(*sums[0], *sums[1])

    def _store(self, sums: Sums) -> None:
        rows = self._results()
        for m, n in self.cells:
            self.builder.store(sums[m, n], self._pointer(rows[m], n), align=1)

    def _results(self) -> list[ir.Value]:
        b = self.builder
        words = [self._word(b.add(self.c, self._int(8 * m))) for m in range(self.rows)]
        return [b.add(word, self.c_shift) for word in words]

    def _fetch_results(self) -> None:
        """Until the sums are stored, the lines that they go to can have come from memory."""
        for row in self._results():
            self._fetch_row(row)

    def _mask(self) -> ir.Value:
        """Which lanes of the last vector are results."""
        b, kind = self.builder, ir.VectorType(SHORT, self.lanes)
        first = b.insert_element(
            ir.Constant(kind, ir.Undefined), b.trunc(self.stored, SHORT), SHORT(0)
        )
        stored = b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), kind([0] * self.lanes))
        return b.icmp_signed("<", kind(list(range(self.lanes))), stored)

    def _read(self, rows: list[ir.Value]) -> Sums:
        """The numbers at these addresses."""
        if self.is_whole is None:
            return self._load_all(rows)
        return self._split(
            functools.partial(self._load_all, rows), functools.partial(self._load_some, rows)
        )

    def _load_all(self, rows: list[ir.Value]) -> Sums:
        return {(m, n): self._load(rows[m], n) for m, n in self.cells}

    def _load_some(self, rows: list[ir.Value]) -> Sums:
        """Of the last vector only what is a result."""
        mask, last = self._mask(), self.vectors - 1
        pointer, short = self.vector.as_pointer(), ir.VectorType(ir.IntType(1), self.lanes)
        suffix = f"v{self.lanes}f{8 * self.itemsize}"
        load = self._declare(
            f"llvm.masked.load.{suffix}.p0{suffix}",
            self.vector,
            [pointer, SHORT, short, self.vector],
        )
        sums = {(m, n): self._load(rows[m], n) for m, n in self.cells if n < last}
        for m in range(self.rows):
            arguments = [self._pointer(rows[m], last), SHORT(1), mask, self._zeros()]
            sums[m, last] = self.builder.call(load, arguments)
        return sums

    def _store_some(self, sums: Sums) -> None:
        """Of the last vector only what is a result."""
        mask, last, rows = self._mask(), self.vectors - 1, self._results()
        pointer, short = self.vector.as_pointer(), ir.VectorType(ir.IntType(1), self.lanes)
        suffix = f"v{self.lanes}f{8 * self.itemsize}"
        store = self._declare(
            f"llvm.masked.store.{suffix}.p0{suffix}",
            ir.VoidType(),
            [self.vector, pointer, SHORT, short],
        )
        for m, n in self.cells:
            to = self._pointer(rows[m], n)
            if n < last:
                self.builder.store(sums[m, n], to, align=1)
            else:
                self.builder.call(store, [sums[m, n], to, SHORT(1), mask])

    def _row(self, rows: list[ir.Value], m: int) -> ir.Value:
        return rows[m]

    def _begin(self) -> Sums:
        """The sums before the first step: the bias, or the results so far."""
        b = self.builder
        go_on, fresh, begun = (b.append_basic_block(n) for n in ("go_on", "fresh", "begun"))
        b.cbranch(b.icmp_signed("!=", b.trunc(self.accumulate, SHORT), SHORT(0)), go_on, fresh)
        b.position_at_end(go_on)
        results = self._read(self._results())
        from_results = b.block
        b.branch(begun)
        b.position_at_end(fresh)
        bias = [self._load(self.bias, n) for n in range(self.vectors)]
        self._fetch_results()
        b.branch(begun)
        b.position_at_end(begun)
        return self._either(results, from_results, {(m, n): bias[n] for m, n in self.cells}, fresh)

    def _segment(self, segment: ir.Value) -> tuple[list[ir.Value], ir.Value, ir.Value]:
        """Where the rows of ``a``, ``b``, and what is to be fetched, begin in a segment."""
        b = self.builder
        segment = self._word(b.add(self.order, b.mul(segment, self._int(8))))
        at = b.mul(segment, self._int(8 * self.rows))
        table, ahead = b.add(self.a, at), b.add(self._word(b.add(self.ahead, at)), self.a_shift)
        rows = [
            b.add(self._word(b.add(table, self._int(8 * m))), self.a_shift)
            for m in range(self.rows)
        ]
        b_segment = b.mul(self.steps, self.b_next)
        return rows, b.add(self.b, b.mul(segment, b_segment)), ahead

    def _finished(self, sums: Sums) -> Sums:
        """What is stored: the sums and what is added to them, or the nearest within bounds."""
        b = self.builder
        start, add, added = b.block, *(b.append_basic_block(n) for n in ("add", "added"))
        distance = b.and_(self.finish, self._int(DISTANCE))
        b.cbranch(b.icmp_signed("!=", distance, self._int(0)), add, added)
        b.position_at_end(add)
        others = self._read([b.add(row, distance) for row in self._results()])
        total = {cell: b.fadd(value, others[cell]) for cell, value in sums.items()}
        from_add = b.block
        b.branch(added)
        b.position_at_end(added)
        sums = self._either(sums, start, total, from_add)
        start, bound, store = b.block, *(b.append_basic_block(n) for n in ("bound", "store"))
        has_bounds = b.and_(self.finish, self._int(RELU | SIX))
        b.cbranch(b.icmp_signed("!=", has_bounds, self._int(0)), bound, store)
        b.position_at_end(bound)
        limits = bounds(b, self.vector, self.finish)
        inside = {cell: bounded(b, value, limits) for cell, value in sums.items()}
        b.branch(store)
        b.position_at_end(store)
        return self._either(sums, start, inside, bound)


class EvenKernel(PixelKernel):
    """Pixels are evenly spaced, in x and in y: no tables, and a loop over tiles of its own."""

    y_step: ir.Value

    def _each_tile(self, pixels: ir.Value, y: ir.Value, body: Callable[[ir.Value], Sums]) -> None:
        """Store what ``body`` emits for tiles, from their first pixels; the last is moved back."""
        b = self.builder
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("tiles", "tile", "done"))
        b.branch(head)
        b.position_at_end(head)
        tile = b.phi(INT)
        tile.add_incoming(self._int(0), before)
        b.cbranch(b.icmp_signed("<", tile, pixels), inside, after)
        b.position_at_end(inside)
        last = b.sub(pixels, self._int(self.rows))
        first = b.select(b.icmp_signed("<", tile, last), tile, last)
        self.c = b.add(y, b.mul(first, self.y_step))
        self._store_finished(body(first))
        tile.add_incoming(b.add(tile, self._int(self.rows)), b.block)
        b.branch(head)
        b.position_at_end(after)

    def _results(self) -> list[ir.Value]:
        b = self.builder
        return [b.add(self.c, b.mul(self.y_step, self._int(m))) for m in range(self.rows)]

    def _from_bias(self) -> Sums:
        bias = [self._load(self.bias, n) for n in range(self.vectors)]
        return {(m, n): bias[n] for m, n in self.cells}


class ChannelKernel(_MicroKernel):
    """Rows are channels, next to each other, and the sum runs over the pixels of segments."""

    lines, nearness = UNROLLED, 2

    def _emit(self, arguments: Sequence[ir.Value]) -> None:
        (
            self.table, self.segments, self.a_shift, self.b_shift, self.a_next, self.b_next,
            self.steps, self.sums, self.to, self.to_next, self.ahead, self.ahead_next,
        ) = arguments  # fmt: skip
        for row in self._rows(self.to, self.to_next):
            self._fetch_row(row)
        sums = self._added(self._all_segments(dict.fromkeys(self.cells, self._zeros())))
        rows = self._rows(self.to, self.to_next)
        for (m, n), value in sums.items():
            self.builder.store(value, self._pointer(rows[m], n), align=1)

    def _rows(self, first: ir.Value, step: ir.Value) -> list[ir.Value]:
        rows = [first]
        for _ in range(1, self.rows):
            rows.append(self.builder.add(rows[-1], step))
        return rows

    def _segment(self, segment: ir.Value) -> tuple[list[ir.Value], ir.Value, ir.Value]:
        b = self.builder
        at = b.add(self.table, b.mul(segment, self._int(16)))
        a = b.add(self._word(at), self.a_shift)
        of_b = b.add(self._word(b.add(at, self._int(8))), self.b_shift)
        fetched = b.mul(b.mul(segment, self.steps), self.ahead_next)
        return [a], of_b, b.add(self.ahead, fetched)

    def _row(self, rows: list[ir.Value], m: int) -> ir.Value:
        return self.builder.add(rows[0], self._int(m * self.itemsize))

    def _added(self, sums: Sums) -> Sums:
        """What is stored: the sums of a cell, and those of earlier calls."""
        b = self.builder
        sums = {
            (m, n): functools.reduce(b.fadd, (sums[s * self.rows + m, n] for s in range(self.sets)))
            for m in range(self.rows)
            for n in range(self.vectors)
        }
        start, add, store = b.block, *(b.append_basic_block(n) for n in ("add", "store"))
        b.cbranch(b.icmp_signed("!=", self.sums, self._int(0)), add, store)
        b.position_at_end(add)
        rows = self._rows(self.sums, self._int(self.vectors * self.vector_bytes))
        total = {(m, n): b.fadd(self._load(rows[m], n), sums[m, n]) for m, n in sums}
        b.branch(store)
        b.position_at_end(store)
        return self._either(sums, start, total, add)
