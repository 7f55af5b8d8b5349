"""The tile that a block computes in matrix-like kernels, and how its threads share it.

A block of threads computes ``rows`` x ``columns`` results; each thread holds ``thread`` of them in
registers. The lanes of a warp stand in a grid, and a thread's rows (and columns) are not
neighbours: they come in runs of 16 bytes, one run for each lane, then the next::

    4 x 8 lanes, 8 x 8 results a thread in float32: the rows (or columns) of one warp
    lane 0     lane 1     lane 2     lane 3     lane 0     ...
    0 1 2 3    4 5 6 7    8 ... 11   12 ... 15  16 ... 19        two runs a thread

so that 16-byte reads of all lanes cover consecutive shared memory, whichever run they read, and
so do 16-byte stores of the results. The grid is laid over the lane's number bit by bit in turn
(column, row, column, row, the rest): lanes ``i`` and ``i ^ 1`` have the same rows, ``i`` and
``i ^ 2`` the same columns, which lets the hardware answer a 16-byte read of half a warp in one
pass (the layout of CUTLASS's SIMT kernels).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import ceil_div
from gpuconv_kernels.device.target import SIMULATED, copy16, cuda, inlined, lanes


@dataclass(frozen=True)
class Tile:
    """What one block computes.

    Attributes:
        warps, lanes, thread: how many (along the rows, along the columns): warps in a block,
            lanes in a warp, results in a thread.
        depth: terms of the sums that are staged in shared memory at a time.
        min_blocks: blocks that should fit on a multiprocessor; limits the registers of a thread.
        efficiency: fraction of the peak rate that a full grid of these tiles is expected to
            reach; an estimate from the instruction mix, good for comparing tiles.
    """

    warps: tuple[int, int]
    lanes: tuple[int, int]
    thread: tuple[int, int]
    depth: int
    min_blocks: int
    efficiency: float

    @property
    def rows(self) -> int:
        return self.warps[0] * self.lanes[0] * self.thread[0]

    @property
    def columns(self) -> int:
        return self.warps[1] * self.lanes[1] * self.thread[1]

    @property
    def threads(self) -> int:
        return self.warps[0] * self.warps[1] * self.lanes[0] * self.lanes[1]

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}"


SIMULATED_TILE = Tile((1, 1), (4, 4), (8, 4), 4, 1, 1.0)
"""32 x 16 results by 16 threads: a simulated thread costs milliseconds."""

_FLOAT32 = (
    Tile((4, 2), (4, 8), (8, 8), 8, 2, 0.88),  # 128 x 128, 256 threads
    Tile((4, 1), (4, 8), (8, 8), 8, 3, 0.85),  # 128 x 64, 128 threads
    Tile((2, 1), (4, 8), (8, 8), 8, 6, 0.80),  # 64 x 64, 64 threads
    Tile((2, 1), (8, 4), (8, 8), 8, 6, 0.75),  # 128 x 32, 64 threads
    Tile((2, 1), (8, 4), (8, 4), 8, 8, 0.60),  # 128 x 16, 64 threads
    Tile((2, 1), (4, 8), (4, 4), 8, 8, 0.50),  # 32 x 32, 64 threads
)
_FLOAT64 = (
    Tile((4, 2), (4, 8), (8, 4), 8, 2, 0.85),  # 128 x 64, 256 threads
    Tile((2, 2), (4, 8), (8, 4), 8, 3, 0.82),  # 64 x 64, 128 threads
    Tile((4, 1), (4, 8), (8, 4), 8, 3, 0.80),  # 128 x 32, 128 threads
    Tile((2, 1), (8, 4), (8, 4), 8, 4, 0.65),  # 128 x 16, 64 threads
    Tile((2, 1), (4, 8), (4, 4), 8, 8, 0.50),  # 32 x 32, 64 threads
)


def tiles(dtype: str) -> tuple[Tile, ...]:
    """Return the tiles of a dtype that launchers choose from, the largest first."""
    return {"float32": _FLOAT32, "float64": _FLOAT64}[dtype]


def blocks_of(tile: Tile, vector: bool, wide: bool) -> int:
    """Blocks a multiprocessor for which a variant is compiled.

    Loads one by one and 64-bit offsets need more registers than most tiles leave.
    """
    return tile.min_blocks if vector and not wide else max(1, tile.min_blocks // 2)


@functools.cache
def multiprocessors() -> int:
    """Multiprocessors of the current device; of an imagined small one in the simulator."""
    return 4 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


@dataclass(frozen=True)
class Choice:
    """How a matrix-like kernel will be launched, and why.

    Attributes:
        tile, parts: what a block computes, and how many blocks share the sums of one tile.
        blocks: in the whole grid.
        utilisation: fraction of the device's peak rate of multiply-adds that useful ones are
            expected to reach.
        reason: the same in words.
    """

    tile: Tile
    parts: int
    blocks: int
    utilisation: float
    reason: str


_PARTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)
_FIXED_STEPS = 8
"""What filling the pipeline and storing the results cost a block, in steps."""
_PRODUCTS_A_BYTE = 8
"""Multiply-adds that a device can do in the time in which its memory moves one byte: about 7 on
an H200 and 12 on an A100 in float32."""
_LAUNCH_PRODUCTS = 500_000
"""Multiply-adds of one multiprocessor in the 2 to 3 microseconds of one more launch."""


def choose(
    rows: int,
    columns: int,
    groups: int,
    steps: Callable[[Tile], int],
    terms: int,
    dtype: str,
    multiprocessors: int,
    may_split: bool,
) -> Choice:
    """Choose a tile and the number of parts for ``groups`` products of rows x terms x columns.

    The model: blocks are dealt out evenly, a multiprocessor works as long as its fullest share
    lasts, and reaches its rate when enough warps are resident. Partial sums cost one write and one
    read of each part, and a launch.

    Args:
        rows, columns, terms: of each product.
        groups: number of products.
        steps: tile -> steps of ``tile.depth`` terms.
        dtype: of the numbers.
        multiprocessors: of the device.
        may_split: whether more than one part is allowed.
    """
    best, best_time = None, math.inf
    useful = rows * columns * groups * terms
    for tile in tiles(dtype):
        all_steps = steps(tile)
        area = ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns) * groups
        for parts in _PARTS if may_split else (1,):
            if parts > 1 and all_steps < 4 * parts:
                break
            blocks = area * parts
            share = max(1, ceil_div(blocks, multiprocessors))  # no blocks in an empty batch
            warps = min(share, tile.min_blocks) * ceil_div(tile.threads, 32)
            rate = tile.efficiency * min(1.0, warps / 4, 1.125 * warps / (warps + 2))
            products = tile.rows * tile.columns * tile.depth
            time = share * products * (ceil_div(all_steps, parts) + _FIXED_STEPS) / rate
            if parts > 1:
                moved = 2 * parts * rows * columns * groups * (16 // lanes(dtype))
                time += _PRODUCTS_A_BYTE * moved / multiprocessors + _LAUNCH_PRODUCTS
            if time < best_time:
                best_time = time
                best = Choice(tile, parts, blocks, useful / (time * multiprocessors), "")
    assert best is not None
    return replace(best, reason=_reason(best, multiprocessors))


def _reason(choice: Choice, multiprocessors: int) -> str:
    cut = "" if choice.parts == 1 else f", each sum cut in {choice.parts} parts"
    return (
        f"tiles of {choice.tile.rows} x {choice.tile.columns}: {choice.blocks} blocks for "
        f"{multiprocessors} multiprocessors{cut}; {choice.utilisation:.0%} of the peak expected"
    )


def settle(
    tile: Tile | None,
    parts: int | None,
    room: int,
    choose_for: Callable[[int, bool], Choice],
    elements: Callable[[int], int],
    steps: Callable[[Tile], int],
) -> tuple[Tile, int]:
    """Return the tile and the number of parts of a launch.

    Args:
        tile, parts: as the caller wants them, None where not.
        room: elements of the workspace for partial sums.
        choose_for: multiprocessors and whether sums may be cut -> choice. Not asked in the
            simulator, where a thread costs milliseconds and tiles are small.
        elements: parts -> elements of the workspace that they need.
        steps: tile -> steps in which it adds the whole sum; more parts than that are useless.

    Raises:
        ValueError: ``parts`` needs a larger workspace.
    """
    if tile is None and SIMULATED:
        tile = SIMULATED_TILE
    elif tile is None:
        choice = choose_for(multiprocessors(), room > 0)
        if elements(choice.parts) > room:
            choice = choose_for(multiprocessors(), False)
        tile, parts = choice.tile, choice.parts if parts is None else parts
    parts = min(parts or 1, steps(tile))
    if elements(parts) > room:
        raise ValueError(
            f"partial must hold {elements(parts)} elements for {parts} parts. Received: {room}"
        )
    return tile, parts


def require_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless ``array`` has ``shape``."""
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name} must have the shape {tuple(shape)}. Received: {array.shape}")


@functools.cache
def first_result(tile: Tile, dtype: str) -> tuple[Any, Any]:
    """Return the device functions ``thread -> row`` and ``thread -> column`` of its first result.

    The thread's ``i``-th row lies ``(i // run) * lanes * run + i % run`` further, where ``run`` is
    the length of 16 bytes; columns alike.
    """
    run = lanes(dtype)
    warp_rows, warp_columns = (tile.lanes[d] * tile.thread[d] for d in (0, 1))
    warps_across = tile.warps[1]
    tall = tile.lanes[0] == 8
    int32 = np.int32

    def first_row(thread):  # type: ignore[no-untyped-def]
        lane, warp = thread & 31, thread >> 5
        place = ((lane >> 1) & 1) | ((lane >> 2) & 2)
        if tall:
            place |= (lane >> 2) & 4
        return int32(warp // warps_across * warp_rows + place * run)

    def first_column(thread):  # type: ignore[no-untyped-def]
        lane, warp = thread & 31, thread >> 5
        place = (lane & 1) | ((lane >> 1) & 2)
        if not tall:
            place |= (lane >> 2) & 4
        return int32(warp % warps_across * warp_columns + place * run)

    return inlined(first_row), inlined(first_column)


@inlined
def divide(a, b):  # type: ignore[no-untyped-def]
    """``a // b`` of non-negative int32: signed or wider numbers would take a subroutine."""
    return np.int32(np.uint32(a) // np.uint32(b))


@inlined
def _divide_wide(a, b):  # type: ignore[no-untyped-def]
    return np.int64(np.uint64(a) // np.uint64(b))


def quotients(wide: bool) -> Any:
    """Return :func:`divide`, or the same for int64."""
    return _divide_wide if wide else divide


@inlined
def place_of_block(block, tiles_across, tiles_down, groups):  # type: ignore[no-untyped-def]
    """Decode the number of a block: its tile across and down, the part of the sum, the group."""
    rest = divide(block, tiles_across)
    across = np.int32(block - rest * tiles_across)
    above = divide(rest, tiles_down)
    down = np.int32(rest - above * tiles_down)
    part = divide(above, groups)
    return across, down, part, np.int32(above - part * groups)


@functools.cache
def outer_products(tile: Tile, dtype: str, row_pitch: int) -> Any:
    """Return the device function that adds one staged slice of both operands to the results.

    ``add(sums, a, a_at, b, b_at)``: ``sums`` are the thread's results, row-major; ``a`` is shared
    memory in which term ``k`` of the thread's first row is at ``a_at + k * row_pitch``; ``b`` the
    same for its first column, with rows of ``tile.columns``. For each term the thread reads its
    pieces of a column of ``a`` and of a row of ``b`` and multiplies all with all: 4 reads of 16
    bytes for 64 multiply-adds in the large float32 tiles.
    """
    run, number = lanes(dtype), np.dtype(dtype).type
    depth, (rows, columns) = tile.depth, tile.thread
    row_runs, column_runs = rows // run, columns // run
    row_step, column_step = tile.lanes[0] * run, tile.lanes[1] * run
    column_pitch = tile.columns

    def term(sums, a, a_at, b, b_at):  # type: ignore[no-untyped-def]
        of_a = cuda.local.array(rows, number)
        of_b = cuda.local.array(columns, number)
        for r in range(row_runs):
            copy16(of_a, r * run, a, a_at + r * row_step)
        for r in range(column_runs):
            copy16(of_b, r * run, b, b_at + r * column_step)
        for i in range(rows):
            for j in range(columns):
                sums[i * columns + j] += of_a[i] * of_b[j]

    def twice(once, terms):  # type: ignore[no-untyped-def]
        def both(sums, a, a_at, b, b_at):  # type: ignore[no-untyped-def]
            once(sums, a, a_at, b, b_at)
            once(sums, a, a_at + terms * row_pitch, b, b_at + terms * column_pitch)

        return inlined(both)

    # The compiler would keep a loop over the terms, and pay for its counter and its branch.
    add, terms = inlined(term), 1
    while terms < depth:
        add, terms = twice(add, terms), 2 * terms
    return add
