"""backward_weight as a matrix product that sums over pixels, cut in parts and added in two stages.

Every tap and input channel is a row, every filter a column, and the sum runs over all output
pixels::

                      N * out                      F/g                        F/g
               +------------------+         +-------------+            +------------+
    taps       |   x, gathered    |         |     dy      |    taps    |     dw     |
     * C/g     |  pixel by pixel  |    x    |  as it lies |  =  * C/g  |            |
               +------------------+         |   (pixels)  |            +------------+
                                            +-------------+

There are few results and very many terms, so the pixels are cut in ``splits`` parts. Each block
computes one tile of ``dw`` over one part into a workspace, and device/parts.py adds the parts in a
fixed order: no atomics, the same bits on every run.

The tile, its registers and the two stages in shared memory are those of device/implicit_gemm.py.
Both factors lie in memory as they are multiplied (channels and filters are contiguous for a pixel),
so they go to shared memory 16 bytes at a time without a transposition::

    x  [pixel][channel]  --16 B-->  next_x   --16 B-->  staged_x  [pixel][row of the tile]
    dy [pixel][filter]   --16 B-->  next_dy  --16 B-->  staged_dy [pixel][filter]

A thread loads the same tap and channels in all steps, of other pixels each time. Where the windows
of the next pixels begin is worked out for ``8 * depth`` pixels at once, one pixel a thread, into
a table in shared memory of which one half is read while the other is filled: the divisions that
turn a number into an image and a position are paid once in eight steps, without a barrier of their
own. In the rows, the channels of each tap are rounded up to 16 bytes, so that no load spans two
taps.

Limits: as for the implicit GEMM; the rows are padded for an odd number of channels. Sources: as
there; the two-stage reduction is Harris 2007, "Optimizing Parallel Reduction in CUDA".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.launch import ceil_div, is_aligned, launch
from gpuconv_kernels.device.parts import add_parts
from gpuconv_kernels.device.spatial import Spatial, int32s, product, spatial
from gpuconv_kernels.device.target import (
    ALIGNMENT,
    KernelSpec,
    compiled,
    copy16,
    cuda,
    flat,
    inlined,
    lanes,
    types,
)
from gpuconv_kernels.device.tiles import (
    Choice,
    Tile,
    blocks_of,
    choose,
    divide,
    first_result,
    outer_products,
    place_of_block,
    quotients,
    require_shape,
    settle,
    tiles,
)

Array = Any

STEPS_A_TABLE = 8
"""Steps whose pixels are located at a time."""


@functools.cache
def define(dtype: str, tile: Tile, vector_x: bool, vector_dy: bool, wide: bool) -> Any:
    """Return the kernel for these compile-time choices, as a plain function.

    ``vector_x`` and ``vector_dy`` (which includes ``dw``) say that 16 bytes may be moved at a
    time; ``wide`` that offsets need 64 bits.
    """
    number, run = np.dtype(dtype).type, lanes(dtype)
    int32 = np.int32
    index = np.int64 if wide else np.int32
    position = np.uint64 if wide else np.uint32
    quotient = quotients(wide)
    threads, depth = tile.threads, tile.depth
    tile_rows, tile_columns = tile.rows, tile.columns
    rows, columns = tile.thread
    results, column_runs = rows * columns, columns // run
    row_step, column_step = tile.lanes[0] * run, tile.lanes[1] * run
    x_stage, dy_stage = depth * tile_rows, depth * tile_columns
    x_stages, dy_stages = 2 * x_stage, 2 * dy_stage
    runs_down, runs_across = tile_rows // run, tile_columns // run
    x_pace, dy_pace = threads // runs_down, threads // runs_across
    x_loads, dy_loads = -(-depth // x_pace), -(-depth // dy_pace)
    x_whole, dy_whole = x_loads * x_pace == depth, dy_loads * dy_pace == depth
    x_ahead, dy_ahead = x_loads * run, dy_loads * run
    span = STEPS_A_TABLE * depth
    table, corners = 2 * span, 6 * span
    span_loads, row_loads = -(-span // threads), -(-tile_rows // threads)
    first_row, first_column = first_result(tile, dtype)
    add_products = outer_products(tile, dtype, tile_rows)
    outside = -(2**30)  # a position that no tap moves into the input
    alignment = ALIGNMENT

    def locate(corner, origin, half, pixel_0, pixels, input, output, stride, all_channels):  # type: ignore[no-untyped-def]
        """Write where the windows of ``span`` pixels begin: without pads, tap 0, channel 0."""
        for v in range(span_loads):
            r = int32(cuda.threadIdx.x + v * threads)
            if r < span:
                pixel = index(pixel_0 + r)
                line = quotient(pixel, output[2])
                plane = quotient(line, output[1])
                image = quotient(plane, output[0])
                q0 = int32((plane - image * output[0]) * stride[0])
                q1 = int32((line - plane * output[1]) * stride[1])
                q2 = int32((pixel - line * output[2]) * stride[2])
                place = index(index(image * input[0] + q0) * input[1] + q1)
                slot = np.uint32(half + r)  # unsigned: an index that needs no wrapping
                origin[slot] = index(index(place * input[2] + q2) * all_channels)
                if pixel >= pixels:
                    q0 = int32(outside)
                corner[slot] = q0
                corner[slot + table] = q1
                corner[slot + 2 * table] = q2

    locate_windows = inlined(locate)

    def backward_weight(  # type: ignore[no-untyped-def]
        x,  # (N, *input, groups * channels)
        dy,  # (N, *output, groups * filters)
        dw,  # (parts, *kernel, channels, groups * filters)
        pixels,
        channels,  # of one group
        filters,
        groups,
        padded,  # channels, rounded up to 16 bytes
        taps,
        parts,
        tiles_down,
        tiles_across,
        input,  # this and all that follow in three dimensions
        output,
        stride,
        dilation,
        before,
        kernel,
    ):
        staged_x = cuda.shared.array(x_stages, number, alignment)
        staged_dy = cuda.shared.array(dy_stages, number, alignment)
        corner = cuda.shared.array(corners, int32)
        origin = cuda.shared.array(table, index)
        destination = cuda.shared.array(tile_rows, index)
        sums = cuda.local.array(results, number)
        next_x = cuda.local.array(x_ahead, number)
        next_dy = cuda.local.array(dy_ahead, number)

        thread = int32(cuda.threadIdx.x)
        block = int32(cuda.blockIdx.x)
        across, down, part, group = place_of_block(block, tiles_across, tiles_down, groups)
        column_0 = int32(across * tile_columns)
        row_0 = int32(down * tile_rows)
        first_filter = int32(group * filters + column_0)
        filters_here = int32(filters - column_0)  # the tile's, and those beyond it
        all_channels, all_filters = int32(groups * channels), int32(groups * filters)

        # Where each row of results goes.
        for v in range(row_loads):
            r = int32(thread + v * threads)
            if r < tile_rows:
                tap = divide(row_0 + r, padded)
                channel = int32(row_0 + r - tap * padded)
                destination[r] = -1
                if tap < taps and channel < channels:
                    line = index(index(index(part) * taps + tap) * channels + channel)
                    destination[r] = index(line * all_filters + first_filter)
        for i in range(results):
            sums[i] = number(0)

        # The thread's run of channels, and how far its tap moves a window.
        x_row, x_k = int32(thread % runs_down * run), int32(thread // runs_down)
        tap = divide(row_0 + x_row, padded)
        channel = int32(row_0 + x_row - tap * padded)
        line = divide(tap, kernel[2])
        plane = divide(line, kernel[1])
        m0 = int32(plane * dilation[0] - before[0])
        m1 = int32((line - plane * kernel[1]) * dilation[1] - before[1])
        m2 = int32((tap - line * kernel[2]) * dilation[2] - before[2])
        moved = index(index(index(m0) * input[1] + m1) * input[2] + m2)
        moved = index(moved * all_channels + (group * channels + channel))
        x_channels = int32(channels - channel)  # from the thread's first one on
        if tap >= taps:
            x_channels = int32(0)
        if x_channels <= 0:
            m0 = int32(outside)

        # Its run of filters.
        dy_column, dy_k = int32(thread % runs_across * run), int32(thread // runs_across)
        dy_filters = int32(filters_here - dy_column)
        dy_first_k = dy_k
        if dy_filters <= 0:
            dy_first_k = int32(2**30)  # no pixel: nothing is loaded

        steps = quotient(pixels + (depth - 1), depth)
        steps_a_part = quotient(steps + (parts - 1), parts)
        begin = index(part * steps_a_part)
        todo = int32(max(min(steps_a_part, index(steps - begin)), index(0)))
        pixel_0 = index(begin * depth)
        dy_at = index(index(pixel_0 + dy_k) * all_filters + (first_filter + dy_column))
        dy_line = index(dy_pace * all_filters)
        x_read, dy_read = first_row(thread), first_column(thread)
        x_write, dy_write = int32(x_k * tile_rows + x_row), int32(dy_k * tile_columns + dy_column)
        left = index(pixels - pixel_0)
        now, step = int32(0), int32(0)  # step: its place in the two tables

        locate_windows(
            corner, origin, int32(0), pixel_0, pixels, input, output, stride, all_channels
        )
        cuda.syncthreads()

        # Each pass loads a step, multiplies the one before, and stores what was loaded.
        staged = False
        while staged or todo > 0:
            if todo > 0:
                if step % STEPS_A_TABLE == 0:  # the next eight steps' go to the other half
                    half = int32((STEPS_A_TABLE - step) * depth)
                    pixel = index(pixels - left + span)
                    locate_windows(
                        corner, origin, half, pixel, pixels, input, output, stride, all_channels
                    )
                first = int32(step * depth)
                step = int32((step + 1) % (2 * STEPS_A_TABLE))
                for v in range(x_loads):
                    k = int32(x_k + v * x_pace)
                    for q in range(run):
                        next_x[v * run + q] = number(0)
                    if x_whole or k < depth:
                        slot = np.uint32(first + k)  # unsigned: an index that needs no wrapping
                        q0 = np.uint32(corner[slot] + m0)
                        q1 = np.uint32(corner[slot + table] + m1)
                        q2 = np.uint32(corner[slot + 2 * table] + m2)
                        if (
                            q0 < np.uint32(input[0])
                            and q1 < np.uint32(input[1])
                            and q2 < np.uint32(input[2])
                        ):
                            at = index(origin[slot] + moved)
                            if vector_x:
                                copy16(next_x, v * run, x, at)
                            else:
                                for q in range(run):
                                    if q < x_channels:
                                        next_x[v * run + q] = x[position(at + q)]
                for v in range(dy_loads):
                    k = int32(dy_first_k + v * dy_pace)
                    at = index(dy_at + v * dy_line)
                    for q in range(run):
                        next_dy[v * run + q] = number(0)
                    if (dy_whole or k < depth) and k < left:
                        if vector_dy:
                            copy16(next_dy, v * run, dy, at)
                        else:
                            for q in range(run):
                                if q < dy_filters:
                                    next_dy[v * run + q] = dy[position(at + q)]
                dy_at = index(dy_at + index(depth * all_filters))
                left = index(left - depth)
            if staged:
                add_products(
                    sums,
                    staged_x,
                    int32(now * x_stage + x_read),
                    staged_dy,
                    int32(now * dy_stage + dy_read),
                )
            now = int32(now ^ 1)
            staged = todo > 0
            if staged:
                todo = int32(todo - 1)
                for v in range(x_loads):
                    k = int32(x_k + v * x_pace)
                    if x_whole or k < depth:
                        to = int32(now * x_stage + x_write + v * x_pace * tile_rows)
                        copy16(staged_x, to, next_x, v * run)
                for v in range(dy_loads):
                    k = int32(dy_k + v * dy_pace)
                    if dy_whole or k < depth:
                        to = int32(now * dy_stage + dy_write + v * dy_pace * tile_columns)
                        copy16(staged_dy, to, next_dy, v * run)
            cuda.syncthreads()

        # Rows of the thread are `row_step` apart in runs, columns `column_step`.
        result = cuda.local.array(run, number)
        for i in range(rows):
            to = destination[np.uint32(x_read) + (i // run * row_step + i % run)]
            if to >= 0:
                for r in range(column_runs):
                    c = int32(dy_read + r * column_step)
                    for q in range(run):
                        result[q] = sums[i * columns + r * run + q]
                    at = index(to + c)
                    if vector_dy:
                        if c < filters_here:
                            copy16(dw, at, result, 0)
                    else:
                        for q in range(run):
                            if int32(c + q) < filters_here:
                                dw[position(at + q)] = result[q]

    return backward_weight


@functools.cache
def _kernel(dtype: str, tile: Tile, vector_x: bool, vector_dy: bool, wide: bool) -> Any:
    function = define(dtype, tile, vector_x, vector_dy, wide)
    return compiled(function, tile.threads, _blocks_of(dtype, tile, vector_x and vector_dy, wide))


def _blocks_of(dtype: str, tile: Tile, vector: bool, wide: bool) -> int:
    """Blocks a multiprocessor for which a variant is compiled.

    The largest float32 tile needs a few registers more than two blocks leave on sm_75 and sm_80.
    """
    if dtype == "float32" and tile.threads == 256:
        return 1
    return blocks_of(tile, vector, wide)


def choose_splits(
    geometry: Any, dtype: str, multiprocessors: int, may_split: bool = True
) -> Choice:
    """Choose the tile, and in how many parts the pixels are cut.

    Args:
        geometry: a ``ConvGeometry``.
        dtype: ``"float32"`` or ``"float64"``.
        multiprocessors: of the device.
        may_split: whether there is a workspace for partial sums.

    Returns:
        The choice; its ``parts`` are the splits.
    """
    return _choose(spatial(geometry), dtype, multiprocessors, may_split)


def partial_elements(geometry: Any, splits: int) -> int:
    """Elements of the workspace for ``splits`` partial sums; none for one, which is written."""
    return _partial_elements(spatial(geometry), splits)


def conv_backward_weight(
    dy: Array,
    x: Array,
    dw: Array,
    geometry: Any,
    partial: Array | None = None,
    tile: Tile | None = None,
    splits: int | None = None,
) -> None:
    """Write the gradient ``dw`` (*k, C/g, F) from ``dy`` (N, *out, F) and ``x`` (N, *in, C).

    Args:
        dy, x, dw: contiguous.
        geometry: a ``ConvGeometry``.
        partial: flat workspace of :func:`partial_elements` elements, or None; with a smaller one
            the pixels are not cut.
        tile, splits: chosen by :func:`choose_splits` if None.

    Raises:
        ValueError: arrays whose shapes are not the geometry's, or too small a workspace for
            ``splits``.
    """
    require_shape("dy", dy, geometry.y_shape)
    require_shape("x", x, geometry.x_shape)
    require_shape("dw", dw, geometry.w_shape)
    _backward_weight(dy, x, dw, spatial(geometry), partial, tile, splits)


def product_transposed(
    a: Array,
    b: Array,
    c: Array,
    partial: Array | None = None,
    tile: Tile | None = None,
    splits: int | None = None,
) -> None:
    """Write ``a`` transposed times ``b``: (K, M) and (K, N) give ``c`` (M, N), all contiguous.

    The weight gradient of a dense layer: the rows of ``a`` are images of one pixel. The other
    arguments are those of :func:`conv_backward_weight`; the workspace holds ``splits * M * N``.
    """
    (k, m), n = a.shape, b.shape[1]
    require_shape("b", b, (k, n))
    require_shape("c", c, (m, n))
    _backward_weight(b, a, c, product(k, m, n), partial, tile, splits)


def _backward_weight(
    dy: Array,
    x: Array,
    dw: Array,
    problem: Spatial,
    partial: Array | None,
    tile: Tile | None,
    splits: int | None,
) -> None:
    if dw.size == 0:
        return
    weights = product(problem.taps * problem.channels, 1, problem.groups * problem.filters)
    if problem.pixels == 0:
        add_parts(dw, None, dw, weights, 0)
        return
    dtype = dw.dtype.name
    room = 0 if partial is None else partial.size
    tile, splits = settle(
        tile,
        splits,
        room,
        functools.partial(_choose, problem, dtype),
        functools.partial(_partial_elements, problem),
        functools.partial(_steps, problem),
    )
    wide = problem.is_wide(splits)
    index = np.int64 if wide else np.int32
    run = lanes(dtype)
    into = dw if splits == 1 else partial
    vector_x = problem.channels % run == 0 and is_aligned(x)
    vector_dy = problem.filters % run == 0 and is_aligned(dy, into)
    padded = _padded(problem, dtype)
    down = ceil_div(problem.taps * padded, tile.rows)
    across = ceil_div(problem.filters, tile.columns)
    launch(
        _kernel(dtype, tile, vector_x, vector_dy, wide),
        down * across * problem.groups * splits,
        tile.threads,
        x,
        dy,
        into,
        index(problem.pixels),
        problem.channels,
        problem.filters,
        problem.groups,
        padded,
        problem.taps,
        splits,
        down,
        across,
        int32s(problem.input),
        int32s(problem.output),
        int32s(problem.stride),
        int32s(problem.dilation),
        int32s(problem.before),
        int32s(problem.kernel),
    )
    if splits > 1:
        add_parts(partial, None, dw, weights, splits)


@functools.lru_cache(maxsize=1024)
def _choose(problem: Spatial, dtype: str, multiprocessors: int, may_split: bool) -> Choice:
    return choose(
        rows=problem.taps * _padded(problem, dtype),
        columns=problem.filters,
        groups=problem.groups,
        steps=functools.partial(_steps, problem),
        terms=problem.pixels,
        dtype=dtype,
        multiprocessors=multiprocessors,
        may_split=may_split,
    )


def _padded(problem: Spatial, dtype: str) -> int:
    run = lanes(dtype)
    return ceil_div(problem.channels, run) * run


def _steps(problem: Spatial, tile: Tile) -> int:
    return ceil_div(problem.pixels, tile.depth)


def _partial_elements(problem: Spatial, splits: int) -> int:
    weights = problem.taps * problem.channels * problem.groups * problem.filters
    return splits * weights if splits > 1 else 0


def catalogue() -> Iterator[KernelSpec]:
    """Yield the kernels of this file: two variants of each tile, more of the largest."""
    usual = ((True, True, False), (False, False, False))  # vector_x, vector_dy, wide
    others = ((False, True, False), (True, False, False), (True, True, True))
    for dtype in ("float32", "float64"):
        for tile in tiles(dtype):
            variants = usual + (others if tile is tiles(dtype)[0] else ())
            for vector_x, vector_dy, wide in variants:
                words = [dtype, str(tile), "wide" * wide]
                words += ["" if vector_x else "scalar x", "" if vector_dy else "scalar dy"]
                yield KernelSpec(
                    f"weight_gradient[{','.join(word for word in words if word)}]",
                    define(dtype, tile, vector_x, vector_dy, wide),
                    _signature(dtype, wide),
                    tile.threads,
                    min_blocks=_blocks_of(dtype, tile, vector_x and vector_dy, wide),
                    arithmetic=True,
                )


def _signature(dtype: str, wide: bool) -> tuple[Any, ...]:
    int32 = types.int32
    index = types.int64 if wide else int32
    return (*(flat(dtype),) * 3, index, *(int32,) * 8, *(types.UniTuple(int32, 3),) * 6)
