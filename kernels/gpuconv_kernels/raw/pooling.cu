// Max and average pooling. A thread makes one output element after the other; neighbouring threads
// have neighbouring channels. The gradients are gathered: each input asks the windows that it
// lies in, so nothing is added by two threads at once.
//
// All kernels: grid (any), block (threads over channels, threads over positions).

#include "common.cuh"
#include "window.cuh"

// The first maximum in row-major order wins, and the first NaN beats every number. A window that
// lies outside of the input altogether gives -inf and the index -1.
extern "C" __global__ void __launch_bounds__(256, 4) max_pool(
    const REAL* __restrict__ x,    // (N, *in, C)
    REAL* __restrict__ y,          // (N, *out, C)
    int64* __restrict__ indices,   // (N, *out, C), row-major in the input's plane; or null
    Window w, int channels, int64 rows) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step) {
        const Position q = split(r, w.output);
        const int64 sample = q.sample * (w.input[0] * w.input[1] * w.input[2]);
        for (int c = threadIdx.x; c < channels; c += blockDim.x) {
            REAL best = -INFINITE;
            int winner = -1;
            for (int t0 = 0; t0 < w.kernel[0]; ++t0) {
                const int i0 = q.at[0] * w.stride[0] - w.lo[0] + t0 * w.dilation[0];
                if (!inside(i0, w.input[0])) continue;
                for (int t1 = 0; t1 < w.kernel[1]; ++t1) {
                    const int i1 = q.at[1] * w.stride[1] - w.lo[1] + t1 * w.dilation[1];
                    if (!inside(i1, w.input[1])) continue;
                    for (int t2 = 0; t2 < w.kernel[2]; ++t2) {
                        const int i2 = q.at[2] * w.stride[2] - w.lo[2] + t2 * w.dilation[2];
                        if (!inside(i2, w.input[2])) continue;
                        const int i = in_plane(i0, i1, i2, w.input);
                        const REAL value = x[(sample + i) * channels + c];
                        const bool first_nan = value != value && best == best;
                        if (winner < 0 || value > best || first_nan) {
                            best = value;
                            winner = i;
                        }
                    }
                }
            }
            y[r * channels + c] = best;
            if (indices) indices[r * channels + c] = winner;
        }
    }
}

// dx[i] = sum of dy over the windows whose index is i.
extern "C" __global__ void __launch_bounds__(256, 4) max_pool_backward(
    const REAL* __restrict__ dy,         // (N, *out, C)
    const int64* __restrict__ indices,   // (N, *out, C)
    REAL* __restrict__ dx,               // (N, *in, C)
    Window w, int channels, int64 positions) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 p = (int64)blockIdx.x * blockDim.y + threadIdx.y; p < positions; p += step) {
        const Position i = split(p, w.input);
        const int64 sample = i.sample * (w.output[0] * w.output[1] * w.output[2]);
        const int me = in_plane(i.at[0], i.at[1], i.at[2], w.input);
        for (int c = threadIdx.x; c < channels; c += blockDim.x) {
            REAL total = 0;
            for (int t0 = w.kernel[0] - 1; t0 >= 0; --t0) {  // falling taps: rising outputs
                const int q0 = output_meeting(i.at[0], t0, 0, w);
                if (q0 < 0) continue;
                for (int t1 = w.kernel[1] - 1; t1 >= 0; --t1) {
                    const int q1 = output_meeting(i.at[1], t1, 1, w);
                    if (q1 < 0) continue;
                    for (int t2 = w.kernel[2] - 1; t2 >= 0; --t2) {
                        const int q2 = output_meeting(i.at[2], t2, 2, w);
                        if (q2 < 0) continue;
                        const int64 row = sample + in_plane(q0, q1, q2, w.output);
                        if (indices[row * channels + c] == me) total += dy[row * channels + c];
                    }
                }
            }
            dx[p * channels + c] = total;
        }
    }
}

// How many elements the window of output q counts in one dimension: those of the input or, with
// include_pad, of the padded input.
__device__ __forceinline__ int counted(int q, int axis, const Window& w, int include_pad) {
    const int start = q * w.stride[axis] - w.lo[axis];
    const int stop = start + w.kernel[axis];
    const int first = include_pad ? -w.lo[axis] : 0;
    const int last = w.input[axis] + (include_pad ? w.hi[axis] : 0);
    const int count = (stop < last ? stop : last) - (start > first ? start : first);
    return count > 0 ? count : 0;
}

// divisor 0: the elements counted, at least 1.
__device__ __forceinline__ REAL divisor_of(
    int q0, int q1, int q2, const Window& w, int include_pad, int divisor) {
    if (divisor != 0) return REAL(divisor);
    const int count = counted(q0, 0, w, include_pad) * counted(q1, 1, w, include_pad) *
                      counted(q2, 2, w, include_pad);
    return REAL(count > 1 ? count : 1);
}

extern "C" __global__ void __launch_bounds__(256, 4) avg_pool(
    const REAL* __restrict__ x,  // (N, *in, C)
    REAL* __restrict__ y,        // (N, *out, C)
    Window w, int channels, int64 rows, int include_pad, int divisor) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step) {
        const Position q = split(r, w.output);
        const int64 sample = q.sample * (w.input[0] * w.input[1] * w.input[2]);
        const REAL by = divisor_of(q.at[0], q.at[1], q.at[2], w, include_pad, divisor);
        for (int c = threadIdx.x; c < channels; c += blockDim.x) {
            REAL total = 0;
            for (int t0 = 0; t0 < w.kernel[0]; ++t0) {
                const int i0 = q.at[0] * w.stride[0] - w.lo[0] + t0 * w.dilation[0];
                if (!inside(i0, w.input[0])) continue;
                for (int t1 = 0; t1 < w.kernel[1]; ++t1) {
                    const int i1 = q.at[1] * w.stride[1] - w.lo[1] + t1 * w.dilation[1];
                    if (!inside(i1, w.input[1])) continue;
                    for (int t2 = 0; t2 < w.kernel[2]; ++t2) {
                        const int i2 = q.at[2] * w.stride[2] - w.lo[2] + t2 * w.dilation[2];
                        if (!inside(i2, w.input[2])) continue;
                        total += x[(sample + in_plane(i0, i1, i2, w.input)) * channels + c];
                    }
                }
            }
            y[r * channels + c] = total / by;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 4) avg_pool_backward(
    const REAL* __restrict__ dy,  // (N, *out, C)
    REAL* __restrict__ dx,        // (N, *in, C)
    Window w, int channels, int64 positions, int include_pad, int divisor) {
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 p = (int64)blockIdx.x * blockDim.y + threadIdx.y; p < positions; p += step) {
        const Position i = split(p, w.input);
        const int64 sample = i.sample * (w.output[0] * w.output[1] * w.output[2]);
        for (int c = threadIdx.x; c < channels; c += blockDim.x) {
            REAL total = 0;
            for (int t0 = w.kernel[0] - 1; t0 >= 0; --t0) {
                const int q0 = output_meeting(i.at[0], t0, 0, w);
                if (q0 < 0) continue;
                for (int t1 = w.kernel[1] - 1; t1 >= 0; --t1) {
                    const int q1 = output_meeting(i.at[1], t1, 1, w);
                    if (q1 < 0) continue;
                    for (int t2 = w.kernel[2] - 1; t2 >= 0; --t2) {
                        const int q2 = output_meeting(i.at[2], t2, 2, w);
                        if (q2 < 0) continue;
                        const int64 row = sample + in_plane(q0, q1, q2, w.output);
                        total += dy[row * channels + c] /
                                 divisor_of(q0, q1, q2, w, include_pad, divisor);
                    }
                }
            }
            dx[p * channels + c] = total;
        }
    }
}
