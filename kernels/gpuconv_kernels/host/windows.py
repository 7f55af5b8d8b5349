"""Where the windows of output pixels lie in the input: addresses, for kernels that gather."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.host.target import INT, inlined


@intrinsic
def _add_to_four(typing_context, to, source, number):  # type: ignore[no-untyped-def]
    """Write four words, each a number more than those at ``source``."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        four = ir.VectorType(INT, 4)
        to, source = (builder.inttoptr(a, four.as_pointer()) for a in arguments[:2])
        splat = ir.Constant(four, ir.Undefined)
        for lane in range(4):
            splat = builder.insert_element(splat, arguments[2], INT(lane))
        words = builder.load(source, align=8)
        builder.store(builder.add(words, splat), to, align=8)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 3), generate


add_to_four: Any = _add_to_four


@inlined
def ramp(numbers, first, step):  # type: ignore[no-untyped-def]
    """Fill an array with evenly spaced numbers."""
    for k in range(len(numbers)):
        numbers[k] = first + k * step


@inlined
def corners(  # type: ignore[no-untyped-def]
    pixel, places, first, here, x, y,
    input, output, stride, dilation, before, kernel, x_steps, y_steps,
):  # fmt: skip
    """Write, for each pixel of a block, where its window begins and where its results go.

    ``pixel``: the window's corner in three dimensions, its address (which may lie outside), and
    whether the whole window lies inside. By runs of pixels in one line, whose numbers are evenly
    spaced. Returns whether any window reaches outside.
    """
    p2 = first % output[2]
    p1 = first // output[2] % output[1]
    p0 = first // (output[2] * output[1]) % output[0]
    image = first // (output[2] * output[1] * output[0])
    reach0 = input[0] - (kernel[0] - 1) * dilation[0]
    reach1 = input[1] - (kernel[1] - 1) * dilation[1]
    reach2 = input[2] - (kernel[2] - 1) * dilation[2]
    outside = False
    i = 0
    while i < here:
        run = min(output[2] - p2, here - i)
        q0 = p0 * stride[0] - before[0]
        q1 = p1 * stride[1] - before[1]
        q2 = p2 * stride[2] - before[2]
        line_inside = 0 <= q0 < reach0 and 0 <= q1 < reach1
        corner = x + image * x_steps[0] + q0 * x_steps[1] + q1 * x_steps[2] + q2 * x_steps[3]
        place = y + image * y_steps[0] + p0 * y_steps[1] + p1 * y_steps[2] + p2 * y_steps[3]
        # One array a loop: what LLVM makes vectors of.
        pixel[0, i : i + run] = q0
        pixel[1, i : i + run] = q1
        ramp(pixel[2, i : i + run], q2, stride[2])
        ramp(pixel[3, i : i + run], corner, stride[2] * x_steps[3])
        ramp(places[i : i + run], place, y_steps[3])
        inside = pixel[4, i : i + run]
        if line_inside and q2 >= 0 and q2 + (run - 1) * stride[2] < reach2:
            inside[:] = 1
        else:
            outside = True
            for k in range(run):
                at = q2 + k * stride[2]
                inside[k] = line_inside and at >= 0 and at < reach2
        i += run
        p2 += run
        if p2 == output[2]:
            p2 = 0
            p1 += 1
            if p1 == output[1]:
                p1 = 0
                p0 += 1
                if p0 == output[0]:
                    p0 = 0
                    image += 1
    return outside


@inlined
def tabulate(  # type: ignore[no-untyped-def]
    table, order, upto, pixel, outside, here, rows, zeros, moved, input, dilation, kernel
):
    """Write where each pixel's channels begin under each tap: (tile, tap, row).

    And which taps any pixel of a tile needs: of a tile in the first line of a padded image, say,
    those of the upper row would only multiply zeros.
    """
    taps = moved.size
    to, corner = table.ctypes.data, pixel[3].ctypes.data
    for tile in range(-(-here // rows)):
        first, used = tile * rows, min(rows, here - tile * rows)
        inside = used == rows
        if outside:
            for m in range(used):
                inside = inside and pixel[4, first + m] != 0
        at = tile * taps * rows
        for t in range(taps):  # rows that are not used come below
            for m in range(0, rows, 4):
                m4 = min(m, rows - 4)
                add_to_four(to + 8 * (at + t * rows + m4), corner + 8 * (first + m4), moved[t])
        upto[tile, 0] = 0
        if inside:
            for t in range(taps):
                order[tile * taps + t] = t
                upto[tile, t + 1] = t + 1
            continue
        t = needed = 0
        for t0 in range(kernel[0]):
            for t1 in range(kernel[1]):
                for t2 in range(kernel[2]):
                    met = False
                    for m in range(rows):
                        there = m < used
                        if there and pixel[4, first + m] == 0:
                            q0 = pixel[0, first + m] + t0 * dilation[0]
                            q1 = pixel[1, first + m] + t1 * dilation[1]
                            q2 = pixel[2, first + m] + t2 * dilation[2]
                            there = 0 <= q0 < input[0] and 0 <= q1 < input[1] and 0 <= q2 < input[2]
                        met = met or there
                        if not there:
                            table[at + t * rows + m] = zeros
                    if met:
                        order[tile * taps + needed] = t
                        needed += 1
                    t += 1
                    upto[tile, t] = needed
