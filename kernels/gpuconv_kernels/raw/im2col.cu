// The column matrix of a convolution and, for its gradient, the way back (Chellapilla et al. 2006).
//
//     im2col:  x (N, *in, C)  ->  columns (rows, g, taps, C/g)      a row: one output position
//     col2im:  columns        ->  dx (N, *in, C)
//
// Between the two stands cuBLAS. A row lists, group by group, what its window reads; the C/g
// channels of one tap lie next to each other in x and in the row, so they are copied 16 bytes at a
// time where C/g is a multiple of LANES:
//
//     x:    . . [c0 c1 c2 c3][c0 c1 c2 c3][c0 c1 c2 c3] . .      three neighbouring positions
//                     |            |            |
//     row:     [   tap 0    ][   tap 1    ][   tap 2    ] ...
//
// Only rows first .. first + rows - 1 exist at a time: the caller works in chunks.

#include "common.cuh"
#include "window.cuh"

#define TILE 32  // rows of a block

template <int W>
__device__ __forceinline__ void copy_taps(
    const REAL* __restrict__ x, REAL* __restrict__ columns, const Window& w, int channels,
    int groups, int count, int64 row0, const int64* sample, const int* o0, const int* o1,
    const int* o2) {
    const int taps = w.kernel[0] * w.kernel[1] * w.kernel[2];
    const int run = channels / groups / W;  // packs of one tap
    const int depth = groups * taps * run;  // packs of a row
    for (int64 j = (int64)blockIdx.y * 32 + threadIdx.x; j < depth; j += (int64)gridDim.y * 32) {
        const int group = (int)j / (taps * run);
        const int rest = (int)j - group * taps * run;
        const int tap = rest / run;
        const int c = (group * run + rest - tap * run) * W;  // first channel of the pack
        const int t2 = tap % w.kernel[2];
        const int t1 = tap / w.kernel[2] % w.kernel[1];
        const int t0 = tap / w.kernel[2] / w.kernel[1];
        for (int r = threadIdx.y; r < count; r += blockDim.y) {
            const int i0 = o0[r] + t0 * w.dilation[0];
            const int i1 = o1[r] + t1 * w.dilation[1];
            const int i2 = o2[r] + t2 * w.dilation[2];
            Pack<W> values = {};  // padding is zero
            if (inside(i0, w.input[0]) && inside(i1, w.input[1]) && inside(i2, w.input[2]))
                values = load<W>(x + (sample[r] + in_plane(i0, i1, i2, w.input)) * channels + c);
            store<W>(columns + ((row0 + r) * depth + j) * W, values);
        }
    }
}

// grid (ceil(rows / TILE), parts of a row), block (32, 8): neighbouring threads write neighbouring
// packs of one row, and what belongs to a row is computed once a block.
extern "C" __global__ void __launch_bounds__(256, 4) im2col(
    const REAL* __restrict__ x,    // (N, *in, C)
    REAL* __restrict__ columns,    // (rows, g, taps, C/g)
    Window w, int channels, int groups, int64 first, int64 rows) {
    __shared__ int64 sample[TILE];  // the sample's first position in x
    __shared__ int o0[TILE], o1[TILE], o2[TILE];  // where the window begins
    const int64 row0 = (int64)blockIdx.x * TILE;
    const int count = rows - row0 < TILE ? (int)(rows - row0) : TILE;
    const int r = threadIdx.x;
    if (threadIdx.y == 0 && r < count) {
        const Position q = split(first + row0 + r, w.output);
        sample[r] = q.sample * (w.input[0] * w.input[1] * w.input[2]);
        o0[r] = q.at[0] * w.stride[0] - w.lo[0];
        o1[r] = q.at[1] * w.stride[1] - w.lo[1];
        o2[r] = q.at[2] * w.stride[2] - w.lo[2];
    }
    __syncthreads();
    if (channels / groups % LANES == 0 && aligned(x) && aligned(columns))
        copy_taps<LANES>(x, columns, w, channels, groups, count, row0, sample, o0, o1, o2);
    else
        copy_taps<1>(x, columns, w, channels, groups, count, row0, sample, o0, o1, o2);
}

// What all taps give to W channels of one input position.
template <int W>
__device__ __forceinline__ Pack<W> gather_taps(
    const REAL* __restrict__ columns, const Window& w, const Position& i, int channels,
    int groups, int c, int64 first, int64 rows, Pack<W> total) {
    const int per_group = channels / groups;
    const int taps = w.kernel[0] * w.kernel[1] * w.kernel[2];
    const int group = c / per_group;
    const REAL* from = columns + (int64)group * taps * per_group + (c - group * per_group);
    const int64 sample = i.sample * (w.output[0] * w.output[1] * w.output[2]) - first;
    for (int t0 = 0; t0 < w.kernel[0]; ++t0) {
        const int q0 = output_meeting(i.at[0], t0, 0, w);
        if (q0 < 0) continue;
        for (int t1 = 0; t1 < w.kernel[1]; ++t1) {
            const int q1 = output_meeting(i.at[1], t1, 1, w);
            if (q1 < 0) continue;
            for (int t2 = 0; t2 < w.kernel[2]; ++t2) {
                const int q2 = output_meeting(i.at[2], t2, 2, w);
                const int64 row = sample + in_plane(q0, q1, q2, w.output);
                if (q2 < 0 || row < 0 || row >= rows) continue;  // another chunk's row
                const int tap = (t0 * w.kernel[1] + t1) * w.kernel[2] + t2;
                const Pack<W> part =
                    load<W>(from + row * taps * channels + (int64)tap * per_group);
                for (int l = 0; l < W; ++l) total.at[l] += part.at[l];
            }
        }
    }
    return total;
}

template <int W>
__device__ __forceinline__ void gather_positions(
    const REAL* __restrict__ columns, REAL* __restrict__ dx, const Window& w, int channels,
    int groups, int64 first, int64 rows, int64 start, int64 stop, int accumulate) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 p = start + (int64)blockIdx.x * blockDim.y + threadIdx.y; p < stop; p += step) {
        const Position i = split(p, w.input);
        for (int c = threadIdx.x * W; c < channels; c += blockDim.x * W) {
            REAL* to = dx + p * channels + c;
            Pack<W> total = {};
            if (accumulate) total = load<W>(to);
            store<W>(to, gather_taps<W>(columns, w, i, channels, groups, c, first, rows, total));
        }
    }
}

// grid (any), block (threads over channels, threads over positions). Writes dx at the input
// positions start .. stop - 1 (counted through all samples), or adds to it if `accumulate`. Each
// element is summed by one thread, tap after tap: always the same bits.
extern "C" __global__ void __launch_bounds__(256, 4) col2im(
    const REAL* __restrict__ columns,  // (rows, g, taps, C/g): output positions first, first + 1, ...
    REAL* __restrict__ dx,             // (N, *in, C)
    Window w, int channels, int groups, int64 first, int64 rows, int64 start, int64 stop,
    int accumulate) {
    if (channels / groups % LANES == 0 && aligned(columns) && aligned(dx))
        gather_positions<LANES>(
            columns, dx, w, channels, groups, first, rows, start, stop, accumulate);
    else
        gather_positions<1>(columns, dx, w, channels, groups, first, rows, start, stop, accumulate);
}
