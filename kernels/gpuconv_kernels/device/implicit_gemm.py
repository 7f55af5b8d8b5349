"""Convolution as a matrix product whose left factor exists only in shared memory.

Every output pixel is a row, every filter a column, and the sum runs over taps and channels::

                 taps * C/g                    F/g                      F/g
            +------------------+         +------------+          +-------------+
    pixels  |   x, gathered    |    x    |  w as it   |    =     |      y      |
    N * out |  tap after tap   |         |    lies    |  pixels  |             |
            +------------------+         +------------+          +-------------+

A block computes one tile of ``y`` (128 x 128 in float32, smaller where there is less to do), held
in the registers of its threads (8 x 8 each). It walks along the sum in steps of ``depth`` channels
of one tap and keeps two stages of both factors in shared memory::

    global memory               registers            shared memory (two stages)
    x  [pixel][channel]  16 B   next_x    4 B each   staged_x [channel][pixel + pad]   transposed
    w  [tap, channel][f] ---->  next_w    ------->   staged_w [channel][filter]
                                                            |  16 B: a run of a column, one of a row
                                                            v
                                                     sums[8][8] += column x row

    step s:    load s+1 from global | multiply stage s | store s+1 to the other stage | barrier

The loads are under way while the multiplications run, and one barrier a step suffices: the stage
that is written was last read before the previous barrier. The transposed store of ``x`` meets no
bank conflict thanks to the padding of its rows.

A thread loads the same rows of the tile in all steps. Where a row's window begins (and at which
offset) is computed once for the tile and kept in shared memory; a new tap adds a constant
to all of them and compares with the extents of the input, and a new step within a tap only adds
``depth``. Taps are counted like the digits of an odometer, so the loop contains no division.

Bias and short activations are applied to the registers before they are stored. Where the tiles are
too few for the device, ``parts`` blocks share the sum of a tile and device/parts.py adds them up.
backward_input is the same kernel: each of its phases is a convolution of ``dy`` with weights
transposed by device/transpose.py, whose pads may be negative and whose results go to every
``stride``-th position of ``dx``.

Limits: any stride, dilation, pads and groups in 1 to 3 dimensions; a reduction of fewer than
``depth`` channels a tap is padded with zeros, so few channels (and depthwise) are correct but
wasteful. Offsets are 32 bits wide and 64 where an array needs it. Sources: Chetlur et al. 2014,
"cuDNN: Efficient Primitives for Deep Learning"; the tiling of Nath et al. 2010, "An Improved MAGMA
GEMM for Fermi GPUs", and of CUTLASS ("Efficient GEMM in CUDA").
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device.activations import add_bias_activate
from gpuconv_kernels.device.functions import forward_function
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
    lanes,
    real,
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
from gpuconv_kernels.device.transpose import pack_backward_weights, packed_phases

Array = Any

FUSED = frozenset({"relu", "relu6", "leaky_relu", "hard_sigmoid"})
"""Activations of a few instructions, applied to the registers. The code of the others is so long
that the compiler would not unroll the loop over a thread's results, which then had to lie in local
memory: they take a pass of their own."""


@functools.cache
def define(
    dtype: str,
    tile: Tile,
    vector_x: bool,
    vector_w: bool,
    kind: str | None,
    split: bool,
    wide: bool,
) -> Any:
    """Return the kernel for these compile-time choices, as a plain function.

    ``vector_x`` and ``vector_w`` (which includes ``y``) say that 16 bytes may be moved at a time;
    ``kind`` names the activation; ``split`` that sums are cut and go to a workspace, without bias
    and activation; ``wide`` that offsets need 64 bits.
    """
    number, run = np.dtype(dtype).type, lanes(dtype)
    int32 = np.int32
    index = np.int64 if wide else np.int32  # of elements and pixels
    threads, depth = tile.threads, tile.depth
    tile_rows, tile_columns = tile.rows, tile.columns
    rows, columns = tile.thread
    row_step, column_step = tile.lanes[0] * run, tile.lanes[1] * run
    pitch = tile_rows + run
    x_runs, w_runs = tile_rows * depth // run, tile_columns * depth // run
    x_loads, w_loads = -(-x_runs // threads), -(-w_runs // threads)
    runs_a_pixel, runs_a_row = depth // run, tile_columns // run
    column_runs = columns // run
    x_stages, w_stages, corners = 2 * depth * pitch, 2 * depth * tile_columns, 3 * tile_rows
    x_stage, w_stage = depth * pitch, depth * tile_columns
    x_pace, w_pace = threads // runs_a_pixel, threads // runs_a_row
    table_loads, w_whole = -(-tile_rows // threads), w_runs % threads == 0
    results, x_ahead, w_ahead = rows * columns, x_loads * run, w_loads * run
    first_row, first_column = first_result(tile, dtype)
    add_products = outer_products(tile, dtype, pitch)
    function = forward_function(None if split else kind, dtype)
    alignment = ALIGNMENT
    outside = -(2**30)  # stays negative for all of a tap's channels
    position = np.uint64 if wide else np.uint32  # unsigned: no wrapping of negative ones
    quotient = quotients(wide)

    def convolve(  # type: ignore[no-untyped-def]
        x,  # (N, *input, groups * channels)
        w,  # from w_first on: (*kernel, channels, groups * filters)
        bias,  # (groups * filters,); anything without bias
        y,  # (N, *target, groups * filters); if split (parts, pixels, groups * filters)
        alpha,
        with_bias,
        pixels,
        channels,  # of one group
        filters,
        groups,
        parts,
        tiles_down,
        tiles_across,
        w_first,
        input,  # this and all that follow in three dimensions
        output,
        stride,
        dilation,
        before,
        kernel,
        target,
        target_first,
        target_step,
    ):
        staged_x = cuda.shared.array(x_stages, number, alignment)
        staged_w = cuda.shared.array(w_stages, number, alignment)
        corner = cuda.shared.array(corners, int32)
        origin = cuda.shared.array(tile_rows, index)
        destination = cuda.shared.array(tile_rows, index)
        sums = cuda.local.array(results, number)
        next_x = cuda.local.array(x_ahead, number)
        next_w = cuda.local.array(w_ahead, number)
        x_at = cuda.local.array(x_loads, index)

        thread = int32(cuda.threadIdx.x)
        block = int32(cuda.blockIdx.x)
        across, down, part, group = place_of_block(block, tiles_across, tiles_down, groups)
        column_0 = int32(across * tile_columns)
        pixel_0 = index(down * tile_rows)
        first_filter = int32(group * filters + column_0)
        filters_here = int32(filters - column_0)  # the tile's, and those beyond it
        all_channels, all_filters = int32(groups * channels), int32(groups * filters)

        # Where the window of each row begins, and where its results go.
        for v in range(table_loads):
            r = int32(thread + v * threads)
            pixel = index(pixel_0 + r)
            if r < tile_rows and pixel < pixels:
                line = quotient(pixel, output[2])
                p2 = int32(pixel - line * output[2])
                plane = quotient(line, output[1])
                p1 = int32(line - plane * output[1])
                image = quotient(plane, output[0])
                p0 = int32(plane - image * output[0])
                q0 = int32(p0 * stride[0] - before[0])
                q1 = int32(p1 * stride[1] - before[1])
                q2 = int32(p2 * stride[2] - before[2])
                corner[r] = q0
                corner[tile_rows + r] = q1
                corner[2 * tile_rows + r] = q2
                place = index(index(image * input[0] + q0) * input[1] + q1)
                origin[r] = index(index(place * input[2] + q2) * all_channels)
                if split:
                    place = index(index(part) * pixels + pixel)
                else:
                    place = index(image * target[0] + (target_first[0] + p0 * target_step[0]))
                    place = index(place * target[1] + (target_first[1] + p1 * target_step[1]))
                    place = index(place * target[2] + (target_first[2] + p2 * target_step[2]))
                destination[r] = index(place * all_filters + first_filter)
            elif r < tile_rows:
                corner[r] = -(2**30)  # never inside the input
                corner[tile_rows + r] = 0
                corner[2 * tile_rows + r] = 0
                origin[r] = 0
                destination[r] = -1
        cuda.syncthreads()

        for i in range(rows * columns):
            sums[i] = number(0)

        # The part of the sum that this block adds, as steps of `depth` channels of one tap.
        chunks = divide(channels + (depth - 1), depth)
        steps = int32(kernel[0] * kernel[1] * kernel[2] * chunks)
        steps_a_part = divide(steps + parts - 1, parts)
        begin = int32(part * steps_a_part)
        todo = int32(min(steps_a_part, steps - begin))
        first_tap = divide(begin, chunks)
        channel = int32((begin - first_tap * chunks) * depth)
        rest = divide(first_tap, kernel[2])
        t2 = int32(first_tap - rest * kernel[2])
        t0 = divide(rest, kernel[1])
        t1 = int32(rest - t0 * kernel[1])
        new_tap = True

        # Which runs the thread loads: channels of a pixel, filters of a channel.
        x_channel = int32(thread % runs_a_pixel * run)
        x_pixel = np.uint32(thread // runs_a_pixel)  # unsigned: an index that needs no wrapping
        w_k = int32(thread // runs_a_row)
        w_column = int32(thread % runs_a_row * run)
        w_filters = int32(filters_here - w_column)  # from the thread's first one on
        w_first_k = w_k
        if w_filters <= 0:
            w_first_k = int32(2**30)  # no channel: nothing is loaded
        w_line = index(w_pace * all_filters)
        w_at = index(index(first_tap * channels + channel + w_k) * all_filters + w_first)
        w_at = index(w_at + (first_filter + w_column))
        x_read, w_read = first_row(thread), first_column(thread)
        x_write, w_write = int32(x_channel * pitch + x_pixel), int32(w_k * tile_columns + w_column)
        now = int32(0)

        # Each pass loads a step, multiplies the one before, and stores what was loaded.
        staged = False
        while staged or todo > 0:
            if todo > 0:
                if new_tap:
                    m0, m1, m2 = t0 * dilation[0], t1 * dilation[1], t2 * dilation[2]
                    moved = index(index(index(m0) * input[1] + m1) * input[2] + m2)
                    moved = index(moved * all_channels + (group * channels + channel + x_channel))
                    for v in range(x_loads):
                        q0 = np.uint32(corner[x_pixel + (v * x_pace)] + m0)
                        q1 = np.uint32(corner[x_pixel + (v * x_pace + tile_rows)] + m1)
                        q2 = np.uint32(corner[x_pixel + (v * x_pace + 2 * tile_rows)] + m2)
                        x_at[v] = outside
                        if (
                            q0 < np.uint32(input[0])
                            and q1 < np.uint32(input[1])
                            and q2 < np.uint32(input[2])
                        ):
                            x_at[v] = index(origin[x_pixel + (v * x_pace)] + moved)
                left = int32(channels - channel)
                for v in range(x_loads):
                    for q in range(run):
                        next_x[v * run + q] = number(0)
                    if x_at[v] >= 0:
                        if vector_x:
                            if x_channel < left:
                                copy16(next_x, v * run, x, x_at[v])
                        else:
                            for q in range(run):
                                if int32(x_channel + q) < left:
                                    next_x[v * run + q] = x[position(x_at[v] + q)]
                    x_at[v] = index(x_at[v] + depth)
                for v in range(w_loads):
                    k = int32(w_first_k + v * w_pace)
                    at = index(w_at + v * w_line)
                    for q in range(run):
                        next_w[v * run + q] = number(0)
                    if (w_whole or k < depth) and k < left:
                        if vector_w:
                            copy16(next_w, v * run, w, at)
                        else:
                            for q in range(run):
                                if q < w_filters:
                                    next_w[v * run + q] = w[position(at + q)]
                w_at = index(w_at + index(min(left, int32(depth)) * all_filters))
                channel = int32(channel + depth)
                new_tap = channel >= channels
                if new_tap:
                    channel = int32(0)
                    t2 = int32(t2 + 1)
                    if t2 == kernel[2]:
                        t2 = int32(0)
                        t1 = int32(t1 + 1)
                        if t1 == kernel[1]:
                            t1 = int32(0)
                            t0 = int32(t0 + 1)
            if staged:
                add_products(
                    sums,
                    staged_x,
                    int32(now * x_stage + x_read),
                    staged_w,
                    int32(now * w_stage + w_read),
                )
            now = int32(now ^ 1)
            staged = todo > 0
            if staged:
                todo = int32(todo - 1)
                to = np.uint32(now * x_stage + x_write)
                for v in range(x_loads):
                    for q in range(run):
                        staged_x[to + (q * pitch + v * x_pace)] = next_x[v * run + q]
                for v in range(w_loads):
                    if w_whole or int32(w_k + v * w_pace) < depth:
                        into_w = int32(now * w_stage + w_write + v * w_pace * tile_columns)
                        copy16(staged_w, into_w, next_w, v * run)
            cuda.syncthreads()

        # Rows of the thread are `row_step` apart in runs, columns `column_step`.
        result = cuda.local.array(run, number)
        for i in range(rows):
            to = destination[np.uint32(x_read) + (i // run * row_step + i % run)]
            if to >= 0:
                for r in range(column_runs):
                    c = int32(w_read + r * column_step)
                    for q in range(run):
                        value = sums[i * columns + r * run + q]
                        if not split:
                            if with_bias and int32(c + q) < filters_here:
                                value += bias[np.uint32(first_filter + c + q)]
                            value = function(value, alpha)
                        result[q] = value
                    at = index(to + c)
                    if vector_w:
                        if c < filters_here:
                            copy16(y, at, result, 0)
                    else:
                        for q in range(run):
                            if int32(c + q) < filters_here:
                                y[position(at + q)] = result[q]

    return convolve


@functools.cache
def _kernel(
    dtype: str,
    tile: Tile,
    vector_x: bool,
    vector_w: bool,
    kind: str | None,
    split: bool,
    wide: bool,
) -> Any:
    function = define(dtype, tile, vector_x, vector_w, kind, split, wide)
    return compiled(function, tile.threads, blocks_of(tile, vector_x and vector_w, wide))


def choose_tile(geometry: Any, dtype: str, multiprocessors: int, may_split: bool = True) -> Choice:
    """Choose the tile for a forward convolution, and in how many parts to cut its sums.

    Args:
        geometry: a ``ConvGeometry``; a phase's for backward_input.
        dtype: ``"float32"`` or ``"float64"``.
        multiprocessors: of the device.
        may_split: whether there is a workspace for partial sums.

    Returns:
        The choice with the utilisation that it is expected to reach and the reason in words.
    """
    return _choose(spatial(geometry), dtype, multiprocessors, may_split)


def partial_elements(geometry: Any, dtype: str, multiprocessors: int) -> int:
    """Elements of the workspace for the partial sums that :func:`choose_tile` would like; or 0."""
    choice = choose_tile(geometry, dtype, multiprocessors)
    return _partial_elements(spatial(geometry), choice.parts)


def backward_partial_elements(geometry: Any, dtype: str, multiprocessors: int) -> int:
    """The same for backward_input: the most that any of its phases needs."""
    phases = geometry.backward_input_phases
    return max(
        (partial_elements(p.geometry, dtype, multiprocessors) for p in phases if p.geometry),
        default=0,
    )


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    kind: str | None = None,
    alpha: float = 0.0,
    tile: Tile | None = None,
    partial: Array | None = None,
    parts: int | None = None,
) -> None:
    """``y = activation(convolution of x and w + bias)``.

    Args:
        x, w, bias, y: (N, *in, C), (*k, C/g, F), (F,) or None, and (N, *out, F), contiguous.
        geometry: a ``ConvGeometry``.
        kind, alpha: activation, None for none.
        tile, parts: chosen by :func:`choose_tile` if None.
        partial: flat workspace for cut sums, of :func:`partial_elements` elements, or None; with a
            smaller one the sums are not cut.

    Raises:
        ValueError: arrays whose shapes are not the geometry's, or too small a workspace for
            ``parts``.
    """
    require_shape("x", x, geometry.x_shape)
    require_shape("w", w, geometry.w_shape)
    require_shape("y", y, geometry.y_shape)
    if bias is not None:
        require_shape("bias", bias, (geometry.out_channels,))
    _convolve(x, w, 0, bias, y, spatial(geometry), kind, alpha, tile, partial, parts)


def conv_backward_input(
    dy: Array,
    w: Array,
    dx: Array,
    geometry: Any,
    packed: Array,
    tile: Tile | None = None,
    partial: Array | None = None,
    parts: int | None = None,
) -> None:
    """Write the gradient ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, C/g, F).

    Args:
        dy, w, dx: contiguous.
        geometry: of the forward convolution.
        packed: flat workspace of ``transpose.packed_elements(geometry)`` elements.
        tile, parts: chosen for each phase if None.
        partial: workspace of :func:`backward_partial_elements` elements, or None.

    Raises:
        ValueError: as :func:`conv_forward`.
    """
    require_shape("dy", dy, geometry.y_shape)
    require_shape("w", w, geometry.w_shape)
    require_shape("dx", dx, geometry.x_shape)
    if dx.size == 0:
        return
    pack_backward_weights(w, packed, geometry)
    for problem, offset in packed_phases(geometry):
        if offset is None:
            add_parts(dx, None, dx, problem, 0)
        else:
            _convolve(dy, packed, offset, None, dx, problem, None, 0.0, tile, partial, parts)


def matrix_product(
    a: Array,
    b: Array,
    c: Array,
    bias: Array | None = None,
    kind: str | None = None,
    alpha: float = 0.0,
    tile: Tile | None = None,
    partial: Array | None = None,
    parts: int | None = None,
) -> None:
    """``c = activation(a @ b + bias)`` for ``a`` (M, K), ``b`` (K, N) and ``bias`` (N,) or None.

    All are contiguous. The rows of ``a`` are images of one pixel; the other arguments are those of
    :func:`conv_forward`.
    """
    (m, k), n = a.shape, b.shape[1]
    require_shape("b", b, (k, n))
    require_shape("c", c, (m, n))
    if bias is not None:
        require_shape("bias", bias, (n,))
    _convolve(a, b, 0, bias, c, product(m, k, n), kind, alpha, tile, partial, parts)


def _convolve(
    x: Array,
    w: Array,
    w_first: int,
    bias: Array | None,
    y: Array,
    problem: Spatial,
    kind: str | None,
    alpha: float,
    tile: Tile | None,
    partial: Array | None,
    parts: int | None,
) -> None:
    if y.size == 0 or problem.pixels == 0:
        return
    dtype = y.dtype.name
    room = 0 if partial is None else partial.size
    of_problem = (functools.partial(f, problem) for f in (_partial_elements, _steps))
    tile, parts = settle(tile, parts, room, functools.partial(_choose, problem, dtype), *of_problem)
    split = parts > 1
    wide = problem.is_wide(parts)
    index = np.int64 if wide else np.int32
    run = lanes(dtype)
    vector_x = problem.channels % run == 0 and is_aligned(x)
    into = partial if split else y
    vector_w = problem.filters % run == 0 and is_aligned(w, into) and w_first % run == 0
    fused = kind if kind in FUSED and not split else None
    down, across = ceil_div(problem.pixels, tile.rows), ceil_div(problem.filters, tile.columns)
    launch(
        _kernel(dtype, tile, vector_x, vector_w, fused, split, wide),
        down * across * problem.groups * parts,
        tile.threads,
        x,
        w,
        x if bias is None else bias,
        into,
        np.dtype(dtype).type(alpha),
        int(bias is not None),
        index(problem.pixels),
        problem.channels,
        problem.filters,
        problem.groups,
        parts,
        down,
        across,
        index(w_first),
        *map(int32s, (problem.input, problem.output, problem.stride, problem.dilation)),
        *map(int32s, (problem.before, problem.kernel)),
        *map(int32s, (problem.target, problem.target_first, problem.target_step)),
    )
    if split:
        add_parts(partial, bias, y, problem, parts, kind, alpha)
    elif kind is not None and fused is None:
        add_bias_activate(y, None, kind, alpha)


@functools.lru_cache(maxsize=1024)
def _choose(problem: Spatial, dtype: str, multiprocessors: int, may_split: bool) -> Choice:
    steps, terms = functools.partial(_steps, problem), problem.taps * problem.channels
    sizes = (problem.pixels, problem.filters, problem.groups)
    return choose(*sizes, steps, terms, dtype, multiprocessors, may_split)


def _steps(problem: Spatial, tile: Tile) -> int:
    return problem.taps * ceil_div(problem.channels, tile.depth)


def _partial_elements(problem: Spatial, parts: int) -> int:
    return parts * problem.pixels * problem.groups * problem.filters if parts > 1 else 0


def catalogue() -> Iterator[KernelSpec]:
    """Yield the kernels of this file: three variants of each tile, more of the largest."""
    usual = (  # vector_x, vector_w, kind, split, wide
        (True, True, None, False, False),
        (True, True, None, True, False),
        (False, False, None, False, False),
    )
    others = (
        (True, True, "relu", False, False),
        (True, True, "hard_sigmoid", False, False),
        (False, True, None, False, False),
        (True, False, None, False, False),
        (True, True, None, False, True),
    )
    for dtype in ("float32", "float64"):
        for tile in tiles(dtype):
            variants = usual + (others if tile is tiles(dtype)[0] else ())
            for vector_x, vector_w, kind, split, wide in variants:
                words = [dtype, str(tile), kind or "linear", "split" * split, "wide" * wide]
                words += ["" if vector_x else "scalar x", "" if vector_w else "scalar w"]
                yield KernelSpec(
                    f"implicit_gemm[{','.join(word for word in words if word)}]",
                    define(dtype, tile, vector_x, vector_w, kind, split, wide),
                    _signature(dtype, wide),
                    tile.threads,
                    min_blocks=blocks_of(tile, vector_x and vector_w, wide),
                    arithmetic=True,
                )


def _signature(dtype: str, wide: bool) -> tuple[Any, ...]:
    number, int32 = real(dtype), types.int32
    index = types.int64 if wide else int32
    return (
        *(flat(dtype),) * 4,
        number,
        int32,
        index,
        *(int32,) * 6,
        index,
        *(types.UniTuple(int32, 3),) * 9,
    )
