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

    for some groups of tiles:
        for a block of filters:
            for a span of channels:
                all threads: transform the filters, unless they were transformed before
                for each group, 64 filters at a time:
                    for a chunk of channels:
                        transform the patches, unless they are still there from the filters before
                        for e in t * t elements:
                            for 6 tiles: micro-kernel: 6 x 64 products += chunk
                    after the last span: transform the products, store

Where arrays are small beside all that, two of the ``t`` rows of elements are computed at a time,
from the patches to the outputs, to which each part adds what it gives: a third of the memory for
t = 6, for half as many transforms more. Rows belong together whose points are opposite. One row at
a time takes half of that memory, and reads and adds twice as often.

backward_input is the same kernel: a convolution of ``dy`` with the taps in reverse order, the
weights transposed while they are transformed.

Transformed filters are 1.8, 4 or 7 times as large as the weights. How much of all this is in memory
at once, and how often it is transformed again, is decided in :mod:`winograd_cut`. A phase that
writes filters begins when those who read the ones before have finished, and is awaited by those who
read them. Where there are few tiles, every task transforms the filters of its chunks itself: they
never leave the cache of its core, and nobody waits.

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
from dataclasses import replace
from typing import Any

import numpy as np

from gpuconv_kernels.array.activations import Function
from gpuconv_kernels.host import winograd_gradient
from gpuconv_kernels.host.finishing import NOTHING, Finish, finish_of
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, aligned, number_at, put_at, zeros
from gpuconv_kernels.host.microkernel import multiply, pixel_kernel, rows_for
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.spinning import add, patience
from gpuconv_kernels.host.target import ITEMSIZE, Host, host
from gpuconv_kernels.host.winograd_cut import Layer, Plan, best, worth
from gpuconv_kernels.host.winograd_filters import steps_of, transform_block
from gpuconv_kernels.host.winograd_tiles import (
    apart,
    claim,
    fill_table,
    locate,
    tail_padded,
    up,
    wait_for,
    with_channels_together,
)
from gpuconv_kernels.host.winograd_transforms import (
    add_residual,
    add_some,
    parts_of,
    store_some,
    transform_input,
    transform_output,
)
from gpuconv_kernels.threads import threads

Array = Any

_APART = 8
"""Words from a counter to the next, which is on a line of its own."""

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
        return winograd_gradient.workspace_bytes(geometry, dtype, m, limit)
    g = geometry.backward_input_phases[0].geometry if op == "conv_backward_input" else geometry
    return plan(g, m, kept, limit, dtype, host(), threads(), g is not geometry).workspace


def estimate(op: str, geometry: Any, dtype: str, m: int, limit: int | None) -> float:
    """Return the multiply-adds in whose time two threads carry out ``op``, all counted.

    Memory beyond ``limit`` counts as in ``winograd_cut.best``. The same for any number of threads,
    so that what is chosen by it does not depend on them.
    """
    if op == "conv_backward_weight":
        return winograd_gradient.estimate(geometry, dtype, m, limit)
    g = geometry.backward_input_phases[0].geometry if op == "conv_backward_input" else geometry
    how = plan(g, m, False, limit, dtype, host(), 2, g is not geometry)
    return 2 * worth(how.time, how.workspace, limit)


def plan(
    geometry: Any,
    m: int,
    kept: bool,
    limit: int | None,
    dtype: str,
    of: Host,
    count: int,
    backward: bool = False,
) -> Plan:
    """Return how ``conv_forward`` cuts its work for ``count`` threads.

    Or how ``conv_backward_input`` does, whose ``geometry`` is that of the convolution it is.
    """
    g = geometry
    tiles = max(1, g.batch) * (-(-g.output[0] // m)) * (-(-g.output[1] // m))
    layer = Layer(tiles, g.in_channels, g.out_channels, m, False, backward, dtype, of, 2)
    usual = best(layer, limit)
    if count == 2 and not kept:
        return usual
    # Sums of parts are rounded otherwise: whether there are any depends on neither.
    return best(replace(layer, kept=kept, count=count, passes=usual.cut.passes), limit)


# --- the operations ------------------------------------------------------------------------


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    activation: Function | None,
    m: int,
    kept: Array | None = None,
    limit: int | None = None,
    residual: Array | None = None,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (3, 3, C, F) and ``bias`` (F,).

    Args:
        x, w, bias: of any strides; of the dtype of ``y``; ``bias`` may be None.
        y: C-contiguous.
        geometry: one that :func:`supports` has nothing against.
        activation: of a kind of ``activations.FORWARD``, or None.
        m: extent of a tile: 2, 4 or 6.
        kept: ``transform_weights(w, m)``, if the caller has it; ``w`` is then not read.
        limit: bytes that should not be exceeded: filters and patches are transformed again and
            again, if that does not take much longer; see :func:`winograd_cut.best`.
        residual: like ``y``; it is added before the activation.
    """
    finish = finish_of(name_of(y.dtype), activation)
    _convolve(x, w, bias, y, geometry, finish, m, kept, limit, False, residual)


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
    _convolve(dy, w, None, dx, flipped, NOTHING, m, kept, limit, True)


def _convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    g: Any,
    finish: Finish,
    m: int,
    kept: Array | None,
    limit: int | None,
    backward: bool,
    residual: Array | None = None,
) -> None:
    if y.size == 0:
        return
    dtype, of = name_of(y.dtype), host()
    channels, filters = g.in_channels, g.out_channels
    how = plan(g, m, kept is not None, limit, dtype, of, threads(), backward)
    c, width_bytes = how.cut, how.cut.vectors * of.vector_bytes
    rows = rows_for(c.vectors, of)
    of_step = c.chunk if c.own else channels if kept is not None else c.span
    x, w = with_channels_together(x), np.ascontiguousarray(w)
    given = np.zeros(filters, dtype) if bias is None else np.ascontiguousarray(bias)
    nothing = zeros(up(channels, of.lanes(dtype)) * y.itemsize + width_bytes)
    shared, scratch = aligned(how.shared), aligned(how.slots * how.offsets[-1])
    words = np.zeros(2 * _APART + sum(how.tickets), np.int64)
    run(
        convolution(dtype, of, m, c.passes),
        how.slots,
        address(x),
        address(w),
        0 if kept is None else address(kept),
        address(given),
        address(y),
        address(nothing),
        *finish,
        0 if residual is None else address(residual) - address(y),
        pixel_kernel(dtype, of, rows, c.vectors),
        (rows, c.vectors),
        (g.batch, channels, filters),
        (*g.input, *g.output),
        (-(-g.output[0] // m), -(-g.output[1] // m), g.pads[0][0], g.pads[1][0]),
        x.strides[:3],
        y.strides[:3],
        steps_of(channels, filters, y.itemsize, backward),
        (
            c.group,
            c.groups,
            c.together,
            c.block,
            c.part,
            c.span,
            c.chunk,
            c.held,
            c.own,
            *how.piece,
        ),
        (how.v_row, apart(of_step * width_bytes)),
        (how.slots, address(scratch), address(shared), how.filters_at),
        how.offsets,
        (address(words), *how.tickets, *patience()),
    )


# --- the kernel ----------------------------------------------------------------------------


@functools.cache
def convolution(dtype: str, host: Host, m: int, passes: int = 1) -> Any:
    """Return the compiled kernel for tiles of ``m`` x ``m``, whose elements are computed in so many
    ``passes``."""
    return Kernel(define(dtype, host, m, passes), dtype, host, m, passes)


def define(dtype: str, host: Host, m: int, passes: int) -> Callable[..., None]:
    """Return the kernel as a plain function; see :func:`convolution`."""
    lanes, itemsize, vector_bytes = host.lanes(dtype), ITEMSIZE[dtype], host.vector_bytes
    patch_pixels, pixels = (m + 2) ** 2, m * m
    elements, in_row = patch_pixels // passes, m + 2
    element_rows = tuple(row for part in parts_of(m, passes) for row in part)
    patch_in = transform_input(dtype, host, m, passes)
    patch_in = tail_padded(dtype, host, patch_in, patch_pixels)
    tile_out = transform_output(dtype, host, m, passes)
    add_pixels = add_residual(dtype, host, m)
    filters_in = transform_block(dtype, host, m, passes)
    number, put, zero = number_at(dtype), put_at(dtype), np.dtype(dtype).type(0)
    add_to, put_some = add_some(dtype, host), store_some(dtype, host)
    word, put_word = number_at("int64"), put_at("int64")
    apart_bytes = 8 * _APART

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, x, w, kept, bias, y, zeros, finish, function, alpha, added,
        kernel, tile, sizes, extents, grid, x_steps, y_steps, w_steps, cut, steps, memory, offsets,
        words,
    ):  # fmt: skip
        # finish, function, alpha: a Finish; added: bytes from y to what is added, or 0; kernel:
        # address of the micro-kernel; tile: (its rows, its vectors); sizes: (images, channels,
        # filters); extents: (input height, width, output height, width); grid: (rows of tiles,
        # tiles in a row, padding above, left);
        # steps in bytes: (image, height, width), w_steps: (first, tap, channel, filter); cut:
        # (tiles of a group, groups, groups together, filters of a block, of a part, channels of a
        # span, of a chunk, channels held, whether tasks have filters of their own, channels and
        # vectors of filters that are transformed as one task); steps: (transformed patches: tile;
        # transformed filters: element); memory: (threads that there is scratch memory for, its
        # address, address of what they share, bytes of the filters in there); words: (address,
        # tickets of filters, tickets of products, patience)
        rows, vectors = tile
        width, width_bytes = vectors * lanes, vectors * vector_bytes
        images, channels, filters = sizes
        group, groups, together, across, part, span, chunk, held, own, piece, at_once = cut
        v_row, step = steps
        slots, shared = memory[0], memory[2]
        slot = take(words[0])
        if slot >= slots:
            return
        done = words[0] + apart_bytes
        filter_tickets = done + apart_bytes
        product_tickets = filter_tickets + 8 * words[1]
        at = memory[1] + slot * offsets[14]
        v = at + offsets[0]
        pixel_table, place_table = at + offsets[2], at + offsets[3]
        row_table, target_table = at + offsets[4], at + offsets[5]
        patch, patch_table = at + offsets[6], at + offsets[7]
        spare, spare_table = at + offsets[8], at + offsets[9]
        trash, start, packed = at + offsets[10], at + offsets[11], at + offsets[12]
        u = at + offsets[13]
        tiles = images * grid[0] * grid[1]
        product_bytes = group * elements * width_bytes

        # Transformed patches and products: block of rows, element, row, number.
        for i in range(group):
            place = i // rows * elements * rows + i % rows
            put_word(row_table, i, v + place * v_row)
            put_word(target_table, i, place * width_bytes)
        fill_table(patch_table, patch_pixels, patch, vector_bytes)
        fill_table(spare_table, pixels, spare, vector_bytes)

        located = -1
        transformed = -1
        stored = patch_pixels if kept else elements
        at_a_time = passes if kept or own else 1
        spans = -(-channels // span)
        phase = 0
        before = 0  # tasks of the phases before this one
        for g_first in range(0, groups, together):
            for f_first in range(0, filters, across):
                f_last = min(f_first + across, filters)
                parts = -(-(f_last - f_first) // part)
                for sums in range(passes // at_a_time * spans):
                    p_first, c_first = sums // spans * at_a_time, sums % spans * span
                    c_last = min(c_first + span, channels)
                    phase += 1
                    filters_at = kept
                    if not kept and not own:
                        # Nobody reads the filters before; then all are there that will be read.
                        filters_at = shared
                        wait_for(done, before, words[3], words[4])
                        pieces = -(-(c_last - c_first) // piece)
                        count = -(-(f_last - f_first) // width) * (vectors // at_once) * pieces
                        for i in range(count):
                            one = (i + slot * count // slots) % count
                            if claim(filter_tickets + 8 * one, phase):
                                vector = one // pieces * at_once
                                f = f_first + vector * lanes
                                c = c_first + one % pieces * piece
                                filters_in(
                                    w + w_steps[0] + c * w_steps[2] + f * w_steps[3],
                                    w_steps[1], w_steps[2], w_steps[3],
                                    min(piece, c_last - c),
                                    max(0, min(at_once * lanes, filters - f)), at_once,
                                    packed,
                                    shared + vector // vectors * elements * step
                                    + vector % vectors * vector_bytes + (c - c_first) * width_bytes,
                                    width_bytes, step, p_first,
                                )  # fmt: skip
                                add(done, 1)
                        before += count
                        wait_for(done, before, words[3], words[4])
                    count = min(together, groups - g_first) * parts
                    for i in range(count):
                        # Each thread begins somewhere else, and has the same groups every time.
                        one = (i + slot * count // slots) % count
                        if not claim(product_tickets + 8 * one, phase):
                            continue
                        first = (g_first + one // parts) * group
                        here = min(group, tiles - first)
                        blocks = -(-here // rows)
                        if first != located:
                            located = first
                            transformed = -1
                            locate(
                                pixel_table, first, here, blocks * rows, m + 2, m, grid, grid[2],
                                grid[3], extents[0], extents[1], x, x_steps, zeros,
                            )  # fmt: skip
                            locate(
                                place_table, first, here, here, m, m, grid, 0, 0,
                                extents[2], extents[3], y, y_steps, trash,
                            )  # fmt: skip
                        f_part = f_first + one % parts * part
                        products = at + offsets[1]
                        if span < channels:
                            products = shared + memory[3] + one * (across // width) * product_bytes
                        widths = -(-min(part, f_last - f_part) // width)
                        for at_width in range(at_a_time * widths):
                            p = p_first + at_width // widths
                            f = f_part + at_width % widths * width
                            used = min(width, filters - f)
                            of_filters = filters_at + (f - f_first) // width * stored * step
                            for c in range(c_first, c_last, chunk):
                                some = min(chunk, c_last - c)
                                of_chunk = of_filters + (c - c_first) * width_bytes
                                if own:
                                    of_chunk = u
                                    filters_in(
                                        w + w_steps[0] + c * w_steps[2] + f * w_steps[3],
                                        w_steps[1], w_steps[2], w_steps[3], some, used, vectors,
                                        packed, u, width_bytes, step, p,
                                    )  # fmt: skip
                                c_held = c_first + (c - c_first) // held * held
                                if p * channels + c_held != transformed:
                                    transformed = p * channels + c_held
                                    c_end = min(c_held + held, c_last)
                                    for i_row in range(blocks * rows):
                                        for c_in in range(c_held, c_end, lanes):
                                            patch_in(
                                                pixel_table + i_row * patch_pixels * 8,
                                                c_in * itemsize,
                                                min(lanes, channels - c_in), patch_table,
                                                word(row_table, i_row)
                                                + (c_in - c_held) * itemsize,
                                                rows * v_row, p,
                                            )  # fmt: skip
                                for e in range(elements):
                                    e_stored = e
                                    if passes > 1 and kept:  # all elements are there
                                        e_row = element_rows[(p * elements + e) // in_row]
                                        e_stored = e_row * in_row + e % in_row
                                    for q in range(blocks):
                                        multiply(
                                            kernel,
                                            row_table + 8 * q * rows,
                                            zeros,
                                            1,
                                            e * rows * v_row + (c - c_held) * itemsize,
                                            row_table + 8 * q * rows,
                                            of_chunk + e_stored * step,
                                            some,
                                            target_table + 8 * q * rows,
                                            products + e * rows * width_bytes,
                                            zeros,
                                            c,
                                            0,
                                        )
                            if c_last == channels:
                                ends = p == passes - 1
                                for j in range(width):
                                    value = zero
                                    if j < used:
                                        value = number(bias, f + j)
                                    put(start, j, value)
                                for i_tile in range(here):
                                    place = i_tile // rows * elements * rows + i_tile % rows
                                    product = products + place * width_bytes
                                    places = place_table + i_tile * pixels * 8
                                    for k in range(0, used, lanes):
                                        whole = k + lanes <= used
                                        shift = (f + k) * itemsize
                                        if not whole:
                                            for j in range(pixels * lanes):
                                                put(spare, j, zero)
                                        tile_out(
                                            product + k * itemsize,
                                            rows * width_bytes,
                                            places if whole else spare_table,
                                            shift if whole else 0,
                                            start + k * itemsize,
                                            finish if ends and whole and not added else 0,
                                            p,
                                        )
                                        if added and whole and ends:
                                            add_pixels(places, shift, added, trash, finish)
                                        if not whole:
                                            for j_pixel in range(pixels):
                                                source = spare + j_pixel * vector_bytes
                                                to = word(places, j_pixel)
                                                if p:
                                                    add_to(to + shift, used - k, source)
                                                if added and ends and to != trash:
                                                    add_to(to + shift + added, used - k, source)
                                                put_some(
                                                    source, used - k, to + shift,
                                                    finish if ends else 0,
                                                )  # fmt: skip
                                    if ends and function:
                                        call(
                                            function, places, pixels, f * itemsize, used, 0, alpha,
                                            0, 0, 0, 0, 0, 0,
                                        )  # fmt: skip
                            if span < channels:
                                products += product_bytes
                        if not kept and not own:
                            add(done, 1)
                    before += count

    return convolve
