r"""Depthwise convolution, and groups of few channels: the channels of a pixel in vectors.

In a depthwise convolution every channel is by itself. There is nothing to reduce over but the taps,
so the time goes into reading x. Some pixels of a row are computed together: what one tap reads, the
next tap reads again for the pixel before it, and each vector is loaded once for all of them::

    x, one row of the window     x0    x1    x2    x3    x4    x5        pixels of 32 channels
                                  |  \  / | \  / |  \  / |  \  /
    8 pixels of y               s0 += x0 w0 + x1 w1 + x2 w2              in registers, until all
                                s1 += x1 w0 + x2 w1 + x3 w2  ...         rows of the window are in

Rows of the window that lie outside of the input are left out, and so are columns beyond the left
and the right border: a row is cut into groups of up to 16 pixels that lie inside, or lack the
columns of the padding on one side or on both. What is left of it are pixels that are computed one
by one, from the taps that they have. A group that does not fit is moved back and computes some
pixels once more::

    17 pixels, padding 1     |-- 0 1 ... 13 --|                lacks its first column
                                     |-- 13 14 15 16 --|       moved back, lacks its last column

What follows the sums, a residual or an activation, is done to a group's pixels as soon as all of
their channels are stored; a group that computes some of them once more begins with their sums. So
both are of one task: no two tasks write the same result.

backward_input is the same kernel, with the taps in reverse order: result ``q`` gathers from
``(q*step - before + t*dilation) / split`` wherever that is an integer inside of the source. Forward
has ``split`` 1, backward_input has ``step`` 1 and splits by the stride: if that is 2, what one tap
reads for a result, another tap reads for the result beside it. With larger strides, or with taps
that lie apart, each tap is read by itself, for results that lie ``split`` apart and meet the same.

Groups of up to 8 channels and filters, as of ResNeXt, are computed in the same way, for a matrix
product of 4 by 4 would leave most of a vector empty. A vector holds the filters of some groups; the
channels of these groups are loaded once, and for each channel of a group moved to the filters that
read it, see ``Mix``. With a channel multiplier a group has one channel. backward_input is the same
with channels and filters exchanged. Any stride, pads and dilation, one to three dimensions.

Source: Zhang et al. 2020, "High Performance Depthwise and Pointwise Convolutions on Mobile
Devices", for the reuse of what is loaded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuconv_kernels.array.activations import Function
from gpuconv_kernels.device.spatial import three
from gpuconv_kernels.host.depthwise_weights import conv_backward_weight
from gpuconv_kernels.host.extents import extents_of
from gpuconv_kernels.host.finishing import NOTHING, Finish, finish_of
from gpuconv_kernels.host.kernel import Kernel
from gpuconv_kernels.host.memory import address, view, zeros
from gpuconv_kernels.host.microkernel_code import bounded, bounds
from gpuconv_kernels.host.parallel import run, take
from gpuconv_kernels.host.parts import call
from gpuconv_kernels.host.rows import name_of
from gpuconv_kernels.host.sources import sources
from gpuconv_kernels.host.target import ITEMSIZE, Host, host
from gpuconv_kernels.host.vectors import Emitter, Mix, Width, even, mixed_width

__all__ = ["conv_backward_input", "conv_backward_weight", "conv_forward"]

Array = Any

MOST_OF_A_GROUP = 8
"""Channels and filters of a group; with more, the micro-kernel's vectors are full."""
_LEAST_PRODUCTS = 2**16
"""Multiply-adds of an image from which on compiling kernels for such groups is worth it."""
PIXELS = (8, 4, 1)
"""How many pixels may be computed together, tap by tap."""
_MOST_PIXELS = (14, 16)
"""With joined taps, if the registers hold the sums beside the weights of 7 taps, one or the other
number, so that most rows are cut without rest. Else 8."""
_A_CALL, _A_PIXEL = 4, 12
"""Pixels in whose time a group is begun; and in which one pixel is computed tap by tap."""
_A_KERNEL = 1.03
"""By which part longer a row may take with the first of these numbers, which most rows like: a
kernel less to compile."""
_WEIGHT_BYTES = 64 * 1024
"""Weights of a task; they stay in the L2 cache while its pixels stream by. Pixels whose channels
are cut in parts come slower from memory."""
_ROWS = 4
"""Rows of a task; they read what lies in the L1 cache, but for one row above and one below."""
_LEAST_TASKS = 16
_SPAN = 64
"""Groups of a task."""
_MOST_TAPS = 7
"""Taps of a row that are joined,"""
_FEW_TAPS = 3
_MOST_WEIGHTS = 24
"""if its weights are no more vectors than these: more is long code."""


class Form(NamedTuple):
    """How the taps of a row are joined: one number of x meets several of them.

    Attributes:
        taps: of a row of the window; 1: they are not joined.
        step, split: as above; one of them is 1, the other 1 or 2.
        phase: the remainder of the first window's position by ``split``. A group begins at a
            multiple of ``split``, so it is the same for all.
        left, right: columns that the first and the last pixels of a row lack.
        most: pixels of a group.
    """

    taps: int
    step: int
    split: int
    phase: int
    left: int
    right: int
    most: int

    @classmethod
    def of_row(
        cls, taps: int, step: int, split: int, before: int, input: int, output: int, most: int
    ) -> Form:
        """The form of rows of ``output`` pixels that read rows of ``input``."""
        phase = -before % split
        left = (before + phase) // split - phase
        right = ((output - 1) * step + taps - 1 - before) // split + 1 - input
        # More than the others' windows reach over a border is left to single pixels.
        left, right = (min(max(n, 0), (taps - 1) // split) for n in (left, right))
        return cls(taps, step, split, phase, left, right, most)

    @property
    def cases(self) -> tuple[tuple[int, int, int], ...]:
        """The groups that there is code for: pixels, columns that they lack left and right."""
        sides = [(0, 0), (self.left, 0), (0, self.right)]
        groups = [(pixels, *side) for pixels in (self.most, 4) for side in sides]
        groups += [(8, 0, 0), *((n, self.left, self.right) for n in (self.most, self.most // 2))]
        some = {g for g in groups if self.taps > 1 and sum(g[1:]) < len(self.columns(g[0]))}
        return tuple(sorted(some, reverse=True))

    def columns(self, pixels: int) -> dict[int, list[tuple[int, int]]]:
        """Return which (pixel, tap) each column of a group meets, from left to right."""
        met: dict[int, list[tuple[int, int]]] = {}
        for p in range(pixels):
            for t in range(self.taps):
                column, rest = divmod(p * self.step + t + self.phase, self.split)
                if rest == 0:
                    met.setdefault(column, []).append((p, t))
        return dict(sorted(met.items()))

    def inside(self, pixels: int, left: int, right: int) -> list[int]:
        """Return the columns of a group that lie inside, if it lacks so many."""
        columns = list(self.columns(pixels))
        return columns[left : len(columns) - right]

    def pixels(self, case: int) -> int:
        """Return how many pixels a case of :func:`_sums` computes."""
        apart = len(PIXELS)
        return PIXELS[case] if case < apart else self.cases[case - apart][0]


_APART = Form(1, 1, 1, 0, 0, 0, 1)


@dataclass(frozen=True)
class Plan:
    """What does not depend on the arrays; see :func:`define`.

    Attributes:
        kernel: the compiled kernel.
        tasks: their number.
        form: how the taps of a row are joined.
        sources: of the three dimensions, and the groups of a row; ``tables``: their addresses.
        sizes, cut: what :func:`define` says.
    """

    kernel: Any
    tasks: int
    form: Form
    sources: tuple[Array, ...]
    tables: tuple[int, ...]
    sizes: tuple[int, ...]
    cut: tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def covers(geometry: Any) -> bool:
    """Whether the kernels here are those for a convolution: groups, of few channels each."""
    g = geometry
    small = g.groups > 1 and max(g.in_channels, g.out_channels) <= MOST_OF_A_GROUP * g.groups
    products = math.prod(g.output) * math.prod(g.w_shape)
    return bool(small and (g.is_depthwise or products >= _LEAST_PRODUCTS))


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    activation: Function | None = None,
    residual: Array | None = None,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (*k, C/g, F), ``bias`` (F,) or None.

    ``y`` is contiguous; the others may have any strides, but ``residual``, which is like ``y``: it
    is added before the ``activation``, which is of a kind of ``activations.FORWARD``.
    """
    if y.size:
        w = np.ascontiguousarray(w)
        plan = _plan(geometry, y.dtype, False, host())
        finish = finish_of(name_of(y.dtype), activation, residual is not None)
        added = 0 if residual is None else address(residual) - address(y)
        _gather(x, address(w), w.strides[:-1], bias, y, plan, finish, added)


def conv_backward_input(dy: Array, w: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, C/g, F), as above."""
    g = geometry
    if dx.size:
        # What a filter reads and what is read change places; the last tap comes first.
        split = w.reshape(*g.kernel, g.in_channels // g.groups, g.groups, -1)
        turned = np.flip(split.swapaxes(-3, -1), tuple(range(g.rank)))
        w = np.ascontiguousarray(turned).reshape(*g.kernel, -1, g.in_channels)
        plan = _plan(g, dx.dtype, True, host())
        _gather(dy, address(w), w.strides[:-1], None, dx, plan)


def _gather(
    x: Array,
    w: int,
    w_steps: tuple[int, ...],
    bias: Array | None,
    y: Array,
    plan: Plan,
    finish: Finish = NOTHING,
    added: int = 0,
) -> None:
    if x.strides[-1] != x.itemsize:
        x = np.ascontiguousarray(x)
    bias = zeros(y.shape[-1] * y.itemsize) if bias is None else np.ascontiguousarray(bias)
    run(
        plan.kernel,
        plan.tasks,
        address(x),
        w,
        address(bias),
        address(y),
        *finish,
        added,
        *plan.tables,
        (x.strides[0], *three(x.strides[1:-1], 0)),
        (y.strides[0], *three(y.strides[1:-1], 0)),
        (*three(w_steps[:-1], 0), w_steps[-1]),
        plan.sizes,
        plan.cut,
    )


@functools.lru_cache(maxsize=1024)
def _plan(g: Any, dtype: Any, backward: bool, of: Host) -> Plan:
    input, output, stride, dilation, before, taps = extents_of(g)
    itemsize, one = dtype.itemsize, (1, 1, 1)
    if backward:
        channels, input, output = g.in_channels, output, input
        before = three([d * (k - 1) - b for d, k, b in zip(dilation, taps, before, strict=True)], 0)
        step, split = one, stride
    else:
        channels = g.out_channels
        step, split = stride, one
    each = [
        sources(*along)
        for along in zip(input, output, taps, step, before, dilation, split, strict=True)
    ]
    mix = Mix(*reversed(Mix.of(g))) if backward else Mix.of(g)
    joins = 1 < taps[2] <= _MOST_TAPS and taps[2] * mix.channels <= _MOST_WEIGHTS
    joins = joins and dilation[2] == 1 and step[2] <= 2 and split[2] <= 2
    # Long rows of taps need the registers for pixels that share what is loaded; few products
    # wait for memory, and that brings two lines that lie next to each other sooner.
    narrow = of.registers < 32 or (joins and (taps[2] > _FEW_TAPS or step[2] * split[2] == 1))
    width = mixed_width(channels, dtype.name, of, mix, 1 if narrow else 2)
    if joins:
        many = of.registers >= 32 and mix.channels == width.vectors == 1
        form, groups = _joined_groups(
            *(taps[2], step[2], split[2], before[2], input[2], output[2]),
            _MOST_PIXELS if many else PIXELS[:1],
        )
    else:
        form, groups = _APART, _apart_groups(split[2], each[2][1])

    weight_bytes = math.prod(taps) * mix.channels * width.channels * itemsize
    # The last channels are some of the steps before once more, so they belong to their task.
    chunk, parts = even(channels // width.channels, max(1, _WEIGHT_BYTES // weight_bytes))
    chunk *= width.channels
    span, spans = _spans(groups, form, 1 if joins else split[2])
    lines = g.batch * output[0] * output[1] * spans * parts
    rows, bands = even(output[1], max(1, min(_ROWS, lines // _LEAST_TASKS)))
    tables = (each[0][0], each[1][0], each[2][0], groups)
    return Plan(
        _kernel(dtype.name, width, form, mix),
        g.batch * output[0] * bands * spans * parts,
        form,
        tables,
        tuple(address(table) for table in tables),
        (channels, step[2], 1 if joins else split[2], len(groups), *output, *taps),
        (rows, bands, span, spans, chunk, parts),
    )


def _joined_groups(
    taps: int, step: int, split: int, before: int, input: int, output: int, most: tuple[int, ...]
) -> tuple[Form, Array]:
    """Cut a row of results into groups: first result, case of :func:`_sums`, first column.

    Of all such cuts, with one of the numbers ``most`` as the most pixels of a group, the one that
    should take the least time.
    """
    forms = [Form.of_row(taps, step, split, before, input, output, n) for n in most]
    cuts = [(form, *_cut_row(form, before, input, output)) for form in forms]
    usual = most[0]
    form, groups, _ = min(
        cuts, key=lambda cut: cut[-1] * (_A_KERNEL if cut[0].most != usual else 1)
    )
    return form, np.array(groups, np.int64).reshape(-1, 3)


def _cut_row(
    form: Form, before: int, input: int, output: int
) -> tuple[list[tuple[int, int, int]], int]:
    """Return the groups of the best cut with a form, and its time."""
    singles = len(PIXELS) - 1
    cases = []
    for case, (pixels, left, right) in enumerate(form.cases, len(PIXELS)):
        inside = form.inside(pixels, left, right)
        cases.append((case, pixels, left, right, inside[0], inside[-1]))

    def column(first: int) -> int:
        return (first * form.step - before - form.phase) // form.split

    def groups_with(q: int) -> list[tuple[int, int, int]]:
        """Return a group of each kind that computes result ``q``: first, case, pixels."""
        found = [(q, singles, 1)]
        for case, pixels, left, right, low, high in cases:
            last = output - pixels
            if right == 0:  # the last one that lies inside
                furthest = (input - 1 - high) * form.split + before + form.phase
                last = min(last, furthest // form.step)
            first = min(0 if left else q, last)
            first -= first % form.split
            at = column(first)
            fits = max(q - pixels, -1) < first <= q and at + low >= 0 and at + high < input
            fits = fits and first + pixels <= output
            fits = fits and (left == 0 or at + low == 0) and (right == 0 or at + high + 1 == input)
            if fits:
                found.append((first, case, pixels))
        return found

    def time(group: tuple[int, int, int]) -> int:
        first, case, pixels = group
        return (_A_PIXEL if case == singles else _A_CALL + pixels) + times[first + pixels]

    times, chosen = [0] * (output + 1), [(0, 0, 0)] * output
    for q in reversed(range(output)):
        chosen[q] = min(groups_with(q), key=time)
        times[q] = time(chosen[q])
    groups, q = [], 0
    while q < output:
        first, case, pixels = chosen[q]
        groups.append((first, case, 0 if case == singles else column(first)))
        q = first + pixels
    return groups, times[0]


def _spans(groups: Array, form: Form, split: int) -> tuple[int, int]:
    """Cut a row into spans of so many groups each that no result is in two of them."""
    count = len(groups)
    first: dict[int, int] = {}  # the group that computes a result first
    joint: set[int] = set()  # groups that share a result with one before them, and those between
    for g, (q, case, _) in enumerate(groups.tolist()):
        for p in range(form.pixels(case)):
            joint.update(range(first.setdefault(q + p * split, g) + 1, g + 1))
    most, _ = even(count, _SPAN)
    sizes = (s for s in range(most, most // 2, -1) if joint.isdisjoint(range(s, count, s)))
    span = next(sizes, max(count, 1))
    return span, -(-count // span)


def _apart_groups(split: int, runs: Array) -> Array:
    """The same where taps are not joined: results that lie ``split`` apart, and no columns."""
    groups = []
    for q in range(len(runs)):
        previous = runs[q - split] if q >= split else 0
        if runs[q] == 0 or previous == 0:  # here a run begins
            left = run = max(int(runs[q]), 1)
            while left > 0:
                # The smallest that takes all that is left, moved back; or the largest.
                fitting = [c for c, pixels in enumerate(PIXELS) if pixels <= run]
                case = next((c for c in reversed(fitting) if PIXELS[c] >= left), fitting[0])
                back = max(0, PIXELS[case] - left)
                groups.append((q + (run - left - back) * split, case, 0))
                left -= PIXELS[case] - back
    return np.array(groups, np.int64).reshape(-1, 3)


@functools.cache
def _kernel(dtype: str, width: Width, form: Form, mix: Mix) -> Any:
    return Kernel(define(dtype, width, form, mix), dtype, width, form, mix)


def define(dtype: str, width: Width, form: Form, mix: Mix) -> Callable[..., None]:
    """Return the kernel as a plain function.

    Args:
        dtype: of all arrays.
        width: channels computed together.
        form: how taps are joined.
        mix: which numbers of the source the results of a group read.
    """
    sums = _sums(dtype, width, form, mix)
    together, itemsize = width.channels, ITEMSIZE[dtype]
    apart, integers = len(PIXELS), view("int64")
    pixels = tuple(form.pixels(case) for case in range(apart + len(form.cases)))
    most = max(pixels)
    read, group_of = mix.channels * itemsize, mix.filters

    def convolve(  # type: ignore[no-untyped-def]
        counter, tasks, x, w, bias, y, finish, function, alpha, added, sources0, sources1,
        sources2, groups, x_steps, y_steps, w_steps, sizes, cut,
    ):  # fmt: skip
        # finish, function, alpha: a Finish; added: bytes from y to what is added before, or 0;
        # steps in bytes: (image, depth, height, width) of x and y; (depth, height, width) of w,
        # and from one number that a result's group reads to the next; cut: rows of a band, bands,
        # groups of a span, spans, channels of a part, parts
        channels, step, split, count, depth, height, width, k0, k1, k2 = sizes
        rows, bands, span, spans, chunk, parts = cut
        from0, from1 = integers(sources0, depth * k0), integers(sources1, height * k1)
        from2, group = integers(sources2, width * k2), integers(groups, 3 * count)
        # For each row of results: where the rows of its window begin in x and w, and where taps do.
        line = np.empty((rows, k0 * k1, 2), np.int64)
        table = np.empty((rows, k0 * k1 * k2, 2), np.int64)
        lines, found = np.empty(rows, np.int64), np.empty(rows, np.int64)
        stored = np.empty(rows * most, np.int64)
        task = take(counter)
        while task < tasks:
            first_channel = task % parts * chunk
            last_channel = first_channel + chunk if task % parts + 1 < parts else channels
            rest = task // parts
            start = rest % spans * span
            stop = min(start + span, count)
            rest //= spans
            top = rest % bands * rows
            here = min(rows, height - top)
            p0 = rest // bands % depth
            image = rest // (bands * depth)
            for row in range(here):
                n = 0
                for t0 in range(k0):
                    for t1 in range(k1):
                        j0, j1 = from0[p0 * k0 + t0], from1[(top + row) * k1 + t1]
                        if j0 >= 0 and j1 >= 0:
                            x_line = x + image * x_steps[0] + j0 * x_steps[1] + j1 * x_steps[2]
                            line[row, n, 0] = x_line
                            line[row, n, 1] = w + t0 * w_steps[0] + t1 * w_steps[1]
                            n += 1
                lines[row] = n
            corner = y + image * y_steps[0] + p0 * y_steps[1] + top * y_steps[2]
            for g in range(start, stop):
                q, case, column = group[3 * g], group[3 * g + 1], group[3 * g + 2]
                is_apart = case < apart
                if is_apart:
                    for row in range(here):
                        n = 0
                        for k in range(lines[row]):
                            for t in range(k2):
                                j2 = from2[q * k2 + t]
                                if j2 >= 0:
                                    table[row, n, 0] = line[row, k, 0] + j2 * x_steps[3]
                                    table[row, n, 1] = line[row, k, 1] + t * w_steps[2]
                                    n += 1
                        found[row] = n
                after = 3 * min(g + 1, count - 1)
                for c0 in range(first_channel, last_channel, together):
                    c = min(c0, channels - together)
                    # What is read and written next: these pixels' next channels, or others'.
                    following, x_ahead, y_ahead = min(c0 + together, channels - together), 0, 0
                    if c0 + together >= last_channel:
                        following = first_channel
                        x_ahead = (group[after + 2] - column) * x_steps[3]
                        y_ahead = (group[after] - q) * y_steps[3]
                    from_channel = c // group_of * read
                    x_ahead += following // group_of * read - from_channel
                    y_ahead += (following - c) * itemsize
                    # What these channels of a row read, the next row reads again.
                    for row in range(here):
                        sums(
                            case, table[row].ctypes.data if is_apart else line[row].ctypes.data,
                            found[row] if is_apart else lines[row],
                            column * x_steps[3] + from_channel, c * itemsize,
                            step * x_steps[3] if is_apart else x_steps[3], w_steps[2], w_steps[3],
                            corner + row * y_steps[2] + q * y_steps[3] + c * itemsize,
                            split * y_steps[3], bias + c * itemsize, finish, x_ahead, y_ahead,
                        )  # fmt: skip
                if function:
                    n = 0
                    for row in range(here):
                        for p in range(pixels[case]):
                            stored[n] = corner + row * y_steps[2] + (q + p * split) * y_steps[3]
                            n += 1
                    call(
                        function, stored.ctypes.data, n, first_channel * itemsize,
                        last_channel - first_channel, added, alpha, 0, 0, 0, 0, 0, 0,
                    )  # fmt: skip
            task = take(counter)

    return convolve


def _sums(dtype: str, width: Width, form: Form, mix: Mix) -> Any:
    """Return the function that computes a group of pixels of ``width`` channels.

    Its ``kind`` says which: one of ``PIXELS``, tap by tap, then those of ``form.cases``.
    """
    cases = [(_APART, (pixels, 0, 0)) for pixels in PIXELS]
    cases += [(form, case) for case in form.cases]

    @intrinsic
    def sums(  # type: ignore[no-untyped-def]
        typing_context, kind, table, lines, x_shift, c_shift, x_step, w_step, next_weight, y,
        y_step, bias, finish, x_ahead, y_ahead,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            emitter = Emitter(builder, dtype, width)
            emitter.choose(
                arguments[0],
                [functools.partial(_emit_sums, emitter, mix, c, *arguments[1:]) for c in cases],
            )
            return context.get_dummy_value()

        return types.void(*(types.intp,) * 14), generate

    return sums


def _emit_sums(
    e: Emitter,
    mix: Mix,
    case: tuple[Form, tuple[int, int, int]],
    table: ir.Value,
    lines: ir.Value,
    x_shift: ir.Value,
    c_shift: ir.Value,
    x_step: ir.Value,
    w_step: ir.Value,
    next_weight: ir.Value,
    y: ir.Value,
    y_step: ir.Value,
    bias: ir.Value,
    finish: ir.Value,
    x_ahead: ir.Value,
    y_ahead: ir.Value,
) -> None:
    form, (pixels, left, right) = case
    columns = form.columns(pixels)
    inside = form.inside(pixels, left, right)
    vectors, numbers = range(e.vectors), range(mix.channels)

    def line(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        entry = e.add(table, e.times(index, 16))
        at, w = e.add(e.word(entry), x_shift), e.add(e.word(e.add(entry, 8)), c_shift)
        groups = {}
        # Number after number, so that a sum's next product is far away.
        for i in numbers:
            of_number = e.add(w, e.times(next_weight, i))
            weights = [
                [e.load(e.add(of_number, e.times(w_step, t)), n) for n in vectors]
                for t in range(form.taps)
            ]
            for column in inside:
                if i == 0:
                    from_column = e.add(at, e.times(x_step, column))
                    e.fetch(e.add(from_column, x_ahead))
                    for n in vectors:
                        groups[column, n] = e.load_groups(from_column, n, mix)
                for n in vectors:
                    x = e.of_groups(groups[column, n], i, mix)
                    for p, t in columns[column]:
                        cell = p * e.vectors + n
                        sums[cell] = e.multiply_add(x, weights[t][n], sums[cell])
        return sums

    sums = e.loop(lines, [e.load(bias, n) for n in vectors] * pixels, line)
    limits = bounds(e.builder, e.vector, finish)
    for cell, value in enumerate(sums):
        at = e.add(y, e.times(y_step, cell // e.vectors))
        e.store(bounded(e.builder, value, limits), at, cell % e.vectors)
        if cell % e.vectors == 0:
            e.fetch(e.add(at, y_ahead), write=True)
