// Depthwise convolution, directly: with one input channel a group a matrix product would have
// nothing to reduce over but the taps, and the column matrix would be taps times the input.
//
// There are m = F/C filters an input channel; filter f reads channel f/m. Neighbouring threads
// work on neighbouring filters or channels, so every access is a run of memory; what windows
// share comes from the caches.

#include "common.cuh"
#include "window.cuh"
#include "functions.cuh"

template <int W>
__device__ __forceinline__ void depthwise_rows(
    const REAL* __restrict__ x, const REAL* __restrict__ weights, const REAL* __restrict__ bias,
    REAL* __restrict__ y, const Window& w, int channels, int multiplier, int kind, REAL alpha,
    int64 rows) {
    const int filters = channels * multiplier;
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 r = (int64)blockIdx.x * blockDim.y + threadIdx.y; r < rows; r += step) {
        const Position q = split(r, w.output);
        const int64 sample = q.sample * (w.input[0] * w.input[1] * w.input[2]);
        for (int f = threadIdx.x * W; f < filters; f += blockDim.x * W) {
            const int c = f / multiplier;  // W > 1 only where the multiplier is 1
            Pack<W> total = {};
            for (int t0 = 0; t0 < w.kernel[0]; ++t0) {
                const int i0 = q.at[0] * w.stride[0] - w.lo[0] + t0 * w.dilation[0];
                if (!inside(i0, w.input[0])) continue;
                for (int t1 = 0; t1 < w.kernel[1]; ++t1) {
                    const int i1 = q.at[1] * w.stride[1] - w.lo[1] + t1 * w.dilation[1];
                    if (!inside(i1, w.input[1])) continue;
                    for (int t2 = 0; t2 < w.kernel[2]; ++t2) {
                        const int i2 = q.at[2] * w.stride[2] - w.lo[2] + t2 * w.dilation[2];
                        if (!inside(i2, w.input[2])) continue;
                        const int64 i = sample + in_plane(i0, i1, i2, w.input);
                        const int64 tap = (t0 * w.kernel[1] + t1) * w.kernel[2] + t2;
                        const Pack<W> a = load<W>(x + i * channels + c);
                        const Pack<W> b = load<W>(weights + tap * filters + f);
                        for (int l = 0; l < W; ++l) total.at[l] += a.at[l] * b.at[l];
                    }
                }
            }
            for (int l = 0; l < W; ++l) {
                const REAL sum = bias ? total.at[l] + bias[f + l] : total.at[l];
                total.at[l] = activate(kind, alpha, sum);
            }
            store<W>(y + r * filters + f, total);
        }
    }
}

// grid (any), block (threads over filters, threads over output positions).
extern "C" __global__ void __launch_bounds__(256, 4) depthwise_forward(
    const REAL* __restrict__ x,        // (N, *in, C)
    const REAL* __restrict__ weights,  // (taps, C*m)
    const REAL* __restrict__ bias,     // (C*m,) or null
    REAL* __restrict__ y,              // (N, *out, C*m)
    Window w, int channels, int multiplier, int kind, REAL alpha, int64 rows) {
    const bool wide = multiplier == 1 && channels % LANES == 0;
    if (wide && aligned(x) && aligned(weights) && aligned(y))
        depthwise_rows<LANES>(x, weights, bias, y, w, channels, multiplier, kind, alpha, rows);
    else
        depthwise_rows<1>(x, weights, bias, y, w, channels, multiplier, kind, alpha, rows);
}

template <int W>
__device__ __forceinline__ void depthwise_gather(
    const REAL* __restrict__ dy, const REAL* __restrict__ weights, REAL* __restrict__ dx,
    const Window& w, int channels, int multiplier, int64 positions) {
    const int filters = channels * multiplier;
    const int64 step = (int64)gridDim.x * blockDim.y;
    for (int64 p = (int64)blockIdx.x * blockDim.y + threadIdx.y; p < positions; p += step) {
        const Position i = split(p, w.input);
        const int64 sample = i.sample * (w.output[0] * w.output[1] * w.output[2]);
        for (int c = threadIdx.x * W; c < channels; c += blockDim.x * W) {
            Pack<W> total = {};
            for (int t0 = 0; t0 < w.kernel[0]; ++t0) {
                const int q0 = output_meeting(i.at[0], t0, 0, w);
                if (q0 < 0) continue;
                for (int t1 = 0; t1 < w.kernel[1]; ++t1) {
                    const int q1 = output_meeting(i.at[1], t1, 1, w);
                    if (q1 < 0) continue;
                    for (int t2 = 0; t2 < w.kernel[2]; ++t2) {
                        const int q2 = output_meeting(i.at[2], t2, 2, w);
                        if (q2 < 0) continue;
                        const int64 row = sample + in_plane(q0, q1, q2, w.output);
                        const int64 tap = (t0 * w.kernel[1] + t1) * w.kernel[2] + t2;
                        for (int j = 0; j < multiplier; ++j) {
                            const int f = c * multiplier + j;
                            const Pack<W> a = load<W>(dy + row * filters + f);
                            const Pack<W> b = load<W>(weights + tap * filters + f);
                            for (int l = 0; l < W; ++l) total.at[l] += a.at[l] * b.at[l];
                        }
                    }
                }
            }
            store<W>(dx + p * channels + c, total);
        }
    }
}

// grid (any), block (threads over channels, threads over input positions).
extern "C" __global__ void __launch_bounds__(256, 4) depthwise_backward_input(
    const REAL* __restrict__ dy,       // (N, *out, C*m)
    const REAL* __restrict__ weights,  // (taps, C*m)
    REAL* __restrict__ dx,             // (N, *in, C)
    Window w, int channels, int multiplier, int64 positions) {
    const bool wide = multiplier == 1 && channels % LANES == 0;
    if (wide && aligned(dy) && aligned(weights) && aligned(dx))
        depthwise_gather<LANES>(dy, weights, dx, w, channels, multiplier, positions);
    else
        depthwise_gather<1>(dy, weights, dx, w, channels, multiplier, positions);
}

// First stage of dw[tap, f] = sum over n and output positions q of dy[q, f] * x[input of q and tap].
// A block takes one tap, blockDim.x filters and the output positions of one segment; its threads'
// sums are added in a tree. The segments are added by `finish_sums` (sums.cu).
//
// grid (tiles of filters * taps, segments), block (X over filters, Y over positions), X*Y <= 256
// and Y a power of two.
extern "C" __global__ void __launch_bounds__(256, 4) depthwise_backward_weight(
    const REAL* __restrict__ dy,   // (N, *out, C*m)
    const REAL* __restrict__ x,    // (N, *in, C)
    double* __restrict__ partial,  // (segments, taps, C*m)
    Window w, int channels, int multiplier, int64 rows, int64 per_segment) {
    __shared__ REAL sums[256];
    const int filters = channels * multiplier;
    const int tiles = (filters + blockDim.x - 1) / blockDim.x;
    const int tap = blockIdx.x / tiles;
    const int f = (blockIdx.x - tap * tiles) * blockDim.x + threadIdx.x;
    const int t2 = tap % w.kernel[2];
    const int t1 = tap / w.kernel[2] % w.kernel[1];
    const int t0 = tap / w.kernel[2] / w.kernel[1];
    const int64 begin = blockIdx.y * per_segment;
    const int64 end = begin + per_segment < rows ? begin + per_segment : rows;
    REAL total = 0;
    if (f < filters)
        for (int64 r = begin + threadIdx.y; r < end; r += blockDim.y) {
            const Position q = split(r, w.output);
            const int i0 = q.at[0] * w.stride[0] - w.lo[0] + t0 * w.dilation[0];
            const int i1 = q.at[1] * w.stride[1] - w.lo[1] + t1 * w.dilation[1];
            const int i2 = q.at[2] * w.stride[2] - w.lo[2] + t2 * w.dilation[2];
            if (!inside(i0, w.input[0]) || !inside(i1, w.input[1]) || !inside(i2, w.input[2]))
                continue;
            const int64 i = q.sample * (w.input[0] * w.input[1] * w.input[2]) +
                            in_plane(i0, i1, i2, w.input);
            total += dy[r * filters + f] * x[i * channels + f / multiplier];
        }
    const int me = threadIdx.y * blockDim.x + threadIdx.x;
    sums[me] = total;
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if ((int)threadIdx.y < half) sums[me] += sums[me + half * blockDim.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && f < filters) {
        const int taps = w.kernel[0] * w.kernel[1] * w.kernel[2];
        partial[((int64)blockIdx.y * taps + tap) * filters + f] = sums[me];
    }
}
