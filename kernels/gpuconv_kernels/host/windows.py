"""Where the windows of output pixels lie in the input: addresses, for kernels that gather.

A part of kernels of its own (see :mod:`parts`). It writes, for a block of pixels, first where each
of their windows begins and where their results go; from that, tile by tile, where the channels of
each pixel begin under each tap::

    pixels of a block      q0: first plane     table: tile, tap, pixel of the tile
    o--o--o--o--o--o       q1: first line      [ tile 0 | tap 0 | p0 p1 ... ]
       a line of the       q2: first column    [        | tap 1 | p0 p1 ... ]
       output at a time    corner: address     addresses; of zeros where a tap is outside
                           inside: whole window

Where the taps of a line count as one, a window that reaches over an end of its line is a copy in
the margins of that line, see :mod:`few_channels`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.device.spatial import Three
from gpuconv_kernels.host.few_channels import copy_margins
from gpuconv_kernels.host.memory import number_at, put_at
from gpuconv_kernels.host.parts import part
from gpuconv_kernels.host.target import INT
from gpuconv_kernels.host.vectors import Emitter, Width

_FOUR = ir.VectorType(INT, 4)
_WORDS = Width(4, 1)
_SPARE = 4
"""Words behind those that are used: four are written at a time."""


def pixel_words(block: int, taps: int) -> int:
    """Words of memory that :func:`locating` needs for a block of pixels."""
    return 5 * (block + _SPARE) + taps + 16


def place_words(block: int) -> int:
    """Words of memory for the places of a block's results."""
    return block + _SPARE


def margin_lines(block: int, output: Three, kernel: Three, stride: int, dilation: int) -> int:
    """Lines whose margins a block of pixels needs, behind its places.

    ``stride`` and ``dilation`` are those of lines.
    """
    lines = (block - 1) // output[2] + 2
    planes = (lines - 1) // output[1] + 2
    shared = stride == dilation == 1
    each, more = (1, kernel[1] - 1) if shared else (kernel[1], 0)
    return kernel[0] * (lines * each + planes * more)


@intrinsic
def _write_run(  # type: ignore[no-untyped-def]
    typing_context, pixel, pitch, places, count, q0, q1, q2, q2_step, corner, corner_step,
    place, place_step, line_inside, reach2,
):  # fmt: skip
    """Write a run of pixels in one line, whose numbers are evenly spaced, four at a time."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        (
            pixel, pitch, places, count, q0, q1, q2, q2_step, corner, corner_step,
            place, place_step, line_inside, reach2,
        ) = arguments  # fmt: skip
        e = Emitter(builder, "float64", _WORDS)

        def ramp(first: ir.Value, step: ir.Value) -> ir.Value:
            return builder.add(e.splat(first), builder.mul(e.splat(step), _FOUR([0, 1, 2, 3])))

        def body(n: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            q2, corner, place = state
            begun = builder.icmp_signed(">=", q2, _FOUR([0] * 4))
            inside = builder.and_(begun, builder.icmp_signed("<", q2, e.splat(reach2)))
            inside = builder.and_(builder.zext(inside, _FOUR), e.splat(line_inside))
            to = e.add(pixel, e.times(n, 32))
            for value in (e.splat(q0), e.splat(q1), q2, corner, inside):
                e.store(value, to)
                to = e.add(to, pitch)
            e.store(place, e.add(places, e.times(n, 32)))
            steps = (q2_step, corner_step, place_step)
            return [
                builder.add(value, e.splat(e.times(step, 4)))
                for value, step in zip(state, steps, strict=True)
            ]

        state = [ramp(q2, q2_step), ramp(corner, corner_step), ramp(place, place_step)]
        e.loop(builder.sdiv(e.add(count, 3), e.integer(4)), state, body)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 14), generate


@intrinsic
def _add_to_four(typing_context, to, source, number):  # type: ignore[no-untyped-def]
    """Write four words, each a number more than those at ``source``."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        to, source, number = arguments
        e = Emitter(builder, "float64", _WORDS)
        e.store(builder.add(e.load_integers(source), e.splat(number)), to)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 3), generate


write_run: Any = _write_run
add_to_four: Any = _add_to_four


@functools.cache
def locating() -> int:
    """Return the address of the part that writes the tables of a block, for :func:`parts.call`.

    ``call(address, extents, x, y, zeros, first, here, rows, table, order, upto, pixel, places)``

    - ``extents``: address of words: input, output, stride, dilation, pads before, kernel, three
      each; steps in bytes of ``x`` and of ``y``: image, depth, height, width; how many taps of a
      line count as one, and :class:`few_channels.Margins`; how many images' pixels at one place
      follow each other, all or 1. If several taps count as one, the input's width is that of the
      columns at which windows can begin, and images follow each other.
    - ``x``, ``y``, ``zeros``: addresses of the input, the results, and of what stands for padding.
    - ``first``, ``here``: the block's first pixel, and how many there are; ``rows``: of a tile.
    - ``table``: the addresses (tile, tap, row); ``rows`` of a tile that has fewer are ``zeros``.
    - ``order``, ``upto``: taps that any pixel of a tile needs, one by one (tile, tap), and how many
      of them come before a tap (tile, tap + 1). Of a tile in the first line of a padded image, say,
      those of the upper row would only multiply zeros.
    - ``pixel``: :func:`pixel_words` of memory; ``places``: where results go, :func:`place_words`
      of whole tiles, and the margins of :func:`margin_lines` behind them.
    """
    return part(define())


def define() -> Callable[..., None]:
    """Return the part as a plain function."""
    word, put = number_at("int64"), put_at("int64")

    def locate(  # type: ignore[no-untyped-def]
        extents, x, y, zeros, first, here, rows, table, order, upto, pixel, places
    ):
        input0, input1, input2 = word(extents, 0), word(extents, 1), word(extents, 2)
        output0, output1, output2 = word(extents, 3), word(extents, 4), word(extents, 5)
        stride0, stride1, stride2 = word(extents, 6), word(extents, 7), word(extents, 8)
        dilation0, dilation1, dilation2 = word(extents, 9), word(extents, 10), word(extents, 11)
        kernel0, kernel1, kernel2 = word(extents, 15), word(extents, 16), word(extents, 17)
        x_steps, y_steps = extents + 8 * 18, extents + 8 * 22
        joined, left, right_from, right, images = (
            word(extents, 26), word(extents, 27), word(extents, 28), word(extents, 29),
            word(extents, 30),
        )  # fmt: skip
        taps = kernel0 * kernel1 * kernel2
        margins = places + 8 * ((here + rows - 1) // rows * rows + _SPARE)
        of_pixel = word(x_steps, 3)
        of_margins = (left + right) * of_pixel
        # Lines of the output that follow each other need the same lines of x but one.
        shared = stride1 == 1 and dilation1 == 1
        of_line, of_plane = (1, kernel1 - 1) if shared else (kernel1, 0)
        pitch = 8 * (here + _SPARE)
        corner_of, inside_of, moved = pixel + 3 * pitch, pixel + 4 * pitch, pixel + 5 * pitch
        t = 0
        for t0 in range(kernel0):
            for t1 in range(kernel1):
                for t2 in range(kernel2):
                    far = t0 * dilation0 * word(x_steps, 1) + t1 * dilation1 * word(x_steps, 2)
                    put(moved, t, far + t2 * dilation2 * word(x_steps, 3))
                    t += 1

        # Where windows begin, by runs of pixels in one line, or at one place of all images.
        nth_image, place = first % images, first // images
        q2_step, corner_step, place_step = stride2, stride2 * of_pixel, word(y_steps, 3)
        if images > 1:
            q2_step, corner_step, place_step = 0, word(x_steps, 0), word(y_steps, 0)
        p2 = skipped = place % output2
        line = place // output2
        p1, line = line % output1, line // output1
        lines_before = p1
        p0, image = line % output0, line // output0 + nth_image
        outside = copied = False  # a pixel's taps, of this block; and of the last line of it
        i = 0
        while i < here:
            run = min(images - image if images > 1 else output2 - p2, here - i)
            q0 = p0 * stride0 - word(extents, 12)
            q1 = p1 * stride1 - word(extents, 13)
            q2 = p2 * stride2 - word(extents, 14)
            reach2 = input2 - (kernel2 - 1) * dilation2
            line_inside = (
                q0 >= 0 and q0 < input0 - (kernel0 - 1) * dilation0
                and q1 >= 0 and q1 < input1 - (kernel1 - 1) * dilation1
            )  # fmt: skip
            write_run(
                pixel + 8 * i, pitch, places + 8 * i, run, q0, q1, q2, q2_step,
                x + image * word(x_steps, 0) + q0 * word(x_steps, 1) + q1 * word(x_steps, 2)
                + q2 * word(x_steps, 3),
                corner_step,
                y + image * word(y_steps, 0) + p0 * word(y_steps, 1) + p1 * word(y_steps, 2)
                + p2 * word(y_steps, 3),
                place_step, line_inside, reach2,
            )  # fmt: skip
            reaches_out = not (line_inside and q2 >= 0 and q2 + (run - 1) * q2_step < reach2)
            if reaches_out:
                outside = True
                if of_margins:
                    nth = (skipped + i) // output2
                    slot = nth * of_line + (lines_before + nth) // output1 * of_plane
                    for t in range(taps):
                        t0, t1 = t // kernel1, t % kernel1
                        at0, at1 = q0 + t0 * dilation0, q1 + t1 * dilation1
                        known = shared and copied and p1 > 0 and t1 < kernel1 - 1
                        within = at0 >= 0 and at0 < input0 and at1 >= 0 and at1 < input1
                        if within and not known:
                            copy_margins(
                                margins + ((slot + t1) * kernel0 + t0) * of_margins,
                                x + image * word(x_steps, 0) + at0 * word(x_steps, 1)
                                + at1 * word(x_steps, 2),
                                left, right_from, right, word(extents, 14), input2 + joined - 1,
                                of_pixel,
                            )  # fmt: skip
            copied = reaches_out
            i += run
            if images > 1:
                image = 0
                p2 += 1
                if p2 < output2:
                    continue
            p2 = 0
            p1 += 1  # divisions take longer than writing the run
            if p1 == output1:
                p1 = 0
                p0 += 1
                if p0 == output0:
                    p0 = 0
                    image += 1

        for tile in range((here + rows - 1) // rows):
            start, used = tile * rows, min(rows, here - tile * rows)
            inside = used == rows
            if outside:
                for m in range(used):
                    if word(inside_of, start + m) == 0:
                        inside = False
            to = table + 8 * tile * taps * rows
            of_order, of_upto = order + 8 * tile * taps, upto + 8 * tile * (taps + 1)
            for t in range(taps):  # rows that are not used come below
                for m in range(0, rows, 4):
                    m4 = min(m, rows - 4)
                    add_to_four(
                        to + 8 * (t * rows + m4), corner_of + 8 * (start + m4), word(moved, t)
                    )
            put(of_upto, 0, 0)
            if inside:
                for t in range(taps):
                    put(of_order, t, t)
                    put(of_upto, t + 1, t + 1)
                continue
            # Row by row: few are not inside, and what is known of them serves all taps.
            any_inside = False
            for m in range(used):
                any_inside = any_inside or word(inside_of, start + m) != 0
            for t in range(taps):
                put(of_upto, t + 1, 1 if any_inside else 0)  # whether the tap is met
            for m in range(rows):
                if m < used and word(inside_of, start + m):
                    continue
                at, t = pixel + 8 * (start + m), 0
                q0, q1, q2 = word(at, 0), word(at + pitch, 0), word(at + 2 * pitch, 0)
                nth = (skipped + start + m) // output2
                slot = nth * of_line + (lines_before + nth) // output1 * of_plane
                in_margins = margins + slot * kernel0 * of_margins
                if q2 < 0:
                    in_margins += (q2 + word(extents, 14)) * of_pixel
                else:
                    in_margins += (left + q2 - right_from) * of_pixel
                for t0 in range(kernel0):
                    at0 = q0 + t0 * dilation0
                    in_plane = m < used and at0 >= 0 and at0 < input0
                    for t1 in range(kernel1):
                        at1 = q1 + t1 * dilation1
                        in_line = in_plane and at1 >= 0 and at1 < input1
                        for t2 in range(kernel2):
                            at2 = q2 + t2 * dilation2
                            if in_line and at2 >= 0 and at2 < input2:
                                put(of_upto, t + 1, 1)
                            elif in_line and of_margins:
                                put(of_upto, t + 1, 1)
                                beyond = (t1 * kernel0 + t0) * of_margins
                                put(to, t * rows + m, in_margins + beyond)
                            else:
                                put(to, t * rows + m, zeros)
                            t += 1
            needed = 0
            for t in range(taps):
                if word(of_upto, t + 1):
                    put(of_order, needed, t)
                    needed += 1
                put(of_upto, t + 1, needed)

    return locate
