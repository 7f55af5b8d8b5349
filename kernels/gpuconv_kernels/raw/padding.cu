// Padding of the spatial dimensions, and its gradient. `input` of the window is the un-padded
// extent, `output` the padded one.
//
// Both kernels: grid (any), block (threads over channels, threads over positions).

#include "common.cuh"
#include "window.cuh"

enum Mode { ZEROS, REFLECT, REPLICATE, CIRCULAR };

// The input index that stands at position i (counted in the input, so negative in the left
// padding), or -1 where a zero stands.
__device__ __forceinline__ int source(int mode, int i, int extent) {
    if (inside(i, extent)) return i;
    if (mode == REFLECT) return i < 0 ? -i : 2 * (extent - 1) - i;
    if (mode == REPLICATE) return i < 0 ? 0 : extent - 1;
    if (mode == CIRCULAR) return i < 0 ? i + extent : i - extent;
    return -1;
}

extern "C" __global__ void __launch_bounds__(256, 4) pad(
    const REAL* __restrict__ x,  // (N, *in, C)
    REAL* __restrict__ y,        // (N, *padded, C)
    Window w, int channels, int mode, int64 rows) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step) {
        const Position q = split(r, w.output);
        const int i0 = source(mode, q.at[0] - w.lo[0], w.input[0]);
        const int i1 = source(mode, q.at[1] - w.lo[1], w.input[1]);
        const int i2 = source(mode, q.at[2] - w.lo[2], w.input[2]);
        const bool real = i0 >= 0 && i1 >= 0 && i2 >= 0;
        const int64 i = q.sample * (w.input[0] * w.input[1] * w.input[2]) +
                        in_plane(i0, i1, i2, w.input);
        for (int c = threadIdx.x; c < channels; c += blockDim.x)
            y[r * channels + c] = real ? x[i * channels + c] : REAL(0);
    }
}

struct Run {
    int first, stop;
};

// The padded positions that show input i: part 0 in the left padding, 1 the input itself, 2 in the
// right padding. Each part is a run of positions, mostly one or none.
__device__ __forceinline__ Run shown(int mode, int part, int i, int axis, const Window& w) {
    const int extent = w.input[axis], lo = w.lo[axis], hi = w.hi[axis];
    const Run none = {0, 0};
    if (part == 1) return {lo + i, lo + i + 1};
    if (mode == ZEROS) return none;
    const int begin = part == 0 ? 0 : lo + extent;
    const int end = part == 0 ? lo : lo + extent + hi;
    int p;
    if (mode == REPLICATE) {
        if (i != (part == 0 ? 0 : extent - 1)) return none;
        return {begin, end};
    } else if (mode == REFLECT) {
        p = part == 0 ? lo - i : lo + 2 * (extent - 1) - i;
    } else {
        p = part == 0 ? lo + i - extent : lo + i + extent;
    }
    if (p < begin || p >= end) return none;
    return {p, p + 1};
}

extern "C" __global__ void __launch_bounds__(256, 4) pad_backward(
    const REAL* __restrict__ dy,  // (N, *padded, C)
    REAL* __restrict__ dx,        // (N, *in, C)
    Window w, int channels, int mode, int64 positions) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 p = (int64)blockIdx.x * blockDim.y + threadIdx.y; p < positions; p += step) {
        const Position i = split(p, w.input);
        const int64 sample = i.sample * (w.output[0] * w.output[1] * w.output[2]);
        for (int c = threadIdx.x; c < channels; c += blockDim.x) {
            REAL total = 0;
            for (int part0 = 0; part0 < 3; ++part0) {
                const Run run0 = shown(mode, part0, i.at[0], 0, w);
                for (int q0 = run0.first; q0 < run0.stop; ++q0)
                    for (int part1 = 0; part1 < 3; ++part1) {
                        const Run run1 = shown(mode, part1, i.at[1], 1, w);
                        for (int q1 = run1.first; q1 < run1.stop; ++q1)
                            for (int part2 = 0; part2 < 3; ++part2) {
                                const Run run2 = shown(mode, part2, i.at[2], 2, w);
                                for (int q2 = run2.first; q2 < run2.stop; ++q2) {
                                    const int64 row = sample + in_plane(q0, q1, q2, w.output);
                                    total += dy[row * channels + c];
                                }
                            }
                    }
            }
            dx[p * channels + c] = total;
        }
    }
}
