"""Batched matrix products of views, in the words of cuBLAS.

cuBLAS counts columns first: what it calls an N x M matrix is our (M, N). So ``C = A B`` is given to
it as ``C^T = B^T A^T``, and no operand is moved: each is read as it lies or transposed, with any
distance between its rows and between the matrices of the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any


class Layout(NamedTuple):
    """How a matrix lies: rows contiguous (else columns), and the step from one to the next."""

    by_rows: bool
    leading: int


class Gemm(NamedTuple):
    """Arguments of ``cublas<t>gemmStridedBatched`` after the handle, but for pointers.

    ``first`` is our second operand. Steps and strides count numbers, not bytes.
    """

    transpose_first: bool
    transpose_second: bool
    m: int
    n: int
    k: int
    lead_first: int
    step_first: int
    lead_second: int
    step_second: int
    lead_out: int
    step_out: int
    batch: int


def layout(array: Array) -> Layout | None:
    """Describe the last two axes of a strided array; None if they must be copied first."""
    rows, columns = array.shape[-2:]
    row_step, column_step = (s // array.itemsize for s in array.strides[-2:])
    if column_step == 1 or columns == 1:
        leading = row_step if rows > 1 else columns
        if leading >= columns:
            return Layout(True, leading)
    if row_step == 1 or rows == 1:
        leading = column_step if columns > 1 else rows
        if leading >= rows:
            return Layout(False, leading)
    return None


def describe(a: Array, b: Array, out: Array) -> Gemm:
    """Return the call for ``out`` (G, M, N) = ``a`` (G, M, K) @ ``b`` (G, K, N), none empty.

    Raises:
        ValueError: an operand whose rows and columns both have gaps, or ``out`` without
            contiguous rows.
    """
    batch, m, k = a.shape
    n = b.shape[2]
    lies = [layout(array) for array in (a, b, out)]
    if None in lies or not lies[2].by_rows:  # type: ignore[union-attr]
        raise ValueError(
            f"a matrix product takes operands with contiguous rows or columns, and a result with "
            f"contiguous rows. Received: strides {a.strides}, {b.strides}, {out.strides}"
        )
    steps = [array.strides[0] // array.itemsize if batch > 1 else 0 for array in (a, b, out)]
    return Gemm(
        transpose_first=not lies[1].by_rows,  # type: ignore[union-attr]
        transpose_second=not lies[0].by_rows,  # type: ignore[union-attr]
        m=n,
        n=m,
        k=k,
        lead_first=lies[1].leading,  # type: ignore[union-attr]
        step_first=steps[1],
        lead_second=lies[0].leading,  # type: ignore[union-attr]
        step_second=steps[0],
        lead_out=lies[2].leading,  # type: ignore[union-attr]
        step_out=steps[2],
        batch=batch,
    )
