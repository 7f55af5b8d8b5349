"""Direct convolution: a tile of the input in shared memory, for few input channels a group.

With few channels (the first layer of a network, depthwise and finely grouped layers) the sums are
short, and a matrix product of columns would mostly move columns. Here a block copies the inputs
that its outputs need once (halo.py has the picture of it), and the weights of some kernel rows
beside them; every number in shared memory then serves several products from registers::

    one thread                      shared memory
    P outputs of one row,           x[c, row, w ... ]      (P-1)*s + (k-1)*d + 1 numbers of a row
    Q filters each                        | | | |          slide along the kernel's width
    acc[p, q]  +=  x[p*s + t*d]  *  w[t, c, q]
                                          |
                                    w[row, c, t, filters]  16 bytes a read, the same for all
                                                           threads of the warp at other positions

    one block    lanes side by side hold neighbouring filters (stores are coalesced), slots stand
                 at other positions of the tile; the kernel's rows are staged several at a time

The kernel's width, its stride and dilation are constants of the compiled code where they are
usual, so that the loop over taps is unrolled and an input is read once for all taps that meet it.

The gradient with respect to the input runs on the same kernel: each phase of a stride is a
convolution of ``dy`` with some taps in reverse order, whose results lie ``stride`` apart in ``dx``.
The weights are read where they lie, through strides; there is no workspace.

Limits: at most 8 input channels a group (for the gradient: filters a group); the smallest tile must
fit into 48 KiB. direct_plans.py decides it and says why not. One to three spatial dimensions, any
stride, pads (also negative ones), dilation and groups.

Source: Li et al. 2016, "Performance Analysis of GPU-based Convolutional Neural Networks"
(what direct convolution is good for); NVIDIA, "CUDA C++ Best Practices Guide", shared memory.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv_kernels.device import direct_plans, halo
from gpuconv_kernels.device.direct_plans import UNROLLED, Variant, plan_of
from gpuconv_kernels.device.functions import forward_function
from gpuconv_kernels.device.halo import TRIPLE, Extents, int32, int64, integers, uint32, uint64
from gpuconv_kernels.device.launch import Array, ceil_div, elementwise_grid, is_aligned, launch
from gpuconv_kernels.device.target import (
    ALIGNMENT,
    KernelSpec,
    compiled,
    copy16,
    cuda,
    flat,
    inlined,
    lanes,
    real,
    types,
)

_FUSED = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh", "exponential"
)  # fmt: skip


# --- kernel ----------------------------------------------------------------------------


def _kernel_function(dtype: str, variant: Variant, kind: str | None, threads: int) -> Any:
    number, activate = real(dtype), forward_function(kind, dtype)
    RUN, VECTORS, VECTOR = variant.run, variant.vectors, variant.vector
    FILTERS = VECTORS * VECTOR
    RESULTS, FUSED, THREADS = RUN * FILTERS, kind is not None, threads
    CHUNK = _chunk(dtype, variant, threads)
    TAPS, STRIDE, DILATION = variant.taps, variant.stride, variant.dilation
    TAPS_AT_ONCE = max(TAPS, 1)
    TEAMS = threads >> halo.TEAM_BITS
    load_tile, locate, place_in_tile = halo.load_tile, halo.locate, halo.place_in_tile
    divide = halo.divide

    @inlined
    def finish(acc, first, shared, y, alpha, scattered, count, target, step, f, lane_bits, filters):  # type: ignore[no-untyped-def]
        """Apply the function to ``CHUNK`` results, and store them one by one if ``scattered``.

        Registers have no index that is known only when this runs. So that the code for a result
        stands here once, and not once for each of them, they go through shared memory.
        """
        thread = int32(cuda.threadIdx.x)
        for i in range(CHUNK):
            shared[uint32(thread + i * THREADS)] = acc[first + i]
        j = int32(0)
        while j < CHUNK:
            at = uint32(thread + int32(j * THREADS))
            value = activate(shared[at], alpha)
            shared[at] = value
            if scattered:
                p = int32(int32(j + first) // FILTERS)
                q = int32(int32(j + first) - int32(p * FILTERS))
                v = int32(q // VECTOR)
                neighbour = int32(
                    int32(f + (int32(v * VECTOR) << lane_bits)) + q - int32(v * VECTOR)
                )
                if p < count and neighbour < filters:
                    y[uint64(target + p * step + neighbour)] = value
            j = int32(j + int32(1))
        if not scattered:
            for i in range(CHUNK):
                acc[first + i] = shared[uint32(thread + i * THREADS)]

    def direct(  # type: ignore[no-untyped-def]
        x, w, bias, y, alpha, has_bias, wide,
        sizes, source, window, strides, dilations, pads,
        tile, around, tiles, cut, weight_steps, extents, place_steps, place,
    ):  # fmt: skip
        # wide: whether results are stored 16 bytes at a time; sizes (C, F, C/g, F/g); source and
        # extents: spatial extents of x and y; tile, around: outputs of a tile, and its inputs
        # with the halo; cut (lane bits, channels of a tile, their bits in loads, plane, kernel
        # rows of a stage, parts of the filters, runs of a tile); weight_steps: see conv_forward;
        # place, place_steps: extents of the array that y is, steps and offsets in it
        shared = cuda.shared.array(0, number, alignment=ALIGNMENT)
        acc = cuda.local.array(RESULTS, number)
        weight = cuda.local.array(FILTERS, number)
        thread = int32(cuda.threadIdx.x)
        lane_bits, stage, runs = cut[0], cut[4], cut[6]
        lane = thread & int32(int32(int32(1) << lane_bits) - int32(1))
        width = int32(int32(FILTERS) << lane_bits)
        filters, group_channels, group_filters = sizes[1], sizes[2], sizes[3]
        sample, d0, h0, w0, part = locate(int32(cuda.blockIdx.x), cut[5], tiles)
        f0 = int32(part * width)
        c0 = int32(divide(f0, group_filters) * group_channels)
        d0, h0, w0 = int32(d0 * tile[0]), int32(h0 * tile[1]), int32(w0 * tile[2])

        # Where this thread computes. Idle slots compute what slot 0 does, and store nothing.
        slot = int32(thread >> lane_bits)
        busy = slot < int32(int32(tile[0] * tile[1]) * runs)
        if not busy:
            slot = int32(0)
        d, h, run = place_in_tile(slot, tile[1], runs)
        mine = min(int32(f0 + int32(lane * int32(VECTOR))), int32(filters - int32(1)))
        c = int32(int32(divide(mine, group_filters) * group_channels) - c0)
        rows = int32(window[0] * window[1])
        weights_end = int32(int32(int32(stage * group_channels) * window[2]) * width)
        line = int32(int32(int32(d * strides[0]) * around[1]) + int32(h * strides[1]))
        corner = int32(
            int32(weights_end + int32(c * cut[3]))
            + int32(int32(line * around[2]) + int32(int32(run * int32(RUN)) * strides[2]))
        )

        # Which filter's weights this thread copies.
        copied = int32(f0 + (thread & int32(width - int32(1))))
        group = divide(copied, group_filters)
        from_filter = int32(
            int32(weight_steps[0] + int32(group * weight_steps[5]))
            + int32(int32(copied - int32(group * group_filters)) * weight_steps[6])
        )
        first_tap = divide(thread, width)
        tap_step = divide(int32(threads), width)

        load_tile(
            shared, weights_end, cut[3], around, x, sample,
            (
                int32(int32(d0 * strides[0]) - pads[0]),
                int32(int32(h0 * strides[1]) - pads[1]),
                int32(int32(w0 * strides[2]) - pads[2]),
            ),
            source, sizes[0], (c0, cut[1]), cut[2], int32(TEAMS),
        )  # fmt: skip
        # Sums begin with the bias. Neither branches nor loops in loops here: newer compilers would
        # not unroll them, and the results would not be in registers.
        for i in range(FILTERS):
            f = int32(f0 + (int32(i // VECTOR * VECTOR) << lane_bits))
            f = int32(f + int32(int32(lane * int32(VECTOR)) + int32(i % VECTOR)))
            value = bias[uint32(min(f, int32(filters - int32(1))))]
            weight[i] = value if has_bias else number(0)
        for i in range(RESULTS):
            acc[i] = weight[i & (FILTERS - 1)]

        row = int32(0)
        kd, kh = int32(0), int32(0)  # of the row that is computed
        stage_d, stage_h = int32(0), int32(0)  # of the row whose weights are copied
        while row < rows:
            end = min(int32(row + stage), rows)
            if row > 0:
                cuda.syncthreads()  # until the weights of the last stage are not needed any more
            into = int32(thread & int32(width - int32(1)))
            for _ in range(int32(end - row)):
                for ci in range(group_channels):
                    kw = first_tap
                    while kw < window[2]:
                        value = number(0)
                        if copied < filters:
                            step = int32(
                                int32(stage_d * weight_steps[1]) + int32(stage_h * weight_steps[2])
                            )
                            step = int32(step + int32(kw * weight_steps[3]))
                            step = int32(step + int32(ci * weight_steps[4]))
                            value = w[uint32(int32(from_filter + step))]
                        shared[uint32(into + int32(kw * width))] = value
                        kw = int32(kw + tap_step)
                    into = int32(into + int32(window[2] * width))
                stage_h = int32(stage_h + int32(1))
                if stage_h == window[1]:
                    stage_h = int32(0)
                    stage_d = int32(stage_d + int32(1))
            cuda.syncthreads()
            weights = int32(lane * int32(VECTOR))
            for _ in range(int32(end - row)):
                line = int32(int32(kd * dilations[0]) * around[1])
                line = int32(line + int32(kh * dilations[1]))
                from_x = int32(corner + int32(line * around[2]))
                for _ in range(group_channels):
                    kw = int32(0)
                    while kw < (int32(TAPS) if TAPS else window[2]):
                        at = uint64(int32(from_x + int32(kw * dilations[2])))
                        t = int32(0)
                        while t < int32(TAPS_AT_ONCE):  # unrolled where it is short
                            here = at + uint64(int32(t * int32(DILATION)))
                            for v in range(VECTORS):
                                source_at = uint32(
                                    int32(weights + (int32(v * VECTOR) << lane_bits))
                                )
                                if VECTOR == 1:
                                    weight[v] = shared[source_at]
                                else:
                                    copy16(weight, v * VECTOR, shared, source_at)
                            for p in range(RUN):
                                if TAPS:
                                    value = shared[here + uint64(p * STRIDE)]
                                else:
                                    value = shared[at + uint64(p * strides[2])]
                                for q in range(FILTERS):
                                    acc[p * FILTERS + q] += value * weight[q]
                            weights = int32(weights + width)
                            t = int32(t + int32(1))
                        kw = int32(kw + int32(TAPS_AT_ONCE))
                    from_x = int32(from_x + cut[3])
                kh = int32(kh + int32(1))
                if kh == window[1]:
                    kh = int32(0)
                    kd = int32(kd + int32(1))
            row = end

        d, h, first = int32(d0 + d), int32(h0 + h), int32(w0 + int32(run * int32(RUN)))
        count = int32(0)  # of the run's outputs that exist
        if busy and d < extents[0] and h < extents[1]:
            count = int32(extents[2] - first)
        target = int64(sample) * place[0] + (d * place_steps[0] + place_steps[3])
        target = target * place[1] + (h * place_steps[1] + place_steps[4])
        target = target * place[2] + (first * place_steps[2] + place_steps[5])
        target, step = target * filters, int64(place_steps[2]) * filters
        f = int32(f0 + int32(lane * int32(VECTOR)))
        scattered = VECTOR > 1 and wide == 0
        if FUSED or scattered:
            cuda.syncthreads()  # until nobody reads the tile any more
            finish(acc, 0, shared, y, alpha, scattered, count, target, step, f, lane_bits, filters)
            if RESULTS > CHUNK:
                finish(
                    acc, CHUNK, shared, y, alpha, scattered, count, target, step, f,
                    lane_bits, filters,
                )  # fmt: skip
        if not scattered:
            for p in range(RUN):
                if p < count:
                    for v in range(VECTORS):
                        neighbour = int32(f + (int32(v * VECTOR) << lane_bits))
                        if neighbour < filters:
                            if VECTOR > 1:
                                copy16(y, target + neighbour, acc, p * FILTERS + v * VECTOR)
                            else:
                                y[uint64(target + neighbour)] = acc[p]
                target += step

    return direct


def _chunk(dtype: str, variant: Variant, threads: int) -> int:
    """Results of each thread that go through shared memory at a time: all of them, or half."""
    results = variant.run * variant.vectors * variant.vector
    return results if results * threads * np.dtype(dtype).itemsize <= 32 * 1024 else results // 2


def _min_blocks(dtype: str, variant: Variant) -> int:
    """Blocks of a multiprocessor; without a number the assembler saves registers and spills.

    One filter a thread waits for memory more than it computes, so more blocks help. Three taps at
    stride 2 keep 17 inputs of a row and need a few registers more than two blocks leave on sm_75.
    """
    if variant.vectors > 1 and (variant.taps, variant.stride) == (3, 2):
        return 1
    blocks = 4 if variant.vectors * variant.vector == 1 else 2
    return blocks if dtype == "float32" else blocks // 2


def _zero(y):  # type: ignore[no-untyped-def]
    i = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    while i < y.size:
        y[uint64(i)] = 0
        i += int64(cuda.gridDim.x) * cuda.blockDim.x


@functools.cache
def _zero_kernel(dtype: str) -> Any:
    return compiled(_zero, 256)


@functools.cache
def _kernel(dtype: str, variant: Variant, kind: str | None) -> Any:
    function = _kernel_function(dtype, variant, kind, direct_plans.THREADS)
    return compiled(function, direct_plans.THREADS, _min_blocks(dtype, variant))


# --- launchers -------------------------------------------------------------------------


def conv_forward(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    geometry: Any,
    kind: str | None = None,
    alpha: float = 0.0,
) -> None:
    """Write ``y`` (N, *out, F) from ``x`` (N, *in, C), ``w`` (*k, C/g, F) and ``bias`` (F,).

    ``kind`` and ``alpha`` name the function that is applied to the sums (functions.py), or None.

    Raises:
        ValueError: ``direct_plans.supports`` gives a reason why not.
    """
    g = geometry
    # The first weight, steps along depth, height, width, channels of a group, groups, filters.
    d, h, w_tap = _weight_steps(g)
    filters = g.out_channels
    group_filters = filters // g.groups
    weight_steps = (0, d, h, w_tap, filters, group_filters, 1)
    extents = halo.volume(g.output, 1)
    _convolve(x, w, bias, y, g, weight_steps, extents, (1, 1, 1, 0, 0, 0), kind, alpha)


def conv_backward_input(dy: Array, w: Array, dx: Array, geometry: Any) -> None:
    """Write ``dx`` (N, *in, C) from ``dy`` (N, *out, F) and ``w`` (*k, C/g, F).

    One launch for each phase of the stride; see ``ConvGeometry.backward_input_phases``. It needs no
    workspace.

    Raises:
        ValueError: ``direct_plans.supports_backward_input`` gives a reason why not.
    """
    g = geometry
    filters = g.out_channels
    extents, stride = halo.volume(g.input, 1), halo.volume(g.stride, 1)
    steps = _weight_steps(g)
    if g.batch and any(phase.geometry is None for phase in g.backward_input_phases):
        launch(_zero_kernel(str(dx.dtype)), *elementwise_grid(dx.size), dx)
    for phase in g.backward_input_phases:
        if phase.geometry is None:  # no tap reaches it: zeros
            continue
        place_steps = (*stride, *halo.volume(phase.offset, 0))
        taps = ((0,),) * (3 - g.rank) + tuple(phase.taps)
        first = sum(t[0] * step for t, step in zip(taps, steps, strict=True))
        # Consecutive taps are the same number of positions apart.
        along = [
            (t[1] - t[0]) * step if len(t) > 1 else 0 for t, step in zip(taps, steps, strict=True)
        ]
        weight_steps = (first, *along, 1, filters // g.groups, filters)
        _convolve(dy, w, None, dx, phase.geometry, weight_steps, extents, place_steps, None, 0.0)


def _weight_steps(g: Any) -> Extents:
    """Distances in ``w`` between taps that are neighbours along each dimension."""
    w = (g.in_channels // g.groups) * g.out_channels
    _, kernel_h, kernel_w = halo.volume(g.kernel, 1)
    return w * kernel_w * kernel_h, w * kernel_w, w


def _convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    g: Any,
    weight_steps: tuple[int, ...],
    place: Extents,
    place_steps: tuple[int, ...],
    kind: str | None,
    alpha: float,
) -> None:
    dtype = str(x.dtype)
    plan = plan_of(g, dtype)
    if isinstance(plan, str):
        raise ValueError(f"{plan}. Received: {g}")
    if g.batch == 0:
        return
    variant, threads = plan.variant, direct_plans.THREADS
    wide = g.out_channels % variant.vector == 0 and is_aligned(y)
    output, tile = halo.volume(g.output, 1), plan.tile
    tiles, parts = halo.tiles_of(output, tile), ceil_div(g.out_channels, plan.width)
    itemsize = np.dtype(dtype).itemsize
    plane = halo.odd(math.prod(plan.halo))
    group_channels = g.in_channels // g.groups
    kernel = halo.volume(g.kernel, 1)
    weights = plan.rows * group_channels * kernel[2] * plan.width
    launch(
        _kernel(dtype, variant, kind),
        g.batch * math.prod(tiles) * parts,
        threads,
        x,
        w,
        w if bias is None else bias,
        y,
        np.dtype(dtype).type(alpha),
        int(bias is not None),
        int(wide),
        integers(g.in_channels, g.out_channels, group_channels, g.out_channels // g.groups),
        integers(*halo.volume(g.input, 1)),
        integers(*kernel),
        integers(*halo.volume(g.stride, 1)),
        integers(*halo.volume(g.dilation, 1)),
        integers(*halo.volume([lo for lo, _ in g.pads], 0)),
        integers(*tile),
        integers(*plan.halo),
        integers(*tiles),
        integers(
            plan.lane_bits,
            plan.channels,
            halo.bits_for(plan.channels, halo.TEAM_BITS),
            plane,
            plan.rows,
            parts,
            tile[2] // variant.run,
        ),
        integers(*weight_steps),
        integers(*output),
        integers(*place_steps),
        integers(*place),
        shared_bytes=max(weights + plan.channels * plane, _chunk(dtype, variant, threads) * threads)
        * itemsize,
    )


def catalogue() -> Iterator[KernelSpec]:
    """Yield every kernel of this file as it is used."""
    for dtype, run in (("float32", 8), ("float64", 4)):
        vector = lanes(dtype)
        taps = [(0, 0, 0), *((k, s, 1) for k, s in itertools.product(UNROLLED, (1, 2)))]
        for filters in ((1, 1), (1, vector), (8 // vector, vector)):
            for constants in taps:
                yield _spec(dtype, Variant(run, *filters, *constants), None)
        for kind in _FUSED:
            yield _spec(dtype, Variant(run, 8 // vector, vector, 3, 1, 1), kind)
        yield KernelSpec(f"zero[{dtype}]", _zero, (flat(dtype),), 256)


def _spec(dtype: str, variant: Variant, kind: str | None) -> KernelSpec:
    def numbers(count: int) -> Any:
        return types.UniTuple(types.int32, count)

    threads = 256
    array, count = flat(dtype), types.int32
    signature = (
        *(array,) * 4, real(dtype), count, count, numbers(4), *(TRIPLE,) * 8,
        numbers(7), numbers(7), TRIPLE, numbers(6), TRIPLE,
    )  # fmt: skip
    fused = f", {kind}" if kind else ""
    return KernelSpec(
        f"direct[{dtype}, {variant}{fused}]",
        _kernel_function(dtype, variant, kind, threads),
        signature,
        threads,
        dynamic_shared_bytes=halo.SHARED_BYTES,
        min_blocks=_min_blocks(dtype, variant),
        arithmetic=True,
    )
