"""Where the windows of output pixels lie in the input: addresses, for kernels that gather."""

from __future__ import annotations

from gpuconv_kernels.host.target import inlined


@inlined
def corners(  # type: ignore[no-untyped-def]
    pixel, places, first, here, x, y,
    input, output, stride, dilation, before, kernel, x_steps, y_steps,
):  # fmt: skip
    """Write, for each pixel of a block, where its window begins and where its results go.

    ``pixel``: the window's corner in three dimensions, its address (which may lie outside), and
    whether the whole window lies inside. By runs of pixels in one line, whose numbers are evenly
    spaced.
    """
    p2 = first % output[2]
    p1 = first // output[2] % output[1]
    p0 = first // (output[2] * output[1]) % output[0]
    image = first // (output[2] * output[1] * output[0])
    reach0 = input[0] - (kernel[0] - 1) * dilation[0]
    reach1 = input[1] - (kernel[1] - 1) * dilation[1]
    reach2 = input[2] - (kernel[2] - 1) * dilation[2]
    i = 0
    while i < here:
        run = min(output[2] - p2, here - i)
        q0 = p0 * stride[0] - before[0]
        q1 = p1 * stride[1] - before[1]
        q2 = p2 * stride[2] - before[2]
        line_inside = 0 <= q0 < reach0 and 0 <= q1 < reach1
        corner = x + image * x_steps[0] + q0 * x_steps[1] + q1 * x_steps[2] + q2 * x_steps[3]
        place = y + image * y_steps[0] + p0 * y_steps[1] + p1 * y_steps[2] + p2 * y_steps[3]
        for k in range(run):
            pixel[0, i + k] = q0
            pixel[1, i + k] = q1
            pixel[2, i + k] = q2 + k * stride[2]
            pixel[3, i + k] = corner + k * stride[2] * x_steps[3]
            places[i + k] = place + k * y_steps[3]
        for k in range(run):
            at = q2 + k * stride[2]
            pixel[4, i + k] = line_inside and at >= 0 and at < reach2
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


@inlined
def tabulate(table, order, upto, pixel, here, rows, zeros, moved, input, dilation, kernel):  # type: ignore[no-untyped-def]
    """Write where each pixel's channels begin under each tap: (tile, tap, row).

    And which taps any pixel of a tile needs: of a tile in the first line of a padded image, say,
    those of the upper row would only multiply zeros.
    """
    taps = moved.size
    for tile in range(-(-here // rows)):
        first, used = tile * rows, min(rows, here - tile * rows)
        inside = used == rows
        for m in range(used):
            inside = inside and pixel[4, first + m] != 0
        at = tile * taps * rows
        for t in range(taps):
            for m in range(used):
                table[at + t * rows + m] = pixel[3, first + m] + moved[t]
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
