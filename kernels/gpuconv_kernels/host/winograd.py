"""Winograd convolution: 3x3 kernels at stride 1 with 2.25 products for an output instead of 9.

A patch of the input and a tile of outputs become ``t * t`` elements each, and element ``e`` of all
tiles is a product of two matrices, which the micro-kernel computes. A task is a group of tiles and
some of the filters; what it needs in between stays in the cache of its core::

    x, in place             V: element, tile, channel      products: element, tile, filter
    +--------+                   +-----+                        +-----+
    | patch  |-+   B^T x B     +-|     |     V[e] @ U[e]      +-|     |    A^T M A       y
    | t x t  | |  --------->   | |  e  |    ------------->    | |  e  |   --------->   m x m
    +--------+ |               | +-----+                      | +-----+   bias, ReLU   tiles
      +--------+               +-----+        U: G w G^T      +-----+

    for a group of tiles:
        for 64 filters:
            for a chunk of channels:
                transform the patches, unless they are still there from the filters before
                transform the filters, unless they were transformed ahead
                for e in t * t elements:
                    for 6 tiles: micro-kernel: 6 x 64 products += chunk
            transform the products, store

backward_input is the same kernel: a convolution of ``dy`` with the taps in reverse order, the
weights transposed while they are transformed.

Transformed filters are 1.8, 4 or 7 times as large as the weights. If they are needed for several
groups of tiles, they are transformed ahead, by all threads; for few tiles, or where memory is
short, each chunk is transformed where it is needed and never leaves the cache.

Transforms round more than plain sums do. Relative error in float32 against float64, x and w normal,
24 x 24 pixels, 64 filters (norm of the difference / norm of y; largest difference / largest y)::

      C        direct            F(2x2)            F(4x4)            F(6x6)
     16    2.1e-7  4.0e-7    1.6e-7  1.9e-7    1.1e-6  5.1e-6    2.0e-6  5.3e-6
     32    3.0e-7  6.5e-7    2.0e-7  2.5e-7    1.3e-6  5.0e-6    2.6e-6  6.9e-6
     64    4.2e-7  1.1e-6    2.7e-7  3.3e-7    1.8e-6  1.2e-5    3.4e-6  9.6e-6
    128    6.0e-7  1.3e-6    3.6e-7  4.5e-7    2.3e-6  8.1e-6    4.4e-6  1.3e-5
    256    8.4e-7  1.8e-6    5.0e-7  5.8e-7    3.3e-6  1.4e-5    6.2e-6  2.2e-5
    512    1.2e-6  2.0e-6    7.0e-7  9.4e-7    4.6e-6  1.3e-5    8.8e-6  2.6e-5

Results that are zero by definition come out as zero but for that error; one NaN or infinity in x
makes NaN of all outputs of the tiles whose patches contain it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv_kernels.host import winograd_gradient
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, zeros
from gpuconv_kernels.host.microkernel import RELU, multiply, pixel_kernel, rows_for, vectors_for
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.target import ITEMSIZE, LINE, Host, host
from gpuconv_kernels.host.winograd_filters import (
    packed_bytes,
    steps_of,
    transform_block,
    transform_weights,
    transformed_bytes,
)
from gpuconv_kernels.host.winograd_tiles import (
    aligned,
    apart,
    fill_table,
    locate,
    offsets_of,
    read,
    tail_padded,
    up,
    with_channels_together,
    write,
)
from gpuconv_kernels.host.winograd_transforms import transform_input, transform_output
from gpuconv_kernels.threads import threads

Array = Any

_CHUNK_BYTES = 24 * 1024
"""Filters of one element and one chunk: should stay in the L1 cache while tiles stream by."""
_PRODUCT_BYTES = 224 * 1024
"""Products of a group and a block of filters: a part of the L2 cache."""
_LEAST_GROUP = 20
"""Tiles that filters are read for at least."""
_FUSED_PRODUCT_BYTES = 1280 * 1024
"""Products where every group transforms the filters anew, so that there should be few groups."""
_FUSED_FILTER_BYTES = 320 * 1024
"""Filters of a chunk, transformed where they are needed: a part of the L2 cache."""
_TASKS_A_THREAD = 4


# --- what can be done, and in what memory --------------------------------------------------


def supports(op: str, geometry: Any) -> str | None:
    """Say why ``op`` cannot be done this way; None if it can. All three operations are alike."""
    g = geometry
    if g.kernel != (3, 3):
        return f"Winograd's transforms are those of a 3x3 kernel, not of {g.kernel}"
    if max(g.stride) > 1 or max(g.dilation) > 1:
        return "Winograd's method needs stride 1 and dilation 1"
    if g.groups > 1:
        return "Winograd's method is written for one group of channels"
    return None


def workspace_bytes(
    op: str, geometry: Any, dtype: str, m: int, kept: bool = False, limit: int | None = None
) -> int:
    """Memory that an operation allocates, beyond its arguments.

    Args:
        op: ``"conv_forward"``, ``"conv_backward_input"`` or ``"conv_backward_weight"``.
        geometry: the layer's.
        dtype: ``"float32"`` or ``"float64"``.
        m: extent of a tile.
        kept: whether the filters come transformed.
        limit: as of ``conv_forward``.
    """
    if op == "conv_backward_weight":
        return winograd_gradient.workspace_bytes(geometry, dtype, m)
    g = geometry.backward_input_phases[0].geometry if op == "conv_backward_input" else geometry
    return _plan(g, m, kept, limit, dtype, host(), threads()).workspace


@dataclass(frozen=True)
class Cut:
    """How the work is cut.

    Attributes:
        vectors: of filters that are computed together.
        group, groups: tiles of a group, a multiple of the micro-kernel's rows; how many groups.
        part, parts: filters of a task, a multiple of the vectors' lanes; how many parts.
        chunk: channels of a chunk of the sum, a multiple of a vector's lanes.
        held: channels whose transformed patches are in memory at once: a chunk, or all.
    """

    vectors: int
    group: int
    groups: int
    part: int
    parts: int
    chunk: int
    held: int


def cut(
    tiles: int, channels: int, filters: int, m: int, ahead: bool, dtype: str, of: Host, count: int
) -> Cut:
    """Cut the work for ``count`` threads; ``ahead``: the filters have been transformed."""
    lanes, itemsize = of.lanes(dtype), ITEMSIZE[dtype]
    vectors = vectors_for(filters, dtype, of)
    rows, width = rows_for(vectors, of), vectors * lanes
    blocks = -(-filters // width)
    tile_bytes = (m + 2) ** 2 * width * itemsize
    if ahead:
        groups = max(1, round(tiles / max(_LEAST_GROUP, _PRODUCT_BYTES // tile_bytes)))
        most = _CHUNK_BYTES // (width * itemsize)
    else:
        groups = -(-tiles * tile_bytes // _FUSED_PRODUCT_BYTES)
        most = _FUSED_FILTER_BYTES // tile_bytes
    most = max(1, most // lanes) * lanes
    chunk = up(-(-channels // -(-channels // most)), lanes)
    group = up(-(-tiles // groups), rows)
    groups = -(-tiles // group)
    parts = min(blocks, -(-_TASKS_A_THREAD * count // groups)) if ahead else blocks
    part = -(-blocks // parts)
    held = up(channels, lanes) if part > 1 else chunk
    return Cut(vectors, group, groups, part * width, -(-blocks // part), chunk, held)


@dataclass(frozen=True)
class _Plan:
    """``fused``: filters are transformed where they are needed; ``offsets``: of scratch memory."""

    cut: Cut
    fused: bool
    slots: int
    v_row: int
    offsets: tuple[int, ...]
    workspace: int


@functools.lru_cache(maxsize=1024)
def _plan(g: Any, m: int, kept: bool, limit: int | None, dtype: str, of: Host, count: int) -> _Plan:
    channels, filters = g.in_channels, g.out_channels
    tiles = max(1, g.batch) * (-(-g.output[0] // m)) * (-(-g.output[1] // m))

    def plan(ahead: bool) -> _Plan:
        c = cut(tiles, channels, filters, m, ahead, dtype, of, count)
        slots = min(count, c.groups * c.parts)
        v_row = c.held * ITEMSIZE[dtype]
        v_row += LINE if v_row % (8 * LINE) == 0 else 0
        offsets = _scratch(c, v_row, filters, m, not ahead, dtype, of)
        workspace = slots * offsets[-1]
        if ahead and not kept:
            workspace += transformed_bytes(channels, filters, m, dtype, of)
        return _Plan(c, not ahead, slots, v_row, offsets, workspace)

    ahead = plan(True)
    if kept:
        return ahead
    fused = plan(False)
    short = limit is not None and fused.workspace < ahead.workspace > limit
    return fused if fused.cut.groups == 1 or short else ahead


def _scratch(
    c: Cut, v_row: int, filters: int, m: int, fused: bool, dtype: str, of: Host
) -> tuple[int, ...]:
    """Where in a worker's scratch memory its parts begin, in the order of ``convolve``."""
    itemsize, lanes = ITEMSIZE[dtype], of.lanes(dtype)
    width, elements = c.vectors * lanes, (m + 2) ** 2
    return offsets_of(
        [
            c.group * elements * v_row,
            elements * apart(c.chunk * width * itemsize) if fused else 0,
            c.group * elements * width * itemsize,
            c.group * elements * 8,
            c.group * m * m * 8,
            c.group * 8,
            c.group * elements * 8,
            elements * lanes * itemsize,
            elements * 8,
            m * m * lanes * itemsize,
            m * m * 8,
            up(filters, width) * itemsize,
            width * itemsize,
            packed_bytes(c.vectors, dtype, of) if fused else 0,
        ]
    )


# --- the operations ------------------------------------------------------------------------


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    relu: bool,
    m: int,
    kept: Array | None = None,
    limit: int | None = None,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (3, 3, C, F) and ``bias`` (F,).

    Args:
        x, w, bias: of any strides; of the dtype of ``y``; ``bias`` may be None.
        y: C-contiguous.
        geometry: one that :func:`supports` has nothing against.
        relu: whether negative results become 0.
        m: extent of a tile: 2, 4 or 6.
        kept: ``transform_weights(w, m)``, if the caller has it; ``w`` is then not read.
        limit: bytes to be allocated at most, if possible: filters are transformed again and again,
            which takes longer, if there is no room for all of them.
    """
    _convolve(x, w, bias, y, geometry, RELU if relu else 0, m, kept, limit, False)


def conv_backward_input(
    dy: Array,
    w: Array,
    dx: Array,
    geometry: Any,
    m: int,
    kept: Array | None = None,
    limit: int | None = None,
) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (3, 3, C, F), as above.

    ``kept`` is ``transform_weights(w, m, backward=True)``.
    """
    flipped = geometry.backward_input_phases[0].geometry
    _convolve(dy, w, None, dx, flipped, 0, m, kept, limit, True)


def _convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    g: Any,
    finish: int,
    m: int,
    kept: Array | None,
    limit: int | None,
    backward: bool,
) -> None:
    if y.size == 0:
        return
    dtype, of, count = y.dtype.name, host(), threads()
    channels, filters = g.in_channels, g.out_channels
    plan = _plan(g, m, kept is not None, limit, dtype, of, count)
    c, width_bytes = plan.cut, plan.cut.vectors * of.vector_bytes
    rows = rows_for(c.vectors, of)
    x, w = with_channels_together(x), np.ascontiguousarray(w)
    if kept is None and not plan.fused:
        kept = transform_weights(w, m, backward)
    given = np.zeros(filters, dtype) if bias is None else np.ascontiguousarray(bias)
    nothing = zeros(up(channels, of.lanes(dtype)) * y.itemsize + width_bytes)
    scratch, workers = aligned(plan.slots * plan.offsets[-1]), np.zeros(1, np.int64)
    run(
        convolution(dtype, of, m),
        c.groups * c.parts,
        address(x),
        address(w),
        0 if kept is None else address(kept),
        address(given),
        address(y),
        address(nothing),
        finish,
        pixel_kernel(dtype, of, rows, c.vectors),
        (rows, c.vectors),
        (g.batch, channels, filters),
        (*g.input, *g.output),
        (-(-g.output[0] // m), -(-g.output[1] // m), g.pads[0][0], g.pads[1][0]),
        x.strides[:3],
        y.strides[:3],
        steps_of(channels, filters, y.itemsize, backward),
        (c.group, c.part, c.parts, c.chunk, c.held),
        (plan.v_row, apart(c.chunk * width_bytes), apart(channels * width_bytes)),
        (address(workers), plan.slots, address(scratch)),
        plan.offsets,
    )


# --- the kernel ----------------------------------------------------------------------------


@functools.cache
def convolution(dtype: str, host: Host, m: int) -> Any:
    """Return the compiled kernel for tiles of ``m`` x ``m``."""
    return Kernel(define(dtype, host, m), dtype, host, m)


def define(dtype: str, host: Host, m: int) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`convolution`."""
    lanes, itemsize, vector_bytes = host.lanes(dtype), ITEMSIZE[dtype], host.vector_bytes
    elements, pixels = (m + 2) ** 2, m * m
    patch_in = tail_padded(dtype, host, transform_input(dtype, host, m), elements)
    tile_out = transform_output(dtype, host, m)
    filters_in = transform_block(dtype, host, m)
    number, put, zero = read(dtype), write(dtype), np.dtype(dtype).type(0)
    word, put_word = read("int64"), write("int64")

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, x, w, kept, bias, y, zeros, finish, kernel,
        block, sizes, extents, grid, x_steps, y_steps, w_steps, cut, steps, memory, offsets,
    ):  # fmt: skip
        # kernel: address of the micro-kernel; block: (its rows, its vectors); sizes: (images,
        # channels, filters); extents: (input height, width, output height, width);
        # grid: (rows of tiles, tiles in a row, padding above, left); steps in bytes: (image,
        # height, width), w_steps: (first, tap, channel, filter); cut: (tiles of a group, filters
        # of a part, parts, channels of a chunk, channels held); steps: (transformed patches: tile;
        # transformed filters: element, of a chunk, of all); memory: (counter of workers, how many
        # there is scratch memory for, its address)
        rows, vectors = block
        width, width_bytes = vectors * lanes, vectors * vector_bytes
        images, channels, filters = sizes
        group, part, parts, chunk, held = cut
        v_row, step_of_chunk, step_of_all = steps
        slot = take(memory[0])
        if slot >= memory[1]:
            return
        at = memory[2] + slot * offsets[14]
        v, u, products = at + offsets[0], at + offsets[1], at + offsets[2]
        pixel_table, place_table = at + offsets[3], at + offsets[4]
        row_table, target_table = at + offsets[5], at + offsets[6]
        patch, patch_table = at + offsets[7], at + offsets[8]
        spare, spare_table = at + offsets[9], at + offsets[10]
        trash, start, packed = at + offsets[11], at + offsets[12], at + offsets[13]
        tiles = images * grid[0] * grid[1]

        # Transformed patches and products: block of rows, element, row, number.
        for i in range(group):
            put_word(row_table + 8 * i, v + (i // rows * elements * rows + i % rows) * v_row)
        fill_table(target_table, group * elements, products, width_bytes)
        fill_table(patch_table, elements, patch, vector_bytes)
        fill_table(spare_table, pixels, spare, vector_bytes)
        for i in range(elements * lanes):
            put(patch + i * itemsize, zero)

        located = -1
        transformed = -1
        task = take(counter)
        while task < tasks:
            # Tasks of one group follow each other: its transformed patches may still be there.
            first = task // parts * group
            here = min(group, tiles - first)
            blocks = -(-here // rows)
            if first != located:
                located = first
                transformed = -1
                locate(
                    pixel_table, first, here, blocks * rows, m + 2, m, grid, grid[2], grid[3],
                    extents[0], extents[1], x, x_steps, zeros,
                )  # fmt: skip
                locate(
                    place_table, first, here, here, m, m, grid, 0, 0,
                    extents[2], extents[3], y, y_steps, trash,
                )  # fmt: skip
            f_first = task % parts * part
            for f in range(f_first, min(f_first + part, filters), width):
                used = min(width, filters - f)
                for c in range(0, channels, chunk):
                    count = min(chunk, channels - c)
                    c_held = c // held * held
                    if c_held != transformed:
                        transformed = c_held
                        for i in range(blocks * rows):
                            for c_in in range(c_held, min(c_held + held, channels), lanes):
                                patch_in(
                                    pixel_table + i * elements * 8, c_in * itemsize,
                                    min(lanes, channels - c_in), patch_table,
                                    word(row_table + 8 * i) + (c_in - c_held) * itemsize,
                                    rows * v_row,
                                )  # fmt: skip
                    if kept:
                        step = step_of_all
                        filters_at = kept + f // width * elements * step + c * width_bytes
                    else:
                        step, filters_at = step_of_chunk, u
                        filters_in(
                            w + w_steps[0] + c * w_steps[2] + f * w_steps[3],
                            w_steps[1], w_steps[2], w_steps[3], count, used, vectors,
                            packed, u, step,
                        )  # fmt: skip
                    for e in range(elements):
                        for q in range(blocks):
                            multiply(
                                kernel,
                                row_table + 8 * q * rows,
                                zeros,
                                1,
                                e * rows * v_row + (c - c_held) * itemsize,
                                row_table + 8 * q * rows,
                                filters_at + e * step,
                                count,
                                target_table + 8 * (q * elements + e) * rows,
                                0,
                                zeros,
                                c,
                                0,
                            )
                for j in range(width):
                    value = zero
                    if j < used:
                        value = number(bias + (f + j) * itemsize)
                    put(start + j * itemsize, value)
                for i in range(here):
                    product = products + (i // rows * elements * rows + i % rows) * width_bytes
                    places = place_table + i * pixels * 8
                    for k in range(0, used, lanes):
                        whole = k + lanes <= used
                        shift = (f + k) * itemsize
                        tile_out(
                            product + k * itemsize,
                            rows * width_bytes,
                            places if whole else spare_table,
                            shift if whole else 0,
                            start + k * itemsize,
                            finish,
                        )
                        if not whole:
                            for p in range(pixels):
                                source, to = spare + p * vector_bytes, word(places + 8 * p) + shift
                                for j in range(used - k):
                                    put(to + j * itemsize, number(source + j * itemsize))
            task = take(counter)

    return convolve
