"""Winograd's transforms: small matrices applied from both sides to a plane of vectors.

A tile of ``m`` x ``m`` outputs needs a patch of ``t`` x ``t`` inputs, ``t = m + 2``. Seen as
polynomials that are evaluated at ``t - 1`` points and at infinity, a convolution becomes products
of single numbers, ``t * t`` of them where the definition has ``9 * m * m``::

    y = A^T [ (G w G^T) o (B^T x B) ] A             forward, o: product element by element
    dw = G^T [ (B^T x B) o (A dy A^T) ] G           its transpose, for the weights' gradient

    m     t   points                             products for an output     by definition
    2     4   0, 1, -1, oo                       4                          9
    4     6   0, 1, -1, 2, -2, oo                2.25                       9
    6     8   0, 1, -1, 2, -2, 1/2, -1/2, oo     1.78                       9

Each number of the plane is a vector of channels, so nothing is shuffled. Rows that belong to
opposite points differ in the signs of their odd terms only, which saves almost half of the work.

Source: Winograd 1980, "Arithmetic Complexity of Computations"; Lavin and Gray 2016, "Fast
Algorithms for Convolutional Neural Networks".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.microkernel_code import bounded, bounds
from gpuconv_kernels.host.target import INT, ITEMSIZE, REAL, Host, inlined
from gpuconv_kernels.host.vectors import SHORT

POINTS = {
    2: (0, 1, -1),
    4: (0, 1, -1, 2, -2),
    6: (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2)),
}
"""Where the polynomials are evaluated, for each ``m``; infinity comes last."""

Matrix = tuple[tuple[Fraction, ...], ...]


# --- the matrices, exactly ----------------------------------------------------------------


@dataclass(frozen=True)
class Matrices:
    """``A`` (t, m), ``G`` (t, 3) and ``B^T`` (t, t) of one ``m``."""

    a: Matrix
    g: Matrix
    b_transposed: Matrix


@functools.cache
def matrices(m: int) -> Matrices:
    """Derive the matrices of F(m x m, 3 x 3) from its points (Toom and Cook)."""
    points = [Fraction(p) for p in POINTS[m]]
    a, g, b = [], [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        a.append(tuple(p**j for j in range(m)))
        g.append(tuple(p**j / scale for j in range(3)))
        b.append((*_with_roots(others), Fraction(0)))
    a.append((*[Fraction(0)] * (m - 1), Fraction(1)))
    g.append((Fraction(0), Fraction(0), Fraction(1)))
    b.append(_with_roots(points))
    return Matrices(tuple(a), tuple(g), tuple(b))


def _with_roots(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Coefficients, constant first, of the polynomial with these roots."""
    polynomial = [Fraction(1)]
    for root in roots:
        shifted, scaled = (
            [Fraction(0), *polynomial],
            [*[-root * c for c in polynomial], Fraction(0)],
        )
        polynomial = [s + c for s, c in zip(shifted, scaled, strict=True)]
    return tuple(polynomial)


def transposed(matrix: Matrix) -> Matrix:
    """Rows as columns."""
    return tuple(zip(*matrix, strict=True))


# --- the transforms that kernels call -----------------------------------------------------


def passes_of(m: int) -> tuple[int, ...]:
    """How many parts the elements of a tile may be computed in: one, two rows each, a row each."""
    return 1, (m + 2) // 2, m + 2


def parts_of(m: int, passes: int) -> tuple[tuple[int, ...], ...]:
    """The rows of elements that are computed together, in so many ``passes``.

    The first and the last come first, then two by two those of opposite points. The last part gives
    something to all rows of outputs, so that it can finish them.
    """
    rows = (0, m + 1, *range(1, m + 1))
    each = len(rows) // passes
    return tuple(rows[i : i + each] for i in range(0, len(rows), each))


@functools.cache
def transform_input(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return ``f(table, shift, v, step, part)``: ``B^T x B`` of a patch.

    ``table`` is the address of ``t * t`` addresses of pixels, to each of which ``shift`` bytes are
    added; element ``e`` of the result is stored ``e * step`` bytes after ``v``. Only the elements
    of a ``part`` are computed, whose number in :func:`parts_of` is given.
    """
    b = matrices(m).b_transposed
    return _by_part([_transform(dtype, host, b, b, i, True) for i in _kept(m, passes)])


@functools.cache
def transform_filter(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return ``f(w, step, u, u_step, part)``: ``G w G^T``, the 9 taps ``step`` apart."""
    g = matrices(m).g
    return _by_part([_transform(dtype, host, g, g, i) for i in _kept(m, passes)])


@functools.cache
def transform_output(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return ``f(products, step, table, shift, bias, finish, part)``: ``A^T M A``, plus ``bias``.

    ``table`` holds the addresses of ``m * m`` pixels; ``finish``: ``RELU``, ``SIX``, both or none.
    All parts but the first are added to what is there, and not to ``bias``.
    """
    a = transposed(matrices(m).a)
    return _by_part(
        [
            _transform(dtype, host, some, a, None, False, True, "there" if number else "bias")
            for number, some in enumerate(_columns(a, m, passes))
        ],
        True,
    )


@functools.cache
def transform_output_gradient(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return ``f(table, shift, v, step, part)``: ``A dy A^T`` of a tile, as the input's."""
    a = matrices(m).a
    return _by_part([_transform(dtype, host, a, a, i, True) for i in _kept(m, passes)])


@functools.cache
def transform_filter_gradient(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return ``f(du, step, dw, tap_step, part)``: ``G^T dU G``, the 9 taps ``tap_step`` apart.

    All parts but the first are added to what is there.
    """
    g = transposed(matrices(m).g)
    return _by_part(
        [
            _transform(dtype, host, some, g, plus="there" if number else None)
            for number, some in enumerate(_columns(g, m, passes))
        ]
    )


def _kept(m: int, passes: int) -> tuple[tuple[int, ...] | None, ...]:
    """The rows of elements of each part; None: all."""
    return (None,) if passes == 1 else parts_of(m, passes)


def _columns(matrix: Matrix, m: int, passes: int) -> list[Matrix]:
    """Of each part, the columns of a matrix that has one for each row of elements."""
    if passes == 1:
        return [matrix]
    return [tuple(tuple(row[i] for i in part) for row in matrix) for part in parts_of(m, passes)]


def _by_part(transforms: Sequence[Any], finished: bool = False) -> Any:
    """One function of all; its last argument says which."""

    def either(number: int, one: Any, others: Any) -> Any:
        def four(source, source_by, target, target_by, part):  # type: ignore[no-untyped-def]
            if part == number:
                one(source, source_by, target, target_by)
            else:
                others(source, source_by, target, target_by, part)

        def six(source, source_by, target, target_by, bias, finish, part):  # type: ignore[no-untyped-def]
            if part == number:
                one(source, source_by, target, target_by, bias, finish)
            else:
                others(source, source_by, target, target_by, bias, finish, part)

        return inlined(six if finished else four)

    def always(one: Any) -> Any:
        def four(source, source_by, target, target_by, part):  # type: ignore[no-untyped-def]
            one(source, source_by, target, target_by)

        def six(source, source_by, target, target_by, bias, finish, part):  # type: ignore[no-untyped-def]
            one(source, source_by, target, target_by, bias, finish)

        return inlined(six if finished else four)

    result = always(transforms[-1])
    for number in reversed(range(len(transforms) - 1)):
        result = either(number, transforms[number], result)
    return result


def _transform(
    dtype: str,
    host: Host,
    left: Matrix,
    right: Matrix,
    kept: tuple[int, ...] | None = None,
    from_table: bool = False,
    to_table: bool = False,
    plus: str | None = None,
) -> Any:
    """``left @ plane @ right^T``; ``kept``: only these rows; ``plus``: a bias, or what is there.

    All rows are written down, so that those of a part have the same bits; LLVM leaves out what
    nobody uses.
    """

    def emit(builder: ir.IRBuilder, arguments: Sequence[ir.Value]) -> None:
        source, source_by, target, target_by, *rest = arguments
        plane = _Plane(dtype, host, builder)
        rows, columns = len(left[0]), len(right[0])
        half = []
        for c in range(columns):
            column = [
                plane.load(plane.place(source, source_by, r * columns + c, from_table))
                for r in range(rows)
            ]
            results = plane.product(left, column)
            half.append(results if kept is None else [results[r] for r in kept])
        bias = plane.load(rest[0]) if plus == "bias" else None
        for r in range(len(half[0])):
            if plus == "there" and not any(left[r]):
                continue  # the part gives nothing to this row
            for c, value in enumerate(plane.product(right, [column[r] for column in half])):
                place = plane.place(target, target_by, r * len(right) + c, to_table)
                if plus is not None:
                    more = plane.load(place) if bias is None else bias
                    value = plane.finished(value, more, rest[1] if rest else None)
                plane.store(value, place)

    if to_table:

        @intrinsic
        def transform(typing_context, source, step, target, shift, bias, finish):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                emit(builder, arguments)
                return context.get_dummy_value()

            return types.void(*(types.intp,) * 6), generate
    else:

        @intrinsic
        def transform(typing_context, source, source_by, target, target_by):  # type: ignore[no-untyped-def]
            def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
                emit(builder, arguments)
                return context.get_dummy_value()

            return types.void(*(types.intp,) * 4), generate

    return transform


@functools.cache
def add_residual(dtype: str, host: Host, m: int) -> Any:
    """Return ``f(table, shift, distance, outside, finish)``: more is added to ``m * m`` pixels.

    To what ``transform_output`` has stored at the addresses of ``table``, each ``shift`` bytes
    further, is added what lies ``distance`` bytes from there. Pixels at the address ``outside`` are
    in no image, and nothing lies at a distance from them. ``finish``: as above.
    """

    @intrinsic
    def add(typing_context, table, shift, distance, outside, finish):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            table, shift, distance, outside, finish = arguments
            plane, nothing = _Plane(dtype, host, builder), ir.Constant(INT, 0)
            beside = builder.add(outside, shift)
            for i in range(m * m):
                place = plane.place(table, shift, i, table=True)
                there = builder.icmp_signed("==", place, beside)
                more = plane.load(builder.add(place, builder.select(there, nothing, distance)))
                plane.store(plane.finished(plane.load(place), more, finish), place)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 5), generate

    return add


# --- vectors that are not full ------------------------------------------------------------


@functools.cache
def load_some(dtype: str, host: Host) -> Any:
    """Return ``f(source, count, target)``: a vector of ``count`` numbers, then zeros."""
    return _of_some(dtype, host, lambda plane, number, there: number)


@functools.cache
def add_some(dtype: str, host: Host) -> Any:
    """Return ``f(source, count, target)``: ``count`` numbers are added to the vector there."""
    return _of_some(dtype, host, lambda plane, number, there: plane.builder.fadd(there, number))


def _of_some(dtype: str, host: Host, combine: Callable[..., ir.Value]) -> Any:
    @intrinsic
    def some(typing_context, source, count, target):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, count, target = arguments
            plane = _Plane(dtype, host, builder)
            number = plane.load_some(source, count)
            plane.store(combine(plane, number, plane.load(target)), target)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 3), generate

    return some


@functools.cache
def store_some(dtype: str, host: Host) -> Any:
    """Return ``f(source, count, target, finish)``: so many numbers of a vector are stored.

    ``finish``: as of :func:`transform_output`.
    """

    @intrinsic
    def some(typing_context, source, count, target, finish):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, count, target, finish = arguments
            plane = _Plane(dtype, host, builder)
            limits = bounds(builder, plane.vector, finish)
            plane.store_some(bounded(builder, plane.load(source), limits), target, count)
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 4), generate

    return some


@functools.cache
def transpose_block(dtype: str, host: Host) -> Any:
    """Return ``f(source, source_step, target, target_step)``: a block of lanes x lanes numbers.

    Steps are bytes from row to row. Each of log2(lanes) rounds interleaves the upper half of the
    rows with the lower one.
    """

    @intrinsic
    def transpose(typing_context, source, source_step, target, target_step):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, source_step, target, target_step = arguments
            plane = _Plane(dtype, host, builder)
            lanes = plane.lanes
            rows = [plane.load(plane.place(source, source_step, r)) for r in range(lanes)]
            for _ in range(lanes.bit_length() - 1):
                rows = [
                    plane.interleaved(rows[r // 2], rows[(r + lanes) // 2], r % 2)
                    for r in range(lanes)
                ]
            for r, row in enumerate(rows):
                plane.store(row, plane.place(target, target_step, r))
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 4), generate

    return transpose


class _Plane:
    """Arithmetic on vectors, emitted where a builder stands."""

    def __init__(self, dtype: str, host: Host, builder: ir.IRBuilder) -> None:
        self.builder, self.lanes, self.dtype = builder, host.lanes(dtype), dtype
        self.vector = ir.VectorType(REAL[dtype], self.lanes)
        name = f"llvm.fmuladd.v{self.lanes}f{8 * ITEMSIZE[dtype]}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        found = builder.module.globals.get(name)
        self.multiply_add = found or ir.Function(builder.module, kind, name)

    def product(self, matrix: Matrix, inputs: Sequence[ir.Value]) -> list[ir.Value]:
        """``matrix @ inputs``; what rows or columns of opposite points share is computed once."""
        pairs = _opposite(transposed(matrix))
        if pairs:  # columns: only sums and differences of two inputs are needed
            b = self.builder
            even, odd = dict(enumerate(inputs)), dict(enumerate(inputs))
            for i in pairs:
                even[i] = b.fadd(inputs[i], inputs[i + 1])
                odd[i] = b.fsub(inputs[i], inputs[i + 1])
                del even[i + 1], odd[i + 1]
            return [
                self.sum([(row[i], v) for i, v in (odd if j % 2 else even).items()])
                for j, row in enumerate(matrix)
            ]
        pairs = _opposite(matrix)
        results: list[ir.Value] = []
        for i, row in enumerate(matrix):
            if i - 1 in pairs:
                continue
            terms = list(zip(row, inputs, strict=True))
            if i in pairs:
                even_part, odd_part = self.sum(terms[::2]), self.sum(terms[1::2])
                results.append(self.builder.fadd(even_part, odd_part))
                results.append(self.builder.fsub(even_part, odd_part))
            else:
                results.append(self.sum(terms))
        return results

    def sum(self, terms: Sequence[tuple[Fraction, ir.Value]]) -> ir.Value:
        """The sum of coefficient * vector."""
        b = self.builder
        # A coefficient of 1 first, so that the rest are additions and fused multiply-adds.
        ordered = sorted((t for t in terms if t[0]), key=lambda t: t[0] != 1)
        if not ordered:
            return self._constant(Fraction(0))
        (factor, total), *rest = ordered
        if factor != 1:
            total = b.fmul(self._constant(factor), total)
        for factor, value in rest:
            if abs(factor) == 1:
                total = (b.fadd if factor == 1 else b.fsub)(total, value)
            else:
                total = b.call(self.multiply_add, [self._constant(factor), value, total])
        return total

    def finished(self, value: ir.Value, bias: ir.Value, finish: ir.Value | None) -> ir.Value:
        """``value + bias``, within the bounds of ``finish``."""
        b = self.builder
        value = b.fadd(value, bias)
        return value if finish is None else bounded(b, value, bounds(b, self.vector, finish))

    def interleaved(self, first: ir.Value, second: ir.Value, upper: int) -> ir.Value:
        """The lower or upper halves of two vectors, their numbers in turn."""
        start = upper * self.lanes // 2
        order = [start + i // 2 + i % 2 * self.lanes for i in range(self.lanes)]
        kind = ir.VectorType(ir.IntType(32), self.lanes)
        return self.builder.shuffle_vector(first, second, ir.Constant(kind, order))

    def place(self, base: ir.Value, by: ir.Value, i: int, table: bool = False) -> ir.Value:
        """Address ``i``: of a table, shifted by ``by``, or ``i * by`` after ``base``."""
        b = self.builder
        if table:
            entry = b.add(base, ir.Constant(INT, 8 * i))
            return b.add(b.load(b.inttoptr(entry, INT.as_pointer())), by)
        return b.add(base, b.mul(by, ir.Constant(INT, i)))

    def load(self, address: ir.Value) -> ir.Value:
        b = self.builder
        return b.load(b.inttoptr(address, self.vector.as_pointer()), align=1)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        b = self.builder
        b.store(value, b.inttoptr(address, self.vector.as_pointer()), align=1)

    def load_some(self, address: ir.Value, count: ir.Value) -> ir.Value:
        """``count`` numbers, and zeros for the rest of the vector."""
        words = [self.vector.as_pointer(), SHORT, self._flags]
        load = self._masked("load", self.vector, [*words, self.vector])
        place = self.builder.inttoptr(address, self.vector.as_pointer())
        zeros = self._constant(Fraction(0))
        return self.builder.call(load, [place, SHORT(1), self._first(count), zeros])

    def store_some(self, value: ir.Value, address: ir.Value, count: ir.Value) -> None:
        words = [self.vector, self.vector.as_pointer(), SHORT, self._flags]
        store = self._masked("store", ir.VoidType(), words)
        place = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.call(store, [value, place, SHORT(1), self._first(count)])

    @property
    def _flags(self) -> ir.VectorType:
        return ir.VectorType(ir.IntType(1), self.lanes)

    def _first(self, count: ir.Value) -> ir.Value:
        """Which lanes are among the first ``count``."""
        b, kind = self.builder, ir.VectorType(SHORT, self.lanes)
        nothing = ir.Constant(kind, ir.Undefined)
        one = b.insert_element(nothing, b.trunc(count, SHORT), SHORT(0))
        every = b.shuffle_vector(one, nothing, kind([0] * self.lanes))
        return b.icmp_signed("<", kind(list(range(self.lanes))), every)

    def _masked(self, what: str, result: ir.Type, words: Sequence[ir.Type]) -> ir.Function:
        suffix = f"v{self.lanes}f{8 * ITEMSIZE[self.dtype]}"
        name = f"llvm.masked.{what}.{suffix}.p0{suffix}"
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, words), name)

    def _constant(self, factor: Fraction) -> ir.Constant:
        return ir.Constant(self.vector, [float(factor)] * self.lanes)


def _opposite(matrix: Matrix) -> list[int]:
    """The first rows of pairs that differ in the signs of their odd terms, and only there."""
    found: list[int] = []
    for i in range(len(matrix) - 1):
        opposite = tuple(-v if j % 2 else v for j, v in enumerate(matrix[i]))
        if matrix[i] != matrix[i + 1] == opposite and i - 1 not in found:
            found.append(i)
    return found
